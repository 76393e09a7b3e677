"""`MilvusIndex` on a file of milvus-lite, beside a local index and numpy."""

import ast
import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import salm_index
from salm_index import (
    Index,
    IndexAccessError,
    IndexCorruptError,
    IndexExistsError,
    IndexLockedError,
    IndexNotFoundError,
    MilvusIndex,
    MissingDependencyError,
    ModelMismatchError,
    QueryError,
    RowError,
    SchemaVersionError,
    VectorError,
    milvus_collection,
    milvus_search,
    milvus_server,
)

DIMENSION = 8
MODEL = "test-model:1f3c"
NUM_WINDOWS = 240
HOSTILE = [
    'quote".wav',
    "apostrophe'.wav",
    "back\\slash\\.wav",
    "100%.wav",
    "under_score.wav",
    "line\nbreak\r.wav",
    "Ünï çödé 🎧.wav",
    '" or id != "',
    "\\",
    "%",
    "_",
    "a[1]*?.wav",
    "a1xx.wav",
    " leading and trailing ",
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"azimuth_deg": (22.5, 67.5)},
    {"azimuth_deg": (157.5, -157.5)},
    {"azimuth_deg": (-360, 360), "elevation_deg": (None, 0)},
    {"azimuth_deg": None},
    {"azimuth_deg": None, "label": "dog"},
    {"elevation_deg": (10.0, 20.0), "start_s": 5},
    {"start_s": (5, None), "end_s": (None, 15)},
    {"start_s": (None, None)},
    {"end_s": None},
    {"content_hash": "hash 3"},
    {"content_hash": ["hash 3", 'hash " or id != "']},
    {"content_hash": None},
    {"path": "yard/*"},
    {"path": "*/1?.wav"},
    {"path": "*[0-4].wav"},
    {"path": "yard/1*.wav", "label": "dog"},
    {"path": ["yard/1.wav", "*9.wav", "nope"]},
    {"path": "*"},
    {"label": "dog"},
    {"label": ["dog", 'cat\'s "miaow" \\ 100%\n']},
    {"label": 'cat\'s "miaow" \\ 100%\n'},
    {"n": 7},
    {"n": 7.0},
    {"n": "7"},
    {"n": (3, 12.5)},
    {"n": (None, 20), "label": "dog"},
    {"flag": True},
    {"flag": False},
    {"flag": 1},
    {"only some": None},
    {"only some": "x"},
    {"nested": '["a", 1]'},
    {"nested": '["a",1]'},
    {"größe/~.x": (None, None)},
    *({"path": path} for path in HOSTILE),
]

NOTHING: list[dict[str, Any]] = [
    {"n": "7"},
    {"nested": '["a", 1]'},
    {"end_s": None},
    {"größe/~.x": (None, None)},
]
"""Those of the filters that no window fulfils."""

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:google")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A file of milvus-lite that stays open: opening takes longer than all that the tests do with it."""
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("os.fsync", lambda _: None)
        uri = str(tmp_path_factory.mktemp("milvus") / "store.db")
        with MilvusIndex.create(uri, DIMENSION, model=MODEL, collection="kept_open"):
            yield uri


