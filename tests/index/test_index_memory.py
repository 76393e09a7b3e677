"""Whoever goes through all vectors reads blocks: nothing of the mapped file is touched, and little is in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from salm_index import Index, IndexCorruptError, lists, tuning, vectors
from salm_index.lists import write_lists
from salm_index.tuning import neighbours
from salm_index.vectors import FlatVectors, VectorsWriter

DIMENSION = 24
COUNT = 3001


@pytest.fixture
def matrix(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal((COUNT, DIMENSION)).astype(np.float32)


@pytest.fixture
def flat(tmp_path: Path, matrix: NDArray[np.float32]) -> FlatVectors:
    path = tmp_path / "vectors.faiss"
    with VectorsWriter(path, DIMENSION, COUNT) as writer:
        writer.write(np.arange(COUNT) * 3, matrix)
    return FlatVectors(path, DIMENSION)


class Untouchable:
    """In place of the mapped vectors: an error for whoever looks at them."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the mapped vectors were touched ({name})")

    __getitem__ = __array__ = __len__ = __getattr__


def test_blocks_are_the_vectors(flat: FlatVectors, matrix: NDArray[np.float32], monkeypatch: Any) -> None:
    monkeypatch.setattr(vectors, "READ_AT_ONCE_BYTES", 1000)  # less than a block: the system may give less as well
    np.testing.assert_array_equal(flat.read(17, 400), matrix[17:400])
    starts, parts = zip(*flat.blocks(1000), strict=True)
    assert starts == (0, 1000, 2000, 3000)
    np.testing.assert_array_equal(np.concatenate(parts), matrix)
    places = np.array([0, 999, 1000, 1001, 3000])
    np.testing.assert_array_equal(flat.take(places, 1000), matrix[places])
    assert flat.read(COUNT, COUNT + 5).shape == (0, DIMENSION)


def test_they_can_be_read_after_the_file_is_deleted(flat: FlatVectors, matrix: NDArray[np.float32]) -> None:
    flat.path.unlink()
    np.testing.assert_array_equal(flat.read(0, COUNT), matrix)


def test_a_file_that_has_become_shorter_is_noticed(flat: FlatVectors) -> None:
    with flat.path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(IndexCorruptError, match=r"vectors.faiss: ends before its last vector.*backup"):
        flat.read(0, COUNT)


@pytest.mark.parametrize("k", [1, 10, 101, COUNT + 5])
def test_neighbours_are_those_of_numpy(
    flat: FlatVectors, matrix: NDArray[np.float32], rng: np.random.Generator, k: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tuning, "READ_AT_ONCE", 512)
    queries = rng.standard_normal((7, DIMENSION)).astype(np.float32)
    expected = np.argsort(-(queries.astype(np.float64) @ matrix.T.astype(np.float64)), axis=1)[:, :k]
    np.testing.assert_array_equal(neighbours(flat, queries, k), expected)


def test_lists_are_made_without_the_mapped_vectors(flat: FlatVectors, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(flat, "matrix", Untouchable())
    monkeypatch.setattr(type(flat), "dimension", DIMENSION)
    sizes: list[int] = []
    read = FlatVectors.read

    def noted(self: FlatVectors, start: int, stop: int) -> NDArray[np.float32]:
        block = read(self, start, stop)
        sizes.append(len(block))
        return block

    monkeypatch.setattr(FlatVectors, "read", noted)
    monkeypatch.setattr(lists, "READ_AT_ONCE", 700)
    monkeypatch.setattr(tuning, "READ_AT_ONCE", 700)
    record = write_lists(tmp_path / "lists.faiss", flat, 0.9, forced=True)
    assert record is not None
    assert record.recall >= 0.9
    assert max(sizes) == 700
    assert sum(sizes) >= 4 * COUNT  # a sample, all of them, the held-out ones, the exact search


def test_k_means_runs_on_gpus_where_there_are_some(flat: FlatVectors, tmp_path: Path, monkeypatch: Any) -> None:
    import faiss

    class Watched(faiss.IndexFlatIP):  # type: ignore[misc]
        pass

    made: list[Any] = []

    def to_gpus(quantizer: Any) -> Any:
        made.append(Watched(quantizer.d))
        return made[-1]

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    record = write_lists(tmp_path / "lists.faiss", flat, 0.9, forced=True)
    assert record is not None and record.recall >= 0.9
    (on_gpus,) = made
    # The centroids of the last round stay in the index that k-means assigned with.
    assert on_gpus.ntotal == record.num_lists


def test_compacting_and_verifying_do_not_touch_the_mapped_vectors(
    make_index: Callable[..., Index], monkeypatch: Any
) -> None:
    index = make_index(300)
    index.remove([f"clip{number}.wav" for number in range(200, 300)])
    searched = index.search(np.ones(index.dimension), k=300)
    for part in index._current.parts:
        width = part.segment.vectors.dimension
        monkeypatch.setattr(type(part.segment.vectors), "dimension", width)
        monkeypatch.setattr(part.segment.vectors, "matrix", Untouchable())
        part.segment.check(2.0)
    index.compact(kind="ivf")
    index.remove("clip7.wav")
    index.compact()
    monkeypatch.undo()
    index = Index.open(index.path)
    index.verify()
    assert index.search(np.ones(index.dimension), k=300) != searched
    assert len(index) == 199
