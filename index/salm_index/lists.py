"""Inverted lists of a segment: a search reads the nearest lists only, and scores what it finds there exactly.

The vectors are divided among cells (k-means); each cell's list holds them at 8 bits per number (FAISS
`IndexIVFScalarQuantizer`, with places in the segment instead of ids). The full vectors stay beside it, so hits have the
same scores as in an exact search, filters can be answered exactly, and nothing is lost when segments are merged.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_index import files
from salm_index.errors import IndexCorruptError
from salm_index.header import RESTORE, ListsRecord
from salm_index.tuning import MAX_K, NUM_QUERIES, places_by_list, tune
from salm_index.vectors import FlatVectors, Found, load_faiss, read_mapped, select

FLAT_LIMIT = 200_000
"""Largest segment of an index of kind "auto" that has no lists: an exact search of it takes tens of milliseconds."""

MIN_WINDOWS = 1000
"""Smallest segment that gets lists, even if they are asked for; below, they would only cost."""

TRAINED_PER_LIST = 64
READ_AT_ONCE = 32768
"""Vectors in memory at once while lists are made: 64 MiB of 512 numbers."""

WORTHWHILE_SHARE = 0.5
"""Where more of the lists than this must be read, an index of kind "auto" goes without them."""


def wants_lists(kind: str, num_windows: int) -> bool:
    """Whether a segment of an index of this kind should have lists."""
    return num_windows > {"flat": math.inf, "ivf": MIN_WINDOWS - 1, "auto": FLAT_LIMIT}[kind]


def write_lists(path: Path, vectors: FlatVectors, recall: float, forced: bool) -> ListsRecord | None:
    """Divide vectors into lists, measure how many must be read, and write them; not synced to disk here.

    Memory is that of the lists (a quarter of the vectors', twice that while they grow) and of a block of vectors.

    Args:
        path: the file to write.
        vectors: of the whole segment, at least `MIN_WINDOWS`.
        recall: the share of true neighbours that a search must find.
        forced: write them even if reading most of them is what it takes.

    Returns:
        None if nothing was written because the vectors do not fall into cells that a search could leave out.
    """
    faiss = load_faiss()
    num_vectors = len(vectors)
    rng = np.random.default_rng(num_vectors)
    # Lists as long as there are lists: finding the nearest ones then costs as much as reading one.
    num_lists = max(2, 2 ** round(math.log2(math.sqrt(num_vectors))) // 2)
    shuffled = rng.permutation(num_vectors)
    held_out, rest = np.split(shuffled, [min(NUM_QUERIES, num_vectors // 4)])
    quantizer = faiss.IndexFlatIP(vectors.dimension)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, vectors.dimension, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid = 1
    # `on_gpus` keeps the memory of `clustering_index` alive.
    on_gpus = _on_gpus(quantizer)
    if on_gpus is not None:
        index.clustering_index = on_gpus
    index.train(vectors.take(np.sort(rest[: TRAINED_PER_LIST * num_lists]), READ_AT_ONCE))
    for _, block in vectors.blocks(READ_AT_ONCE):
        index.add(block)
    tuned = tune(index, vectors, np.sort(held_out), recall)
    if not forced and tuned.num_probes > WORTHWHILE_SHARE * num_lists:
        return None
    # FAISS's own file writer does not notice a full disk when it closes the file; Python's does.
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return ListsRecord(file=files.record(path), num_lists=num_lists, **tuned._asdict())


def _on_gpus(quantizer: Any) -> Any:
    """A quantizer on all GPUs, where k-means spends its time; None without faiss-gpu or without a GPU."""
    faiss = load_faiss()
    return faiss.index_cpu_to_all_gpus(quantizer) if faiss.get_num_gpus() else None


class Lists:
    """The inverted lists of a segment, read-only.

    Args:
        path: the file of `write_lists`.
        vectors: the segment's vectors.
        record: how they are searched.

    Raises:
        IndexCorruptError: not the lists of these vectors.
    """

    def __init__(self, path: Path, vectors: FlatVectors, record: ListsRecord) -> None:
        faiss = load_faiss()
        index = read_mapped(path)
        got = (type(index).__name__, index.d, index.ntotal, getattr(index, "nlist", None))
        expected = (faiss.IndexIVFScalarQuantizer.__name__, vectors.dimension, len(vectors), record.num_lists)
        if got != expected:
            raise IndexCorruptError(f"{path}: expected kind, dimension, count, lists {expected}, got {got}; {RESTORE}")
        self.path = path
        self.record = record
        self._index = index
        self._vectors = vectors

    def search(self, queries: NDArray[np.float32], k: int, places: NDArray[np.int64] | None) -> list[Found]:
        """About the best k windows for each query, with exact scores; fewer where the lists that were read hold fewer.

        Args:
            queries: shape (count, dimension).
            k: at most `MAX_K`, up to which the recall was measured.
            places: search only the vectors at these places, in ascending order; none for all.

        Raises:
            IndexCorruptError: the lists are damaged.
        """
        assert k <= MAX_K
        selector, _bits = (None, None) if places is None else select(places, len(self._vectors))
        parameters = load_faiss().SearchParametersIVF(nprobe=self.record.num_probes, sel=selector)
        _, candidates = self._index.search(queries, k * self.record.candidates_per_hit, params=parameters)
        if candidates.max(initial=-1) >= len(self._vectors):
            raise IndexCorruptError(f"{self.path}: its lists hold places that are none of its vectors'; {RESTORE}")
        return [self._vectors.rank(query, own[own >= 0], k) for query, own in zip(queries, candidates, strict=True)]

    def check(self) -> None:
        """Check that the lists hold every place once.

        Raises:
            IndexCorruptError: they do not.
        """
        places = np.concatenate(list(places_by_list(self._index)))
        if not np.array_equal(np.sort(places), np.arange(len(self._vectors))):
            raise IndexCorruptError(f"{self.path}: does not hold each vector of its segment once; {RESTORE}")
