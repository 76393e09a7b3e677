"""`salm-retrieve` beyond a plain sentence: examples, parts, filters, one hit per recording."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from salm_index import Hit, Index

import salm
from salm.cli.indexing import update_index
from salm.cli.search import search_index, window_filter
from salm.errors import ConfigError, DirectionError
from salm.queries import Query, query_vector
from tests.cli.commands import Run, assert_mistake

QUERY = "dog barking from the northwest"


@pytest.fixture
def index(recordings: Path, tiny: Path, tmp_path: Path) -> Path:
    update_index(recordings, tmp_path / "my.index", model=str(tiny))
    return tmp_path / "my.index"


def test_a_recording_is_most_like_itself(run: Run, index: Path, recordings: Path, tiny: Path) -> None:
    found = run("salm-retrieve", "--like", recordings / "a.flac", "--index", index, "--model", tiny, "--json")
    assert found.code == 0, found
    assert Path(found.json[0]["path"]).name == "a.flac"
    assert found.json[0]["score"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "query"),
    [
        (["--like", "a.flac", "--direction", "southwest"], Query(like=Path("a.flac"), direction="southwest")),
        (["--like", "a.flac", "--only-direction"], Query(like=Path("a.flac"), part="where")),
        ([QUERY, "--anywhere"], Query(QUERY, part="what")),
    ],
)
def test_options_ask_what_the_library_would(
    run: Run,
    index: Path,
    recordings: Path,
    tiny: Path,
    options: list[str],
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(recordings)
    found = run("salm-retrieve", *options, "--index", index, "--model", tiny, "--json", cwd=recordings)
    with Index.open(index) as opened:
        expected = opened.search(query_vector(salm.load(tiny), query), 10)
    assert [hit["path"] for hit in found.json] == [hit.path for hit in expected]
    np.testing.assert_allclose([hit["score"] for hit in found.json], [hit.score for hit in expected], atol=1e-5)


@pytest.mark.parametrize("per_recording", [False, True])
def test_only_a_recording_as_it_is_may_be_looked_for_in_lists(
    index: Path, recordings: Path, tiny: Path, per_recording: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists find what their recall promises among vectors like the windows; sentences are not like them."""
    asked: set[bool] = set()
    search = Index.search

    def watched(self: Index, *arguments: Any, exact: bool = False, **named: Any) -> list[Hit]:
        asked.add(exact)
        return search(self, *arguments, exact=exact, **named)

    monkeypatch.setattr(Index, "search", watched)
    like = recordings / "a.flac"
    queries = [Query(QUERY), Query(like=like), Query(like=like, direction="west"), Query(like=like, part="what")]
    for query, is_exact in zip(queries, [True, False, True, True], strict=True):
        asked.clear()
        search_index(index, query, 2, str(tiny), per_recording=per_recording)
        assert asked == {is_exact}


def test_of_each_recording_the_best_window(index: Path, tiny: Path) -> None:
    every = search_index(index, QUERY, 10, str(tiny))
    best = search_index(index, QUERY, 10, str(tiny), per_recording=True)
    assert (len(every), len(best)) == (5, 4)
    assert [hit.rank for hit in best] == [1, 2, 3, 4]
    for hit in best:
        assert hit.score == max(other.score for other in every if other.path == hit.path)
    assert [hit.path for hit in search_index(index, QUERY, 2, str(tiny), per_recording=True)] == [
        hit.path for hit in best[:2]
    ]


def test_filters(run: Run, index: Path, tiny: Path) -> None:
    common = ("salm-retrieve", QUERY, "--index", index, "--model", tiny, "--json")
    assert {Path(hit["path"]).name for hit in run(*common, "--path", "*/deep/*").json} == {"c.ogg"}
    every = run(*common).json
    late = run(*common, "--time", "10.5:11").json
    assert [(Path(hit["path"]).name, hit["start_s"]) for hit in late] == [("long.wav", 5.0)]
    some = run(*common, "--azimuth", "0:180").json
    assert [hit["path"] for hit in some] == [hit["path"] for hit in every if 0 <= hit["azimuth_deg"] <= 180]
    nothing = run("salm-retrieve", QUERY, "--index", index, "--model", tiny, "--path", "nowhere")
    assert (nothing.code, nothing.stdout) == (0, "")
    assert "no window matches the filters" in nothing.stderr


def test_conditions_from_words() -> None:
    found = window_filter(azimuth="south", elevation="-10:10", path="a*", metadata=["label=dog", "take=3", "x=a=b"])
    assert found == {
        "azimuth_deg": (157.5, 202.5),
        "elevation_deg": (-10.0, 10.0),
        "path": "a*",
        "label": "dog",
        "take": 3,
        "x": "a=b",
    }
    timed = window_filter(azimuth=None, elevation=None, time="60:90.5", path=None, metadata=["n=[1,5]"])
    assert timed == {"start_s": (None, 90.5), "end_s": (60.0, None), "n": [1, 5]}
    assert window_filter(azimuth="-20:20", elevation=None, path=None, metadata=()) == {"azimuth_deg": (-20.0, 20.0)}


@pytest.mark.parametrize(
    ("condition", "kind", "message"),
    [
        ({"azimuth": "upwards"}, DirectionError, "no direction in 'upwards'"),
        ({"azimuth": "1:2:3"}, ConfigError, "azimuth: expected LO:HI in degrees"),
        ({"elevation": "high"}, ConfigError, "elevation: expected LO:HI"),
        ({"time": "noon"}, ConfigError, "time: expected LO:HI in seconds"),
        ({"time": "20:10"}, ConfigError, "time: expected LO:HI with LO up to HI"),
        ({"metadata": ["dog"]}, ConfigError, "expected NAME=VALUE, such as label=dog, got 'dog'"),
    ],
)
def test_conditions_that_cannot_be_read(condition: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        window_filter(**({"azimuth": None, "elevation": None, "path": None, "metadata": ()} | condition))


def test_queries_that_leave_nothing(run: Run, index: Path, tiny: Path) -> None:
    common = ("salm-retrieve", "--index", index, "--model", tiny)
    assert_mistake(run(*common), "either a sentence", "neither")
    assert_mistake(run(*common, QUERY, "--anywhere", "--only-direction"), "--anywhere and --only-direction")
    assert_mistake(run(*common, "--like", "missing.wav"), "missing.wav", "no such file")
