"""What is added, removed and replaced is there, or gone, for everyone who opens the index afterwards."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from salm_index import (
    Index,
    IndexAccessError,
    IndexExistsError,
    IndexNotFoundError,
    ModelMismatchError,
    RowError,
    SalmIndexError,
    VectorError,
)

DIMENSION = 16
MODEL = "test-model:1f3c"


def test_an_opened_index_is_the_one_that_was_written(make_index: Any, contents: Any) -> None:
    index = make_index(30, azimuth_deg=45.0, content_hash=lambda i: f"h{i}", label="dog")
    opened = Index.open(index.path)
    assert (opened.model, opened.dimension, opened.metric, opened.generation) == (MODEL, DIMENSION, "inner_product", 1)
    assert len(opened) == 30
    assert contents(opened) == contents(index)
    assert opened.paths() == {f"clip{i}.wav": f"h{i}" for i in range(30)}
    opened.verify()


def test_batches_give_the_same_index_as_one_add(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any
) -> None:
    vectors, rows = unit_vectors(60), make_rows(60, label="dog")
    once, often = make_index(folder="once"), make_index(folder="often")
    once.add(vectors, rows)
    for start in range(0, 60, 7):
        often.add(vectors[start : start + 7], rows[start : start + 7])
    assert contents(Index.open(often.path)) == contents(once)
    assert often.generation == 9


def test_remove_is_the_inverse_of_add(make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any) -> None:
    index = make_index(20)
    before = contents(index)
    rows = make_rows(6, path=lambda i: f"new{i // 3}.wav", start_s=lambda i: float(i % 3))
    index.add(unit_vectors(6), rows)
    assert len(index) == 26
    assert index.remove(paths=["new0.wav", "new1.wav", "unknown.wav"]) == 6
    assert contents(index) == before
    assert contents(Index.open(index.path)) == before
    assert index.remove([f"clip{i}.wav" for i in range(20)]) == 20
    assert index.search(np.ones(DIMENSION)) == []
    index.verify()


def test_ids_are_never_used_again(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index(3)
    index.remove("clip2.wav")
    vector = unit_vectors(1)
    index.add(vector, make_rows(1, "new"))
    assert [part.segment.vectors.ids.tolist() for part in index._current.parts] == [[0, 1, 3]]
    assert index.search(vector[0], k=1)[0].path == "new0.wav"


def test_replace_is_one_commit(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index(10, content_hash="old")
    vectors = unit_vectors(2)
    rows = make_rows(2, path="clip4.wav", start_s=lambda i: 5.0 * i, content_hash="new")
    assert index.replace("clip4.wav", vectors, rows) == 1
    assert (index.generation, len(index), len(index.paths())) == (2, 11, 10)
    assert index.paths()["clip4.wav"] == "new"
    assert [hit.start_s for hit in index.search(vectors[1], k=1)] == [5.0]
    assert index.replace(["clip4.wav", "clip5.wav", "fresh.wav"], unit_vectors(1), make_rows(1, path="fresh.wav")) == 3
    assert (index.generation, len(index)) == (3, 9)
    assert index.replace(["clip0.wav"], np.empty((0, DIMENSION)), []) == 1
    index.verify()


def test_replace_takes_no_rows_of_other_paths(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any
) -> None:
    index = make_index(3)
    before = contents(index)
    with pytest.raises(RowError, match="row 0 .*not among the replaced paths"):
        index.replace(["clip0.wav"], unit_vectors(1), make_rows(1, "other"))
    assert contents(Index.open(index.path)) == before


def test_nothing_to_do_is_no_commit(make_index: Any) -> None:
    index = make_index(3)
    assert index.remove("unknown.wav") == 0
    assert index.remove([]) == 0
    index.add(np.empty((0, DIMENSION)), [])
    assert index.generation == Index.open(index.path).generation == 1


def test_an_added_array_may_change_afterwards(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any
) -> None:
    index = make_index()
    vectors = unit_vectors(5)
    index.add(vectors, make_rows(5))
    before = contents(index)
    vectors[:] = 0
    assert contents(index) == before


def test_a_reader_keeps_its_snapshot_until_it_refreshes(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any
) -> None:
    writer = make_index(20, label="dog")
    reader = Index.open(writer.path)
    before = contents(reader)
    old_files = {path.name for path in writer.path.glob("*-*")}
    for number in range(3):
        writer.add(unit_vectors(5), make_rows(5, f"more{number}-"))
        writer.remove(f"clip{number}.wav")
    assert old_files.isdisjoint(path.name for path in writer.path.iterdir())
    assert contents(reader) == before
    assert reader.paths() == dict.fromkeys(sorted(f"clip{i}.wav" for i in range(20)))
    assert len(reader.search(np.ones(DIMENSION), k=99, where={"label": "dog"})) == 20
    assert reader.refresh() is True
    assert contents(reader) == contents(writer)
    assert reader.refresh() is False


def test_threads_search_while_another_adds(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index(50)
    sizes: list[list[int]] = [[], []]
    done = threading.Event()

    def search(found: list[int]) -> None:
        while not done.is_set():
            found.append(len(index.search(np.ones(DIMENSION), k=1000, where={"start_s": 0})))

    threads = [threading.Thread(target=search, args=(found,)) for found in sizes]
    for thread in threads:
        thread.start()
    for number in range(20):
        index.add(unit_vectors(10), make_rows(10, f"more{number}-"))
    done.set()
    for thread in threads:
        thread.join()
    for found in sizes:
        assert found and found == sorted(found)
        assert set(found) <= {50 + 10 * i for i in range(21)}


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path: Path) -> None:
    assert len(Index.create(tmp_path / "a" / "b" / "c.index", model="m:1")) == 0
    (tmp_path / "empty").mkdir()
    assert Index.create(tmp_path / "empty", model="m:1").dimension == 512


def test_create_never_overwrites(make_index: Any, tmp_path: Path, contents: Any) -> None:
    index = make_index(3)
    before = contents(index)
    with pytest.raises(IndexExistsError, match="index already; use Index.open"):
        Index.create(index.path, dimension=DIMENSION, model=MODEL)
    assert contents(Index.open(index.path)) == before
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.wav").write_bytes(b"x")
    with pytest.raises(IndexExistsError, match="'song.wav'.*another path"):
        Index.create(tmp_path / "music", model=MODEL)
    assert [path.name for path in (tmp_path / "music").iterdir()] == ["song.wav"]
    with pytest.raises(IndexExistsError, match="got a file"):
        Index.create(tmp_path / "music" / "song.wav", model=MODEL)


@pytest.mark.parametrize("dimension", [0, -1, 2.0, "512", True, 10**6])
def test_create_checks_the_dimension(tmp_path: Path, dimension: Any) -> None:
    with pytest.raises(VectorError, match="expected dimension"):
        Index.create(tmp_path / "x", dimension=dimension, model=MODEL)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("model", ["", None, 3, "\ud800"])
def test_create_checks_the_model(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ModelMismatchError, match="name of a model"):
        Index.create(tmp_path / "x", model=model)


def test_open_says_when_there_is_no_index(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(IndexNotFoundError, match="no index.json.*Index.create"):
            Index.open(path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(IndexNotFoundError, match="file"):
        Index.open(file)


def test_vectors_of_another_model_are_refused(make_index: Any) -> None:
    index = make_index(3)
    assert len(Index.open(index.path, model=MODEL)) == 3
    for ask in (
        lambda: Index.open(index.path, model="other:9"),
        lambda: index.search(np.ones(DIMENSION), model="other:9"),
        lambda: index.search_many(np.ones((2, DIMENSION)), model="other:9"),
    ):
        with pytest.raises(ModelMismatchError, match="'test-model:1f3c'.*'other:9'"):
            ask()
    assert len(index.search(np.ones(DIMENSION), model=MODEL)) == 3


def test_a_new_index_at_the_same_place_is_not_taken_for_the_old_one(
    make_index: Any, unit_vectors: Any, make_rows: Any
) -> None:
    index = make_index(3)
    for path in index.path.iterdir():
        path.unlink()
    Index.create(index.path, dimension=DIMENSION, model="other:9")
    with pytest.raises(ModelMismatchError, match="other:9"):
        index.add(unit_vectors(1), make_rows(1, "new"))
    assert len(Index.open(index.path, model="other:9")) == 0


BAD_VECTORS: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda v: v[0], "expected shape"),
    (lambda v: v[:, 1:], "expected shape"),
    (lambda v: v[None], "expected shape"),
    (lambda v: v * np.array([[1], [0], [1]]), "vector 1 is zero"),
    (lambda v: np.where(np.arange(3)[:, None] == 2, np.nan, v), "vector 2 holds NaN"),
    (lambda v: np.where(np.arange(3)[:, None] == 0, np.inf, v), "vector 0 holds NaN or infinity"),
    (lambda v: v * 1e30, "vector 0 is too large"),
    (lambda v: v.astype(str), "real numbers"),
    (lambda v: v.astype(object), "real numbers"),
    (lambda v: v[:2], "one row per vector \\(2\\), got 3"),
    (lambda v: None, "real numbers"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_VECTORS, ids=[message for _, message in BAD_VECTORS])
def test_bad_vectors_leave_the_index_as_it_was(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any, damage: Any, message: str
) -> None:
    index = make_index(4)
    before = contents(index)
    with pytest.raises((VectorError, RowError), match=message):
        index.add(damage(unit_vectors(3)), make_rows(3, "new"))
    assert contents(index) == contents(Index.open(index.path)) == before
    assert index.generation == 1


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"path": None}, "row 1: expected path"),
    ({"path": ""}, "row 1: expected path"),
    ({"path": b"clip.wav"}, "row 1: expected path"),
    ({"path": "bad\udcff.wav"}, "valid Unicode"),
    ({"path": "new0.wav"}, "row 1 .*same window comes twice"),
    ({"path": "clip2.wav"}, "row 1 .*in the index already; use Index.replace"),
    ({"path": "clip2.wav", "start_s": 5.0, "content_hash": "new"}, "content_hash 'old', got 'new'; use Index.replace"),
    ({"path": "new0.wav", "start_s": 5.0, "content_hash": "x"}, "row 1 .*expected content_hash 'old'"),
    ({"content_hash": 3}, "content_hash to be text"),
    ({"start_s": -1.0}, "start_s"),
    ({"start_s": None}, "start_s.*got None"),
    ({"start_s": "0"}, "start_s"),
    ({"start_s": 11.0}, "end_s to be a number from 11"),
    ({"end_s": np.nan}, "end_s"),
    ({"end_s": np.inf}, "end_s"),
    ({"azimuth_deg": 270.0}, "azimuth_deg to be a number from -180 to 180, got 270"),
    ({"azimuth_deg": "west"}, "azimuth_deg"),
    ({"elevation_deg": 91.0}, "elevation_deg"),
    ({"label": np.nan}, "metadata must be JSON"),
    ({"label": {1, 2}}, "metadata must be JSON"),
    ({"label": "\ud800"}, "metadata must be JSON"),
    ({'la"bel': 1}, "metadata name"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_bad_rows_leave_the_index_as_it_was(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any, fields: dict[str, Any], message: str
) -> None:
    index = make_index(4, content_hash="old")
    before = contents(index)
    rows = make_rows(3, "new", content_hash="old")
    rows[1] |= fields
    with pytest.raises(RowError, match=message):
        index.add(unit_vectors(3), rows)
    assert contents(index) == contents(Index.open(index.path)) == before
    index.verify()


@pytest.mark.parametrize("rows", [{"path": "a"}, "abc", None, [1, 2, 3], iter([])])
def test_rows_must_be_a_list_of_dicts(make_index: Any, unit_vectors: Any, rows: Any) -> None:
    with pytest.raises(RowError, match="expected a (list of dicts|dict with path)"):
        make_index().add(unit_vectors(3), rows)


def test_a_path_may_be_a_path_object(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index()
    index.add(unit_vectors(1), make_rows(1, path=lambda i: Path("a") / "b.wav"))
    assert index.paths() == {str(Path("a/b.wav")): None}
    assert index.remove(Path("a/b.wav")) == 1
    with pytest.raises(RowError, match="paths: expected file names"):
        index.remove([3])


def test_a_window_of_no_length_is_kept(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index()
    index.add(unit_vectors(1), make_rows(1, end_s=0.0))
    assert index.search(np.ones(DIMENSION))[0].end_s == 0.0


def test_minus_180_and_180_are_one_direction(make_index: Any) -> None:
    index = make_index(1, azimuth_deg=-180)
    assert index.search(np.ones(DIMENSION))[0].azimuth_deg == 180.0


def test_a_closed_index_says_so(make_index: Any) -> None:
    with make_index(2) as index:
        assert "2 windows" in repr(index)
    assert "closed" in repr(index)
    with pytest.raises(SalmIndexError, match="closed; open it again"):
        index.search(np.ones(DIMENSION))


def test_a_folder_without_write_permission_is_still_searched(
    make_index: Any, unit_vectors: Any, make_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(3)

    open_file = os.open

    def refuse(path: Any, flags: int, *rest: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied")
        return open_file(path, flags, *rest)

    # The tests may run as root, whom no permission bits stop.
    monkeypatch.setattr("salm_index.lock.os.open", refuse)
    assert len(Index.open(index.path).search(np.ones(DIMENSION))) == 3
    with pytest.raises(IndexAccessError, match="writer.lock.*Permission denied.*write permission"):
        index.add(unit_vectors(1), make_rows(1, "new"))
