"""The FAISS file of a segment: exact inner-product search over float32 vectors, each with a window's id.

FAISS finds the candidates; their final scores are computed here in float64, one vector at a time. So a score does not
depend on what else is in the index or in the batch, equal vectors have equal scores, and ties are broken by id.

The file is memory-mapped for searches: opening it costs the same whatever its size, and the system reads what a search
touches. Whoever goes through all of it (copying, checking, making lists) reads blocks instead, which leave nothing in
memory. It is written from a stream, in FAISS's own format (an `IndexIDMap` over an `IndexFlatIP`), so that any FAISS
reads it and no segment needs to fit into memory.
"""

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError
from salm_index.header import RESTORE

SPARE_CANDIDATES = 16
"""Candidates fetched beyond k at first; most searches need no more to be sure of the order at rank k."""

SCORED_AT_ONCE = 4096
"""Vectors that are scored in float64 at once: bounds the memory of a search with a large k."""

READ_AT_ONCE_BYTES = 2**24

FAISS_PREFIX = struct.Struct("<4siqqqBi")
"""How FAISS begins an index: four letters, dimension, count, twice an unused 2^20, is trained, metric."""

FAISS_INNER_PRODUCT = 0


def load_faiss() -> Any:
    """FAISS, imported where it is first needed: it takes longer to import than all the rest."""
    import faiss

    return faiss


