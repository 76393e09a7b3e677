"""Search against a numpy oracle: every filter at every selectivity, ties, near ties, batches."""

import fnmatch
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from salm_index import Hit, Index, QueryError, VectorError

DIMENSION = 16


def oracle(
    vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> list[tuple[int, float]]:
    """Places and scores of the best k rows: inner product in float64, rounded to float32, ties by place."""
    scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    places = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    places = places[np.argsort(-scores[places], kind="stable")][:k]
    return [(int(place), float(scores[place])) for place in places]


def check(hits: list[Hit], expected: list[tuple[int, float]], paths: list[str]) -> None:
    assert [hit.path for hit in hits] == [paths[place] for place, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], rtol=2e-7, atol=1e-12)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


@pytest.fixture
def filled(make_index: Callable[..., Index], rng: np.random.Generator, make_rows: Any) -> tuple[Any, ...]:
    """300 windows of unequal norms with directions, of which some are unknown and some on the wrap."""
    index = make_index()
    vectors = (rng.standard_normal((300, DIMENSION)) * rng.uniform(0.1, 5, (300, 1))).astype(np.float32)
    azimuths: list[float | None] = [*rng.uniform(-180, 180, 270), *[180.0, -180.0, 157.5, -157.5, 0.0] * 4]
    azimuths += [None] * 10
    rows = make_rows(
        300,
        path=lambda i: f"{'yard' if i % 3 else 'house'}/{i:03d}.{'wav' if i % 2 else 'flac'}",
        azimuth_deg=lambda i: azimuths[i],
        elevation_deg=lambda i: float(i % 61 - 30) if i % 7 else None,
        start_s=lambda i: i / 10,
        end_s=lambda i: i / 10 + 10,
        label=lambda i: ["dog", "cat", "rain"][i % 3],
        snr_db=lambda i: i if i % 5 else "unknown",
        checked=lambda i: i % 2 == 0,
        rare=lambda i: "yes" if i == 17 else None,
    )
    index.add(vectors[:100], rows[:100])
    index.add(vectors[100:], rows[100:])
    return index, vectors, rows, rng.standard_normal((4, DIMENSION)).astype(np.float32)


def in_sector(azimuth_deg: float | None, low_deg: float, high_deg: float) -> bool:
    """Going counter-clockwise from low, the azimuth comes no later than high."""
    if azimuth_deg is None:
        return False
    if high_deg - low_deg >= 360:
        return True
    return (azimuth_deg - low_deg) % 360 <= (high_deg - low_deg) % 360


@pytest.mark.parametrize("k", [1, 7, 50, 299, 300, 1000])
def test_search_agrees_with_numpy(filled: tuple[Any, ...], k: int) -> None:
    index, vectors, rows, queries = filled
    for query in queries:
        check(index.search(query, k), oracle(vectors, query, k), [row["path"] for row in rows])


@pytest.mark.parametrize(
    "sector",
    [
        *[(45.0 * i - 22.5, 45.0 * i + 22.5) for i in range(-4, 5)],
        (157.5, -157.5),
        (157.5, 180),
        (157.5, -180),
        (-180, -157.5),
        (180, -157.5),
        (-180, 180),
        (0, 360),
        (-180, -180),
        (180, 180),
        (90, 89),
        (0.0, 0.0),
        (12.25, 12.5),
        (170, 190),
        (-190, -170),
    ],
)
def test_a_sector_wraps_across_the_back(filled: tuple[Any, ...], sector: tuple[float, float]) -> None:
    index, vectors, rows, queries = filled
    allowed = np.array([in_sector(row["azimuth_deg"], *sector) for row in rows])
    hits = index.search(queries[0], k=300, where={"azimuth_deg": sector})
    check(hits, oracle(vectors, queries[0], 300, allowed), [row["path"] for row in rows])


def test_the_sectors_of_the_test_above_hold_something(filled: tuple[Any, ...]) -> None:
    index, _, _, queries = filled
    assert len(index.search(queries[0], k=300, where={"azimuth_deg": (157.5, -157.5)})) > 20
    assert len(index.search(queries[0], k=300, where={"azimuth_deg": (180, 180)})) == 8