@pytest.fixture
def create(uri: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes an empty collection named after the test."""
    opened = []

    def make(**options: Any) -> MilvusIndex:
        name = re.sub(r"\W", "_", request.node.name)[:100]
        opened.append(MilvusIndex.create(uri, DIMENSION, model=MODEL, collection=name, **options))
        return opened[-1]

    yield make
    for index in opened:
        index.close()


def windows(count: int, seed: int = 0) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Random vectors, and rows with all that a filter can ask for; the first recordings have hostile names."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        recording = number // 3
        rows.append(
            {
                "path": HOSTILE[recording] if recording < len(HOSTILE) else f"yard/{recording}.wav",
                "start_s": 5.0 * (number % 3),
                "end_s": 5.0 * (number % 3) + 10,
                "azimuth_deg": None if number % 7 == 0 else float(rng.uniform(-180, 180)),
                "elevation_deg": None if number % 5 == 0 else float(rng.uniform(-90, 90)),
                "content_hash": None if recording % 4 == 0 else f"hash {recording % 6}",
                "label": "dog" if number % 3 else 'cat\'s "miaow" \\ 100%\n',
                "n": number if number % 2 else float(number),
                "flag": number % 4 == 0,
                "nested": ["a", number % 2],
                "größe/~.x": {"deep": [1]},
                **({"only some": "x"} if number % 11 == 0 else {}),
            }
        )
    return rng.standard_normal((count, DIMENSION)).astype(np.float32), rows


@pytest.fixture(scope="module")
def pair(uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[MilvusIndex, Index]:
    """The same windows in Milvus and in a folder."""
    vectors, rows = windows(NUM_WINDOWS)
    milvus = MilvusIndex.create(uri, DIMENSION, model=MODEL, collection="pair")
    local = Index.create(tmp_path_factory.mktemp("local") / "my.index", DIMENSION, model=MODEL)
    for index in (milvus, local):
        index.add(vectors[:200], rows[:200])
        index.add(vectors[200:], rows[200:])
    return milvus, local


def assert_same_hits(pair: tuple[MilvusIndex, Index], queries: np.ndarray, k: int, where: Mapping[str, Any]) -> int:
    found, expected = (index.search_many(queries, k, where) for index in pair)
    for hits, true in zip(found, expected, strict=True):
        assert [(h.rank, h.path, h.start_s, h.end_s, h.azimuth_deg, h.elevation_deg, h.metadata) for h in hits] == [
            (h.rank, h.path, h.start_s, h.end_s, h.azimuth_deg, h.elevation_deg, h.metadata) for h in true
        ]
        # float32 sums of 8 products against float64 ones.
        np.testing.assert_allclose([h.score for h in hits], [h.score for h in true], rtol=0, atol=1e-4)
    return len(expected[0])


@pytest.mark.parametrize("where", FILTERS, ids=repr)
def test_filters_mean_the_same_as_in_a_local_index(pair: tuple[MilvusIndex, Index], where: dict[str, Any]) -> None:
    queries = np.random.default_rng(5).standard_normal((2, DIMENSION))
    num_matches = assert_same_hits(pair, queries, NUM_WINDOWS, where)
    assert num_matches > 0 or where in NOTHING
    assert_same_hits(pair, queries, 2, where)


def test_selective_filters_are_exact_where_the_candidates_run_out(
    pair: tuple[MilvusIndex, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_search, "SPARE_CANDIDATES", 1)
    monkeypatch.setattr(milvus_search, "MAX_HITS", 20)
    monkeypatch.setattr(milvus_search, "IDS_AT_ONCE", 7)
    queries = np.random.default_rng(6).standard_normal((2, DIMENSION))
    assert assert_same_hits(pair, queries, 5, {"path": "*[4-7]?.wav"}) == 5
    assert assert_same_hits(pair, queries, 5, {"n": (236, None)}) == 4
    assert assert_same_hits(pair, queries, 50, {"label": "dog"}) == 50  # more than one search gives
    assert assert_same_hits(pair, queries, 100_000, {}) == NUM_WINDOWS


def test_what_it_holds(pair: tuple[MilvusIndex, Index], uri: str) -> None:
    milvus, local = pair
    assert len(milvus) == len(local) == NUM_WINDOWS
    assert milvus.paths() == local.paths()
    assert list(milvus.paths()) == sorted(milvus.paths())
    assert set(HOSTILE) < set(milvus.paths())
    assert (milvus.model, milvus.dimension, milvus.metric, milvus.kind) == (MODEL, DIMENSION, "inner_product", "flat")
    assert milvus.stats().search.startswith("exact (flat), collection pair of ")
    with MilvusIndex.open(uri, MODEL, collection="pair") as again:
        assert len(again) == NUM_WINDOWS
        assert again.stats() == milvus.stats()


def test_mistakes_have_the_errors_of_a_local_index(pair: tuple[MilvusIndex, Index], uri: str) -> None:
    milvus, _ = pair
    vectors, rows = windows(3)
    with pytest.raises(RowError, match="is in the index already; use Index.replace"):
        milvus.add(vectors, rows)
    with pytest.raises(RowError, match="the index has this path with content_hash None, got 'new'"):
        milvus.add(vectors, [row | {"content_hash": "new", "end_s": 99.0} for row in rows])
    with pytest.raises(RowError, match="not among the replaced paths"):
        milvus.replace(["other.wav"], vectors, rows)
    with pytest.raises(VectorError, match="shape"):
        milvus.add(vectors[:, :4], rows)
    with pytest.raises(RowError, match="path_hex is longer than Milvus' 65535 bytes"):
        milvus.add(vectors[:1], [{"path": "x" * 40_000, "start_s": 0, "end_s": 1}])
    with pytest.raises(QueryError, match="no window has metadata 'lable'"):
        milvus.search(vectors[0], where={"lable": "dog"})
    with pytest.raises(QueryError, match="k: expected a positive"):
        milvus.search(vectors[0], 0)
    with pytest.raises(ModelMismatchError, match=r"store.db#pair: holds .*'test-model:1f3c'.*'other:1'"):
        milvus.search(vectors[0], model="other:1")
    with pytest.raises(ModelMismatchError, match="'test-model:1f3c'.*'other:1'"):
        MilvusIndex.open(uri, "other:1", collection="pair")
    with pytest.raises(IndexExistsError, match="'pair' already"):
        MilvusIndex.create(uri, DIMENSION, model=MODEL, collection="pair")
    with pytest.raises(IndexNotFoundError, match="no index 'nowhere'"):
        MilvusIndex.open(uri, collection="nowhere")
    with pytest.raises(QueryError, match="collection: expected"):
        MilvusIndex.open(uri, collection="no-such; drop")
    assert len(milvus) == NUM_WINDOWS


def test_remove_and_replace(create: Any) -> None:
    index = create()
    vectors, rows = windows(60)
    index.add(vectors, rows)
    assert index.remove(["%", "_", "not there", "\\"]) == 9
    assert index.remove(["%"]) == 0
    assert len(index) == 51
    assert sorted(index.paths()) == sorted({row["path"] for row in rows} - {"%", "_", "\\"})
    new = [
        {"path": "a1xx.wav", "start_s": start_s, "end_s": start_s + 1, "content_hash": "2"} for start_s in (0.0, 1.0)
    ]
    # One window that stays a window, and one that goes, and two that come.
    new.append({"path": "a1xx.wav", "start_s": 0.0, "end_s": 10.0, "content_hash": "2"})
    assert index.replace(["a1xx.wav", "100%.wav"], vectors[:3], new) == 6
    assert len(index) == 51 - 6 + 3
    assert index.paths()["a1xx.wav"] == "2"
    assert "100%.wav" not in index.paths()
    (hit,) = index.search(vectors[2], 1, {"path": "a1xx.wav"})
    assert (hit.start_s, hit.end_s, hit.metadata) == (0.0, 10.0, {})
    assert len(index.search(vectors[0], 10, {"path": "a1xx.wav"})) == 3
    # As a pattern it is another path as well.
    assert {hit.path for hit in index.search(vectors[0], 10, {"path": "a[1]*?.wav"})} == {"a[1]*?.wav", "a1xx.wav"}
    index.add(vectors[:1], [{"path": "bare", "start_s": 0, "end_s": 1}])
    (hit,) = index.search(vectors[0], 1, {"path": "bare", "content_hash": None, "label": None})
    assert (hit.azimuth_deg, hit.elevation_deg, hit.metadata) == (None, None, {})


class Crash(BaseException):
    """The process is gone."""


def test_a_writer_that_died_is_noticed_and_its_work_done_again(create: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = create()
    vectors, rows = windows(9)
    index.add(vectors[6:], rows[6:])
    monkeypatch.setattr(milvus_collection, "WRITTEN_AT_ONCE", 2)
    new = [row | {"content_hash": "new"} for row in rows[:6]]
    paths = [rows[0]["path"], rows[3]["path"]]
    written = []

    with monkeypatch.context() as context:
        upsert = index._collections._client.upsert

        def die(name: str, entities: list[Any]) -> None:
            if name == index._collections.name and written:
                raise Crash
            if name == index._collections.name:
                written.append(name)
            upsert(name, entities)

        context.setattr(index._collections._client, "upsert", die)
        with pytest.raises(Crash):
            index.replace(paths, vectors[:6], new)
    with MilvusIndex.open(index.stats().uri, MODEL, collection=index.stats().collection) as opened:
        assert len(opened) == 5
        # Two of three windows of the first recording are there: nobody may take it for done.
        assert opened.paths() == {paths[0]: None, rows[6]["path"]: rows[6]["content_hash"]}
        assert opened.replace(paths, vectors[:6], new) == 2
        assert len(opened) == 9
        assert opened.paths() == {paths[0]: "new", paths[1]: "new", rows[6]["path"]: rows[6]["content_hash"]}


def test_an_index_that_a_writer_dropped_before_it_died_is_made_again(create: Any) -> None:
    index = create()
    vectors, rows = windows(9)
    index.add(vectors, rows)
    stats, client = index.stats(), index._collections._client
    client.release_collection(stats.collection)
    client.drop_index(stats.collection, "vector")
    with MilvusIndex.open(stats.uri, MODEL, collection=stats.collection) as opened:
        assert opened.search(vectors[4], 1)[0].path == rows[4]["path"]
        assert set(client.list_indexes(stats.collection)) == {"vector", "path_hex"}
        assert opened.remove(rows[4]["path"]) == 3


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    centres = np.random.default_rng(1).standard_normal((20, DIMENSION))
    return (centres[rng.integers(0, 20, count)] + 0.3 * rng.standard_normal((count, DIMENSION))).astype(np.float32)


def test_lists_are_attached_and_their_recall_is_measured(create: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_search, "NUM_QUERIES", 64)
    index = create(kind="ivf", recall=0.95)
    rng = np.random.default_rng(2)
    vectors = clustered(rng, 1500)
    azimuths_deg = rng.uniform(-180, 180, 1500)
    rows = [
        {"path": f"{i}.wav", "start_s": 0, "end_s": 1, "azimuth_deg": float(azimuths_deg[i]), "n": i}
        for i in range(1500)
    ]
    index.add(vectors, rows)
    assert index.kind == "flat"
    assert index.compact()
    stats = index.stats()
    assert set(index._open._client.list_indexes(stats.collection)) == {"vector", "path_hex"}
    assert (stats.kind, stats.num_lists, stats.measured_windows) == ("ivf", 16, 1500)
    assert stats.measured_recall is not None and stats.num_probes is not None
    assert 0.95 <= stats.measured_recall <= 1
    assert 1 <= stats.num_probes < 16
    assert f"reading {stats.num_probes} of 16 lists" in stats.search
    queries = clustered(rng, 30)
    scores = queries @ vectors.T
    truth = np.argsort(-scores, axis=1)[:, :10]

    def recall(found: list[list[Any]], true: np.ndarray) -> float:
        return float(
            np.mean(
                [
                    len({hit.metadata["n"] for hit in hits} & set(row)) / 10
                    for hits, row in zip(found, true, strict=True)
                ]
            )
        )

    assert recall(index.search_many(queries, 10), truth) >= 0.9
    assert recall(index.search_many(queries, 10, exact=True), truth) == 1
    for low, high in ((-180.0, 0.0), (40.0, 50.0)):
        inside = (azimuths_deg >= low) & (azimuths_deg <= high)
        filtered = np.argsort(np.where(inside, -scores, np.inf), axis=1)[:, :10]
        assert recall(index.search_many(queries, 10, {"azimuth_deg": (low, high)}), filtered) == 1
    # More hits than the lists that a search reads hold.
    assert len(index.search(queries[0], 1500)) == 1500
    assert not index.compact()
    assert index.compact(kind="flat")
    assert (index.kind, index.stats().measured_recall, index.stats().wanted_kind) == ("flat", None, "flat")
    assert recall(index.search_many(queries, 10), truth) == 1


def test_a_server_that_ignores_the_number_of_lists_is_refused(create: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = create(kind="ivf")
    index.add(*windows(60))
    monkeypatch.setattr(milvus_server.MilvusServer, "_create_index", lambda *_: None)
    with pytest.raises(IndexAccessError, match="asked for an index of .* there is none"):
        milvus_search.attach(index._open, 1000, 0.99)


def test_damaged_or_newer_descriptions_are_refused(create: Any, uri: str) -> None:
    index = create()
    collection = index.stats().collection
    about = index._open.read_about()["index"]
    index._open.write_about("index", about | {"schema_version": 2})
    with pytest.raises(SchemaVersionError, match="schema version 2, this salm_index reads 1; update salm"):
        MilvusIndex.open(uri, collection=collection)
    index._open.write_about("index", "nothing")
    with pytest.raises(IndexCorruptError, match="does not say what index it belongs to"):
        MilvusIndex.open(uri, collection=collection)


def test_a_file_that_another_process_holds_is_an_error(tmp_path: Path, uri: str, capfd: Any) -> None:
    held = tmp_path / "held.db"
    held.mkdir()
    with (held / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(IndexLockedError, match="held.db: cannot be opened: another process holds it"):
            MilvusIndex.open(str(held))


def test_a_server_that_is_not_there_is_an_error(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_server, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(IndexAccessError, match="http://127.0.0.1:9: Milvus refuses, or is out of reach"):
        MilvusIndex.open("http://127.0.0.1:9")
    with pytest.raises(IndexAccessError, match="nowhere"):
        MilvusIndex.create("nowhere/x.db", model=MODEL)


def test_a_missing_pymilvus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "salm\[milvus\]"'):
        MilvusIndex.open("x.db")


def test_pymilvus_is_imported_by_one_module_and_when_it_is_needed() -> None:
    package = Path(salm_index.__file__).parent
    naming = set()
    for path in package.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        texts = {arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)}
        if {"pymilvus", "milvus_lite.server_manager"} & texts:
            naming.add(path.name)
    assert naming == {"milvus_server.py"}
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import salm_index; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "salm_index.milvus" in modules
    assert {"pymilvus", "milvus_lite", "pandas", "faiss"}.isdisjoint(modules)


def test_a_server_with_other_lists_than_asked_for_is_refused(create: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = create(kind="ivf")
    index.add(*windows(60))
    make = milvus_server.MilvusServer._create_index
    monkeypatch.setattr(
        milvus_server.MilvusServer, "_create_index", lambda self, name, kind, _: make(self, name, kind, {"nlist": 7})
    )
    with pytest.raises(IndexAccessError, match="'test_a_server_with_other_lists.*' with nlist 16, got 7"):
        milvus_search.attach(index._open, 1000, 0.99)