class Found(NamedTuple):
    """The result for one query: ids and inner products, best first."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class FlatVectors:
    """The vectors of a segment, read-only. They stay readable after the file has been deleted (POSIX).

    Args:
        path: a file of `VectorsWriter`.
        dimension: what the vectors' length must be.

    Raises:
        IndexCorruptError: not such a file.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        index = read_mapped(path)
        faiss = load_faiss()
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
        if not isinstance(inner, faiss.IndexFlatIP) or index is inner or index.d != dimension:
            raise IndexCorruptError(
                f"{path}: expected an IndexIDMap over an IndexFlatIP of dimension {dimension}, got "
                f"{type(index).__name__} over {type(inner).__name__} of dimension {index.d}; {RESTORE}"
            )
        self.path = path
        # `_owner` keeps the memory of `_flat` and `matrix` alive.
        self._owner, self._flat = index, inner
        self.ids: NDArray[np.int64] = faiss.vector_to_array(index.id_map)
        shape = (inner.ntotal, index.d)
        self.matrix: NDArray[np.float32] = (
            faiss.rev_swig_ptr(inner.get_xb(), shape[0] * shape[1]).reshape(shape)
            if inner.ntotal
            else np.empty(shape, dtype=np.float32)
        )
        if len(self.ids) != index.ntotal or inner.ntotal != index.ntotal or np.any(np.diff(self.ids) <= 0):
            raise IndexCorruptError(f"{path}: its ids do not fit its {index.ntotal} vectors; {RESTORE}")
        # What follows the vectors in the file is the number of ids, and the ids.
        self._first_byte = path.stat().st_size - self.matrix.nbytes - 8 - self.ids.nbytes
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._reading = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """Length of each vector."""
        return int(self.matrix.shape[1])

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """The vectors from place `start` to before `stop`, read from the file: `matrix` would keep them in memory.

        Raises:
            IndexCorruptError: the file has become shorter.
            OSError: it cannot be read.
        """
        start, stop = min(start, len(self)), min(stop, len(self))
        vectors = np.empty((stop - start, self.dimension), dtype="<f4")
        left = memoryview(vectors.data).cast("B") if vectors.size else memoryview(b"")
        with self._reading:
            os.lseek(self._file, self._first_byte + 4 * self.dimension * start, os.SEEK_SET)
            while left:
                part = os.read(self._file, min(len(left), READ_AT_ONCE_BYTES))
                if not part:
                    raise IndexCorruptError(f"{self.path}: ends before its last vector; {RESTORE}")
                left[: len(part)] = part
                left = left[len(part) :]
        return vectors.astype(np.float32, copy=False)

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """All vectors, `size` at a time, each block with its first place."""
        for start in range(0, len(self), size):
            yield start, self.read(start, start + size)

    def take(self, places: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        """The vectors at some places, in ascending order, read in blocks of `size`."""
        parts = [np.empty((0, self.dimension), dtype=np.float32)]
        for start, block in self.blocks(size):
            first, last = np.searchsorted(places, [start, start + len(block)])
            parts.append(block[places[first:last] - start])
        return np.concatenate(parts)

    def search(
        self, queries: NDArray[np.float32], k: int, max_norm: float, places: NDArray[np.int64] | None = None
    ) -> list[Found]:
        """The k vectors of the largest inner product with each query; ties in the order of the ids.

        Args:
            queries: shape (count, dimension), float32.
            k: at least 1; fewer are returned only if there are fewer.
            max_norm: an upper bound of the norms of the stored vectors.
            places: search only the vectors at these places, in ascending order; none for all.
        """
        num_allowed = len(self) if places is None else len(places)
        found = [Found(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        if num_allowed == 0:
            return found
        faiss = load_faiss()
        selector, _bits = (None, None) if places is None else select(places, len(self))
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        # Bound of the rounding error of a float32 inner product, both ways (Higham, Accuracy and Stability, eq. 3.5).
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = 2 * self.dimension * np.finfo(np.float32).eps * norms * max_norm
        pending = np.arange(len(queries))
        fetch = min(k + SPARE_CANDIDATES, num_allowed)
        while pending.size:
            scores, candidates = self._flat.search(queries[pending], fetch, params=parameters)
            unsure = np.zeros(len(pending), dtype=bool)
            for place, query in enumerate(pending):
                # Something that was not fetched may belong before the k-th while the last one fetched is this close.
                unsure[place] = fetch < num_allowed and scores[place, -1] >= scores[place, k - 1] - slack[query]
                if not unsure[place]:
                    found[query] = self.rank(queries[query], candidates[place], k)
            pending = pending[unsure]
            fetch = min(4 * fetch, num_allowed)
        return found

    def rank(self, query: NDArray[np.float32], places: NDArray[np.int64], k: int) -> Found:
        """The best k of the vectors at `places`, scored in float64."""
        places = np.sort(places)
        scores = np.empty(len(places), dtype=np.float32)
        for start in range(0, len(places), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            scores[part] = (self.matrix[places[part]] * query.astype(np.float64)).sum(axis=1)
        order = np.argsort(-scores, kind="stable")[:k]
        return Found(self.ids[places[order]], scores[order])


class VectorsWriter:
    """Context manager that writes the file of `FlatVectors` from a stream. It is not synced to disk here.

    Args:
        path: the file to write.
        dimension: length of the vectors.
        num_vectors: how many will come.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, dimension: int, num_vectors: int) -> None:
        self._file = path.open("wb")
        self._num_missing = num_vectors
        self._ids: list[NDArray[np.int64]] = []
        for letters in (b"IxMp", b"IxFI"):
            prefix = (letters, dimension, num_vectors, 1 << 20, 1 << 20, True, FAISS_INNER_PRODUCT)
            self._file.write(FAISS_PREFIX.pack(*prefix))
        self._file.write(struct.pack("<Q", num_vectors * dimension))

    def write(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Append vectors of shape (count, dimension); ids grow strictly."""
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self._ids.append(ids)
        self._num_missing -= len(ids)

    def __enter__(self) -> "VectorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is not None:
                return
            if self._num_missing:
                raise ValueError(f"{self._file.name}: {self._num_missing} vectors too few")
            ids = np.concatenate([np.empty(0, np.int64), *self._ids])
            self._file.write(struct.pack("<Q", len(ids)))
            self._file.write(ids.astype("<i8").data)


def read_mapped(path: Path) -> Any:
    """A FAISS index whose large arrays stay in the file (in memory before FAISS 1.11).

    Raises:
        IndexCorruptError: not a FAISS file.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except (RuntimeError, MemoryError) as error:
        raise IndexCorruptError(f"{path}: cannot be read as vectors ({error}); {RESTORE}") from error


def select(places: NDArray[np.int64], num_vectors: int) -> tuple[Any, NDArray[np.uint8]]:
    """A FAISS selector that admits only these places, and the memory that it points to: keep both while it is used."""
    mask = np.zeros(num_vectors, dtype=bool)
    mask[places] = True
    bits = np.packbits(mask, bitorder="little")
    return load_faiss().IDSelectorBitmap(bits), bits