CONDITIONS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({}, lambda row: True),
    ({"elevation_deg": (-10, 10)}, lambda row: row["elevation_deg"] is not None and -10 <= row["elevation_deg"] <= 10),
    ({"elevation_deg": None}, lambda row: row["elevation_deg"] is None),
    ({"azimuth_deg": -180}, lambda row: row["azimuth_deg"] in (180, -180)),
    ({"start_s": (1.0, 2.0)}, lambda row: 1.0 <= row["start_s"] <= 2.0),
    ({"start_s": (29, None)}, lambda row: row["start_s"] >= 29),
    ({"end_s": [None, 11]}, lambda row: row["end_s"] <= 11),
    ({"start_s": np.float32(2)}, lambda row: row["start_s"] == 2),
    ({"path": "*.wav"}, lambda row: fnmatch.fnmatchcase(row["path"], "*.wav")),
    ({"path": "*/??[!0-4].wav"}, lambda row: fnmatch.fnmatchcase(row["path"], "*/??[!0-4].wav")),
    ({"path": "yard/001.wav"}, lambda row: row["path"] == "yard/001.wav"),
    ({"path": ["house/*", "*/001.*"]}, lambda row: row["path"].startswith("house/") or row["path"] == "yard/001.wav"),
    ({"label": "dog"}, lambda row: row["label"] == "dog"),
    ({"label": ["dog", "rain"]}, lambda row: row["label"] in ("dog", "rain")),
    ({"label": "fish"}, lambda row: False),
    ({"snr_db": (20, None)}, lambda row: row["snr_db"] != "unknown" and row["snr_db"] >= 20),
    ({"snr_db": 21}, lambda row: row["snr_db"] == 21),
    ({"checked": True}, lambda row: row["checked"]),
    ({"rare": "yes"}, lambda row: row["rare"] == "yes"),
    ({"rare": None, "label": "cat"}, lambda row: row["rare"] is None and row["label"] == "cat"),
    (
        {"azimuth_deg": (90, -90), "path": "yard/*", "label": "cat"},
        lambda row: (
            in_sector(row["azimuth_deg"], 90, -90) and row["path"].startswith("yard/") and row["label"] == "cat"
        ),
    ),
]


@pytest.mark.parametrize(("where", "holds"), CONDITIONS, ids=[str(where) for where, _ in CONDITIONS])
def test_filters_agree_with_python(filled: tuple[Any, ...], where: dict[str, Any], holds: Callable[..., bool]) -> None:
    index, vectors, rows, queries = filled
    allowed = np.array([holds(row) for row in rows])
    for k in (1, 10, 300):
        hits = index.search(queries[1], k, where=where)
        check(hits, oracle(vectors, queries[1], k, allowed), [row["path"] for row in rows])
        assert len(hits) == min(k, allowed.sum())


def test_a_batch_answers_like_single_queries_to_the_last_bit(filled: tuple[Any, ...], rng: Any) -> None:
    index = filled[0]
    queries = rng.standard_normal((60, DIMENSION)).astype(np.float32)
    where = {"azimuth_deg": (-30, 30)}
    for condition in (None, where):
        batch = index.search_many(queries, k=20, where=condition)
        assert batch == [index.search(query, k=20, where=condition) for query in queries]
    assert index.search(queries[:1], k=3) == index.search(queries[0], k=3)


