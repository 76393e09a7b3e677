"""The FAISS file of a generation: exact inner-product search over float32 vectors, each with a window's id.

FAISS finds the candidates; their final scores are computed here in float64, one vector at a time. So a score does not
depend on what else is in the index or in the batch, equal vectors have equal scores, and ties are broken by id.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError
from salm_index.header import RESTORE

SPARE_CANDIDATES = 16
"""Candidates fetched beyond k at first; most searches need no more to be sure of the order at rank k."""


SCORED_AT_ONCE = 4096
"""Vectors that are scored in float64 at once: bounds the memory of a search with a large k."""


def _faiss() -> Any:
    """FAISS, imported where it is first needed: it takes longer to import than all the rest."""
    import faiss

    return faiss


class Found(NamedTuple):
    """The result for one query: ids and inner products, best first."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class FlatVectors:
    """An immutable set of vectors in a FAISS `IndexFlatIP`, wrapped by `IndexIDMap2`.

    Args:
        vectors: shape (count, dimension), float32.
        ids: shape (count,), strictly increasing.
    """

    def __init__(self, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        faiss = _faiss()
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
        index.add_with_ids(vectors, ids)
        self._attach(index)

    @classmethod
    def read(cls, path: Path, dimension: int) -> "FlatVectors":
        """Read a FAISS file.

        Raises:
            IndexCorruptError: not a file that `write` made for this dimension.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise IndexCorruptError(f"{path}: cannot be read as vectors ({error}); {RESTORE}") from error
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap2) else index
        if not isinstance(inner, faiss.IndexFlatIP) or index is inner or index.d != dimension:
            raise IndexCorruptError(
                f"{path}: expected an IndexIDMap2 over an IndexFlatIP of dimension {dimension}, got "
                f"{type(index).__name__} over {type(inner).__name__} of dimension {index.d}; {RESTORE}"
            )
        vectors = cls.__new__(cls)
        vectors._attach(index)
        if len(vectors.ids) != index.ntotal or inner.ntotal != index.ntotal or np.any(np.diff(vectors.ids) <= 0):
            raise IndexCorruptError(f"{path}: its ids do not fit its {index.ntotal} vectors; {RESTORE}")
        return vectors

    def write(self, path: Path) -> None:
        """Write the FAISS file; any FAISS can read it. It is not synced to disk here.

        Raises:
            OSError: the file cannot be written.
        """
        faiss = _faiss()
        # FAISS's own file writer does not notice a full disk when it closes the file; Python's does.
        with path.open("wb") as file:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))

    def _attach(self, index: Any) -> None:
        faiss = _faiss()
        self._index = index
        self.ids: NDArray[np.int64] = faiss.vector_to_array(index.id_map)
        flat = faiss.downcast_index(index.index)
        shape = (flat.ntotal, index.d)
        # A view: the vectors exist once in memory. `self._index` keeps them alive.
        self.matrix: NDArray[np.float32] = (
            faiss.rev_swig_ptr(flat.get_xb(), shape[0] * shape[1]).reshape(shape)
            if flat.ntotal
            else np.empty(shape, dtype=np.float32)
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """Length of each vector."""
        return int(self._index.d)

    def edited(
        self, removed_ids: NDArray[np.int64], added: NDArray[np.float32], added_ids: NDArray[np.int64]
    ) -> "FlatVectors":
        """A new set without the removed and with the added vectors; this one stays as it is.

        Takes memory for three copies of the vectors while it runs, for two afterwards until this set is dropped.
        """
        kept = ~np.isin(self.ids, removed_ids)
        vectors = np.concatenate([self.matrix[kept], added])
        return FlatVectors(vectors, np.concatenate([self.ids[kept], added_ids]))

    def search(
        self, queries: NDArray[np.float32], k: int, max_norm: float, allowed_ids: NDArray[np.int64] | None = None
    ) -> list[Found]:
        """The k vectors of the largest inner product with each query; ties in the order of the ids.

        Args:
            queries: shape (count, dimension), float32.
            k: at least 1; fewer are returned only if there are fewer.
            max_norm: an upper bound of the norms of the stored vectors.
            allowed_ids: search only these; none for all.
        """
        num_allowed = len(self) if allowed_ids is None else len(allowed_ids)
        found = [Found(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        if num_allowed == 0:
            return found
        parameters, _bits = _selection(allowed_ids)
        # Bound of the rounding error of a float32 inner product, both ways (Higham, Accuracy and Stability, eq. 3.5).
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = 2 * self.dimension * np.finfo(np.float32).eps * norms * max_norm
        pending = np.arange(len(queries))
        fetch = min(k + SPARE_CANDIDATES, num_allowed)
        while pending.size:
            scores, ids = self._index.search(queries[pending], fetch, params=parameters)
            unsure = np.zeros(len(pending), dtype=bool)
            for place, query in enumerate(pending):
                # Something that was not fetched may belong before the k-th while the last one fetched is this close.
                unsure[place] = fetch < num_allowed and scores[place, -1] >= scores[place, k - 1] - slack[query]
                if not unsure[place]:
                    found[query] = self._ranked(queries[query], ids[place], k)
            pending = pending[unsure]
            fetch = min(4 * fetch, num_allowed)
        return found

    def _ranked(self, query: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> Found:
        ids = np.sort(ids)
        places = np.searchsorted(self.ids, ids)
        scores = np.empty(len(ids), dtype=np.float32)
        for start in range(0, len(ids), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            scores[part] = (self.matrix[places[part]] * query.astype(np.float64)).sum(axis=1)
        order = np.argsort(-scores, kind="stable")[:k]
        return Found(ids[order], scores[order])


def _selection(allowed_ids: NDArray[np.int64] | None) -> tuple[Any, Any]:
    """FAISS search parameters that admit only these ids, and the memory that they point to."""
    if allowed_ids is None:
        return None, None
    faiss = _faiss()
    mask = np.zeros(int(allowed_ids[-1]) + 1, dtype=bool)
    mask[allowed_ids] = True
    bits = np.packbits(mask, bitorder="little")
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits)), bits
