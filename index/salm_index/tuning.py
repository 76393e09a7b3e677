"""How many lists a search must read: measured against exact search, on queries that the lists were not made from.

Two kinds of queries are asked, and the worse one counts: windows that were held out of the k-means (each is then not
its own neighbour), and sums of two of them, which lie between the windows. Vectors of another kind may find less:
sentences of salm-small, which lie apart from all windows, found 73 % of their true neighbours in lists that were made
for 99 % (`benchmarks/search.py --scenes`). For such queries there is `Index.search(..., exact=True)`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.vectors import FlatVectors, load_faiss

NUM_QUERIES = 128
"""Of each kind."""

MAX_K = 100
MEASURED_K = (10, MAX_K)
"""The recall must be reached for each of these numbers of hits; a search for more of them reads everything."""

READ_AT_ONCE = 8192
"""Vectors that are compared with the queries at once: bounds the memory of the exact search."""

CANDIDATES_PER_HIT = (2, 4, 8)
"""How many candidates per hit may be scored exactly, to make up for the 8 bits of the lists."""

Measured = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Means and standard errors, one row for each of `MEASURED_K` and one column for each kind of queries."""


class Tuned(NamedTuple):
    """How a segment's lists are searched, and what that was measured to find."""

    num_probes: int
    candidates_per_hit: int
    recall: float
    num_queries: int


def tune(
    index: Any,
    vectors: FlatVectors,
    held_out_places: NDArray[np.int64],
    recall: float,
) -> Tuned:
    """The cheapest search of an IVF index that finds a share of `recall` of the true neighbours.

    The share must be reached by a margin of one standard error. If even all lists do not reach it, they are read all,
    and what was measured is returned.

    Args:
        index: FAISS IVF index over `vectors`, with their places as ids.
        vectors: the full vectors.
        held_out_places: where the windows are that the index was not trained with, in ascending order.
        recall: in (0, 1].
    """
    trial = _Trial(index, vectors, held_out_places)
    fewest = trial.fewest_probes(recall)
    num_lists = int(index.nlist)
    for factor in CANDIDATES_PER_HIT:
        low, high = fewest - 1, fewest
        while high < num_lists and not trial.reaches(recall, high, factor):
            low, high = high, min(2 * high - fewest + 1, num_lists)
        if high == num_lists and not trial.reaches(recall, high, factor) and factor != CANDIDATES_PER_HIT[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if trial.reaches(recall, middle, factor) else (middle, high)
        break
    return Tuned(high, factor, round(float(trial.recalls(high, factor)[0].min()), 4), trial.num_queries)


class _Trial:
    """Queries with their true neighbours."""

    def __init__(self, index: Any, vectors: FlatVectors, held_out_places: NDArray[np.int64]) -> None:
        self.index = index
        held_out = vectors.take(held_out_places, READ_AT_ONCE)
        between = held_out + np.roll(held_out, 1, axis=0)
        between[np.linalg.norm(between, axis=1) == 0] = held_out[0]
        self.queries = np.concatenate([held_out, between]).astype(np.float32)
        self.num_queries = len(self.queries)
        places = neighbours(vectors, self.queries, MAX_K + 1)
        own = np.full((len(places), 1), -1)
        own[: len(held_out), 0] = held_out_places
        # The stable order puts a query's own window last, where it is cut off.
        order = np.argsort(places == own, axis=1, kind="stable")
        self.neighbours = np.take_along_axis(places, order, axis=1)[:, :MAX_K]
        self.truth = self._keys(self.neighbours)
        self._recalls: dict[tuple[int, int], Measured] = {}

    def fewest_probes(self, recall: float) -> int:
        """How many lists must be read at the least: with fewer, too many true neighbours lie in the others."""
        num_lists = int(self.index.nlist)
        _, nearest = self.index.quantizer.search(self.queries, num_lists)
        ranks = np.empty_like(nearest)
        np.put_along_axis(ranks, nearest, np.arange(num_lists)[None], axis=1)
        cells = np.empty(self.index.ntotal, np.int64)
        for number, places in enumerate(places_by_list(self.index)):
            cells[places] = number
        ranks = np.take_along_axis(ranks, cells[self.neighbours], axis=1)
        for num_probes in range(1, num_lists):
            if _is_reached(recall, _summarised(ranks[:, :k] < num_probes for k in MEASURED_K)):
                return num_probes
        return num_lists

    def reaches(self, recall: float, num_probes: int, factor: int) -> bool:
        return _is_reached(recall, self.recalls(num_probes, factor))

    def recalls(self, num_probes: int, factor: int) -> Measured:
        """Mean recall and its standard error, for each kind of queries and each of `MEASURED_K`."""
        if (num_probes, factor) not in self._recalls:
            parameters = load_faiss().SearchParametersIVF(nprobe=num_probes)
            _, candidates = self.index.search(self.queries, factor * MAX_K + 1, params=parameters)
            keys = self._keys(candidates)
            # Exact scores will put every true neighbour among the candidates to the front.
            self._recalls[num_probes, factor] = _summarised(
                np.isin(self.truth[:, :k], keys[:, : factor * k + 1]) for k in MEASURED_K
            )
        return self._recalls[num_probes, factor]

    def _keys(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers that differ for different places and for different queries (rows); -1 where there is no place."""
        keys: NDArray[np.int64] = places * self.num_queries + np.arange(self.num_queries)[:, None]
        return np.where(places < 0, -1, keys)


def _summarised(found: Iterable[NDArray[np.bool_]]) -> Measured:
    """Of which true neighbours (queries, k) were found, for each k."""
    shares = np.stack([hits.mean(axis=1) for hits in found])
    kinds = shares.reshape(len(MEASURED_K), 2, -1)
    return kinds.mean(axis=2), kinds.std(axis=2) / np.sqrt(kinds.shape[2])


def _is_reached(recall: float, measured: Measured) -> bool:
    means, errors = measured
    return bool(np.all(means - errors >= recall))


def neighbours(vectors: FlatVectors, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The places of the k vectors with the largest inner products (float32) with each query, best first.

    A block of vectors is in memory at a time, none of them mapped.

    Args:
        queries: shape (count, dimension).
        k: if there are fewer vectors, all are returned.

    Returns:
        Shape (count, min(k, number of vectors)).
    """
    scores = np.empty((len(queries), 0), dtype=np.float32)
    places = np.empty((len(queries), 0), dtype=np.int64)
    for start, block in vectors.blocks(READ_AT_ONCE):
        scores = np.concatenate([scores, queries @ block.T], axis=1)
        new = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        places = np.concatenate([places, new], axis=1)
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores = np.take_along_axis(scores, best, axis=1)
            places = np.take_along_axis(places, best, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def places_by_list(index: Any) -> Iterator[NDArray[np.int64]]:
    """The ids in each list of a FAISS IVF index."""
    faiss = load_faiss()
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        yield faiss.rev_swig_ptr(index.invlists.get_ids(number), size).copy() if size else np.empty(0, np.int64)