def test_ties_come_in_the_order_of_adding(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index()
    vectors = unit_vectors(2000)
    vectors[::2] = vectors[0]
    index.add(vectors, make_rows(2000))
    for k in (1, 3, 40, 999, 1000):
        hits = index.search(vectors[0], k)
        assert [hit.path for hit in hits] == [f"clip{2 * i}.wav" for i in range(k)]
        assert len({hit.score for hit in hits}) == 1


def test_scores_that_differ_less_than_float32_sums_resolve_keep_their_order(make_index: Any, make_rows: Any) -> None:
    rng = np.random.default_rng(3)
    index = make_index()
    # Neighbouring float32 numbers: the sums that FAISS forms err by more than the vectors differ.
    vectors = np.float32(0.25) + np.spacing(np.float32(0.25)) * rng.integers(-1, 2, (3000, DIMENSION))
    vectors = vectors.astype(np.float32)
    index.add(vectors, make_rows(3000))
    for query in rng.standard_normal((5, DIMENSION)).astype(np.float32):
        for k in (1, 10, 100):
            check(index.search(query, k), oracle(vectors, query, k), [f"clip{i}.wav" for i in range(3000)])


def test_a_window_does_not_change_another_ones_score(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    vectors = unit_vectors(50)
    query = unit_vectors(1)[0]
    alone, among = make_index(folder="alone"), make_index(folder="among")
    alone.add(vectors[7:8], make_rows(1))
    among.add(vectors, make_rows(50))
    assert among.search(query, 1, where={"path": "clip7.wav"})[0].score == alone.search(query, 1)[0].score


def test_an_empty_index_finds_nothing(make_index: Any) -> None:
    index = make_index()
    assert index.search(np.ones(DIMENSION)) == []
    assert index.search(np.ones(DIMENSION), where={"label": "dog"}) == []
    assert index.search_many(np.ones((3, DIMENSION))) == [[], [], []]
    assert index.search_many(np.ones((0, DIMENSION))) == []


def test_a_path_that_looks_like_a_pattern_matches_itself(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index()
    paths = ["take [1].wav", "take 1.wav", "täke/犬 🐕.wav", 'it\'s "quoted" \\ 100%.wav']
    index.add(unit_vectors(4), make_rows(4, path=lambda i: paths[i]))
    assert set(index.paths()) == set(paths)
    for path in paths:
        assert path in {hit.path for hit in index.search(np.ones(DIMENSION), where={"path": path})}
    assert [hit.path for hit in index.search(np.ones(DIMENSION), where={"path": "t?ke/犬*"})] == ["täke/犬 🐕.wav"]


def test_metadata_comes_back_as_it_went_in(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index()
    metadata = {"label": "Hund 🐕", "tags": ["a", {"b": None}], "gain.db": -3.5, "it's": 1, "n": np.float32(0.5)}
    index.add(unit_vectors(1), make_rows(1, azimuth_deg=np.float32(22.5), **metadata))
    (hit,) = index.search(np.ones(DIMENSION), where={"gain.db": (-4, -3), "it's": 1, "label": "Hund 🐕"})
    assert hit.metadata == {**metadata, "n": 0.5}
    assert (hit.azimuth_deg, hit.elevation_deg, hit.start_s, hit.end_s) == (22.5, None, 0.0, 10.0)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"labl": "dog"}, "no window has metadata 'labl'.*label"),
        ({"azimuth_deg": (10, None)}, "both ends"),
        ({"azimuth_deg": (10, 500)}, "-360 to 360"),
        ({"azimuth_deg": (10, math.nan)}, "finite number"),
        ({"azimuth_deg": "northwest"}, "expected a number"),
        ({"start_s": (5, 1)}, "lo <= hi"),
        ({"start_s": (1, 2, 3)}, "range"),
        ({"path": 3}, "path: expected text"),
        ({"path": (1, 2)}, "path: expected text"),
        ({"label": {"a": 1}}, "expected text"),
        ({"label": "\ud800"}, "Unicode"),
        ({'a"b': 1}, "no name"),
        ({3: 1}, "no name"),
        ({"n": 2**70}, "finite number"),
        ([("label", "dog")], "expected a dict"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(make_index: Any, where: Any, message: str) -> None:
    index = make_index(3, label="dog")
    with pytest.raises(QueryError, match=message):
        index.search(np.ones(DIMENSION), where=where)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", None])
def test_k_must_be_a_positive_integer(make_index: Any, k: Any) -> None:
    with pytest.raises(QueryError, match="k: expected a positive integer"):
        make_index(2).search(np.ones(DIMENSION), k=k)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.ones(DIMENSION + 1), "expected shape"),
        (np.ones((2, DIMENSION)), "use search_many"),
        (np.ones((1, 1, DIMENSION)), "expected shape"),
        (np.ones((0, DIMENSION)), "expected one vector, got 0"),
        (np.zeros(DIMENSION), "zero"),
        (np.full(DIMENSION, np.nan), "NaN or infinity"),
        (np.full(DIMENSION, 1e300), "NaN or infinity"),
        (["a"] * DIMENSION, "expected real numbers"),
        (np.ones(DIMENSION, dtype=complex), "expected real numbers"),
        (3.0, "expected shape"),
        ([[1.0], [1.0, 2.0]], "query: expected"),
    ],
)
def test_a_query_that_is_no_vector_is_refused(make_index: Any, query: Any, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        make_index(2).search(query)
