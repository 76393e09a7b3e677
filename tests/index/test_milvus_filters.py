"""Filters for Milvus: nothing that a user wrote reaches an expression, and SQLite is asked what Milvus cannot say."""

import json
import re
from typing import Any

import pytest
from salm_index import QueryError, RowError
from salm_index.milvus_filters import EVERYTHING, MAX_FACTS, NOTHING, facts_of, narrow, path_hex
from salm_index.rows import Row

HOSTILE = [
    'a"b',
    "a'b",
    "back\\slash",
    "100%",
    "under_score",
    "line\nbreak",
    "tab\t\r",
    "Ünï🎧",
    '" or id != "',
    "\\",
    "[x]",
]
SAFE = re.compile(r'[a-z_0-9 ()\[\],.<>=!%"+-]*')


def row(path: str = "a.wav", start_s: float = 0.0, metadata: str = "{}") -> Row:
    return Row(path, start_s, start_s + 1, None, None, None, metadata)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_user_is_never_part_of_an_expression(text: str) -> None:
    for where in ({"path": text}, {"path": [text, "x"]}, {"content_hash": text}, {"label": text}, {"label": [text]}):
        expression = narrow(where).expression
        assert SAFE.fullmatch(expression), expression
        assert text not in re.sub(r'"[0-9a-f]*"', "", expression)
    digest = narrow({"label": text}).expression.split('"')[1]
    (facts,) = facts_of([row(metadata=f'{{"label": {json.dumps(text)}}}')])
    assert digest in facts
    assert narrow({"label": text + "x"}).expression.split('"')[1] not in facts


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        (None, ""),
        ({}, ""),
        ({"azimuth_deg": (157.5, -157.5)}, "(azimuth_deg >= 157.5 or azimuth_deg <= -157.5)"),
        ({"azimuth_deg": (0, 360)}, "(azimuth_deg is not null)"),
        ({"azimuth_deg": -200}, "(azimuth_deg == 160.0)"),
        ({"azimuth_deg": None}, "(azimuth_deg is null)"),
        ({"start_s": (1, None), "end_s": (None, 9)}, "(start_s >= 1.0) and (end_s <= 9.0)"),
        ({"start_s": (None, None)}, f"({EVERYTHING})"),
        ({"elevation_deg": (None, None)}, "(elevation_deg is not null)"),
        ({"path": None}, f"({NOTHING})"),
        ({"path": "*"}, f"({EVERYTHING})"),
        ({"path": "a"}, '(path_hex == "61")'),
        ({"path": "a*"}, '(path_hex like "61%")'),
        ({"path": "a*b"}, '(path_hex like "61%62")'),
    ],
)
def test_what_milvus_can_say_exactly(where: Any, expression: str) -> None:
    assert narrow(where)[:2] == (expression, True)


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        ({"path": "a?b"}, '(path_hex like "61%62")'),
        ({"path": "a*x*b"}, '(path_hex like "61%62")'),
        ({"path": "a[1].wav"}, '(path_hex like "61%")'),
        ({"path": "*a*"}, f"({EVERYTHING})"),
    ],
)
def test_what_milvus_can_only_narrow_down(where: Any, expression: str) -> None:
    assert narrow(where)[:2] == (expression, False)


def test_what_is_narrowed_down_is_asked_of_sqlite() -> None:
    narrowed = narrow({"path": "a[1]?", "snr": (0, 2)})
    values = ("1", "3", '"1"', "null")
    rows = [row("a1x", number, f'{{"snr": {snr}}}') for number, snr in enumerate(values)]
    assert narrowed.matches([*rows, row("a[1]?", metadata='{"snr": 2}'), row("a2x", metadata='{"snr": 1}')]) == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]


def test_values_are_equal_as_sqlite_has_them() -> None:
    def asked(value: Any) -> str:
        return narrow({"n": value}).expression.split('"')[1]

    (facts,) = facts_of([row(metadata='{"n": 7}')])
    assert asked(7) in facts and asked(7.0) in facts
    assert asked("7") not in facts and asked(8) not in facts
    (facts,) = facts_of([row(metadata='{"n": true, "gone": null, "none": []}')])
    assert asked(True) in facts and asked(1) in facts
    assert len(facts) == 4  # two names that have a value, each with it; a null is no value


def test_paths_in_hexadecimal_keep_prefix_and_suffix() -> None:
    for text in HOSTILE:
        assert path_hex(f"x{text}y").startswith(path_hex(f"x{text}"))
        assert bytes.fromhex(path_hex(text)).decode() == text


def test_mistakes_are_those_of_a_local_index() -> None:
    for where in ({"azimuth_deg": "north"}, {"path": 3}, {"n": (2, 1)}, {'a"b': 1}, [("path", "a")]):
        with pytest.raises(QueryError, match="where: "):
            narrow(where)  # type: ignore[arg-type]
    many = ", ".join(f'"m{number}": {number}' for number in range(MAX_FACTS // 2 + 1))
    with pytest.raises(RowError, match="at most 2048 fields"):
        facts_of([row(metadata=f"{{{many}}}")])
