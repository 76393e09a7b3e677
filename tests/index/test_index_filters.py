"""Filters by arrays of numbers, by SQL, and by what was found before give the same windows."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from salm_index import Index, IndexCorruptError, files, selections
from salm_index.filters import parse_filter
from salm_index.header import read_header
from salm_index.numbers import NUMBER_COLUMNS

COUNT = 200
ROWS_NAME = "rows-00000001.sqlite"

NUMBER_FILTERS: list[dict[str, Any]] = [
    {"azimuth_deg": (22.5, 67.5)},
    {"azimuth_deg": (157.5, -157.5)},
    {"azimuth_deg": (157.5, 202.5)},
    {"azimuth_deg": (-360, 360)},
    {"azimuth_deg": -180},
    {"azimuth_deg": 90},
    {"azimuth_deg": (45, 45)},
    {"elevation_deg": (0, None)},
    {"elevation_deg": (None, -10.5)},
    {"elevation_deg": (None, None)},
    {"start_s": (5, 5.0)},
    {"start_s": np.float32(10), "end_s": (None, 20)},
    {"azimuth_deg": (-90, 90), "elevation_deg": (-30, 30), "start_s": (0, 10)},
    {"end_s": (1e15, None)},
    {"start_s": True},
    {},
]
OTHER_FILTERS: list[dict[str, Any]] = [
    {"label": "dog"},
    {"label": "dog", "azimuth_deg": (-90, 90)},
    {"azimuth_deg": None},
    {"path": "*5.wav", "start_s": (0, 5)},
    {"n": (10, 150)},
]


def fields(rng: np.random.Generator) -> dict[str, Callable[[int], Any]]:
    azimuths = np.round(rng.uniform(-180, 180, COUNT) / 15) * 15
    elevations = np.round(rng.uniform(-90, 90, COUNT), 1)
    return {
        "start_s": lambda i: 5.0 * (i % 4),
        "end_s": lambda i: 5.0 * (i % 4) + 10,
        "azimuth_deg": lambda i: None if i % 9 == 0 else float(azimuths[i]),
        "elevation_deg": lambda i: None if i % 7 == 0 else float(elevations[i]),
        "label": lambda i: "dog" if i % 3 else "cat",
        "n": lambda i: i,
    }


@pytest.fixture
def index(make_index: Callable[..., Index], rng: np.random.Generator) -> Index:
    return make_index(COUNT, **fields(rng))


def found(index: Index, where: dict[str, Any]) -> set[int]:
    return {hit.metadata["n"] for hit in index.search(np.ones(index.dimension), k=COUNT, where=where)}


def found_by_sql(folder: Path, where: dict[str, Any]) -> set[int]:
    """What SQLite says of the rows themselves."""
    clause = parse_filter(where).clause
    with sqlite3.connect(folder / ROWS_NAME) as connection:
        rows = connection.execute(f"SELECT id FROM windows WHERE {clause.sql}", clause.parameters).fetchall()
    connection.close()
    return {row[0] for row in rows}


def mend_checksums(index: Index) -> None:
    header = read_header(index.path)
    segments = tuple(replace(s, rows=files.record(index.path / s.rows.name)) for s in header.segments)
    (index.path / "index.json").write_text(replace(header, segments=segments).to_json(), encoding="utf-8")


def change_rows(index: Index, sql: str) -> Index:
    """The index, opened again, after a change of its rows that no checksum notices."""
    with sqlite3.connect(index.path / ROWS_NAME) as connection:
        connection.execute(sql)
    connection.close()
    mend_checksums(index)
    return Index.open(index.path)


@pytest.mark.parametrize("where", [*NUMBER_FILTERS, *OTHER_FILTERS], ids=str)
def test_arrays_and_sql_agree(index: Index, where: dict[str, Any]) -> None:
    assert (parse_filter(where).spans is not None) == any(where is known for known in NUMBER_FILTERS)
    expected = found_by_sql(index.path, where)
    assert found(index, where) == expected
    # Asked again, from what was kept; then without the windows of a recording that has gone.
    assert found(index, where) == expected
    gone = {number for number in expected if number % 2}
    index.remove([f"clip{number}.wav" for number in gone])
    assert found(index, where) == found(Index.open(index.path), where) == expected - gone


def test_the_filters_above_let_some_through_and_keep_some_out(index: Index) -> None:
    counts = [len(found(index, where)) for where in (*NUMBER_FILTERS, *OTHER_FILTERS)]
    assert sum(0 < count < COUNT for count in counts) >= 15


def test_a_file_without_arrays_is_searched_as_before(index: Index) -> None:
    expected = [found(index, where) for where in NUMBER_FILTERS]
    older = change_rows(index, "DROP TABLE numbers")
    assert [found(older, where) for where in NUMBER_FILTERS] == expected
    older.verify()
    # The next commit that writes the segment anew gives it arrays.
    older.add(np.ones((1, index.dimension)), [{"path": "new.wav", "start_s": 0.0, "end_s": 1.0, "n": COUNT}])
    rows = older._current.parts[0].segment.rows
    assert all(rows.numbers(name, COUNT + 1) is not None for name in NUMBER_COLUMNS)
    older.verify()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE numbers SET float64 = substr(float64, 1, 80) WHERE name = 'azimuth_deg'",
        "DELETE FROM numbers WHERE name = 'azimuth_deg'",
        "UPDATE numbers SET float64 = 'text' WHERE name = 'azimuth_deg'",
    ],
)
def test_a_damaged_array_is_never_answered_from(index: Index, sql: str) -> None:
    opened = change_rows(index, sql)
    with pytest.raises(IndexCorruptError, match=f"{ROWS_NAME}: its array of azimuth_deg.*backup"):
        opened.search(np.ones(index.dimension), where={"azimuth_deg": (0, 90)})
    with pytest.raises(IndexCorruptError, match=ROWS_NAME):
        opened.verify()


def test_verify_compares_arrays_with_rows(index: Index) -> None:
    opened = change_rows(index, "UPDATE windows SET elevation_deg = 12.25 WHERE id = 5")
    with pytest.raises(IndexCorruptError, match="its array of elevation_deg is not what its rows say"):
        opened.verify()


def test_only_so_many_results_are_kept(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "MAX_KEPT", 3)
    for number in (*range(8), 0, 7):
        assert found(index, {"n": number}) == {number}
    (part,) = index._current.parts
    assert len(part.segment.selections._kept) == 3
