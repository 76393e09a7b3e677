"""Searches in a Milvus collection: filters kept exact, and how many inverted lists a search without one must read."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import QueryError
from salm_index.filters import metadata_names
from salm_index.milvus_collection import MAX_HITS, Candidate, MilvusCollections
from salm_index.milvus_filters import PATH_FIELD, Narrowed, has_metadata, narrow
from salm_index.rows import COLUMNS
from salm_index.search import Hit, check_k
from salm_index.tuning import MAX_K, MEASURED_K, NUM_QUERIES

SPARE_CANDIDATES = 64
"""Fetched beyond 4 k at first where Milvus cannot evaluate the whole filter."""

IDS_AT_ONCE = 5000
FLAT_SEARCH: dict[str, Any] = {"kind": "flat", "num_lists": None, "num_probes": None, "recall": None, "num_windows": 0}
"""How a collection without inverted lists is searched."""


def search(
    collections: MilvusCollections,
    settled: Mapping[str, Any],
    queries: NDArray[np.float32],
    k: int,
    where: Mapping[str, Any] | None,
    exact: bool,
) -> list[list[Hit]]:
    """The best k windows for each query of shape (count, dimension); see `Index.search`.

    Args:
        settled: what `attach` returned.

    Raises:
        QueryError: `k` or `where` is invalid.
    """
    k = check_k(k)
    narrowed = narrow(where)
    if k > MAX_HITS:
        k = max(1, min(k, len(collections)))
    every_list = settled["num_lists"]
    num_probes = every_list if exact or where is not None or k > MAX_K else settled["num_probes"]
    limit = k if narrowed.is_exact else 4 * k + SPARE_CANDIDATES
    best: dict[int, list[Candidate]] = {}
    while limit <= MAX_HITS and len(best) < len(queries):
        pending = [place for place in range(len(queries)) if place not in best]
        for place, found in zip(
            pending, collections.search(queries[pending], limit, narrowed.expression, num_probes), strict=True
        ):
            matches = narrowed.matches([candidate.row for candidate in found])
            kept = [candidate for candidate, is_match in zip(found, matches, strict=True) if is_match]
            if len(kept) >= k or (len(found) < limit and num_probes == every_list):
                best[place] = _best(kept, k)
        # The lists that were read may hold fewer than k windows, and the candidates fewer that match.
        num_probes, limit = every_list, limit if narrowed.is_exact and num_probes != every_list else 4 * limit
    if len(best) < len(queries):
        ids = matching_ids(collections, narrowed)
        for place in range(len(queries)):
            if place not in best:
                best[place] = _among(collections, queries[place : place + 1], k, ids, every_list)
    if where is not None and not any(best.values()):
        _check_metadata_names(collections, where)
    return [
        [Hit.of(found.row, rank, found.score) for rank, found in enumerate(best[place], start=1)]
        for place in range(len(queries))
    ]


def matching_ids(collections: MilvusCollections, narrowed: Narrowed) -> list[str]:
    """Ids of all windows that fulfil a filter."""
    if narrowed.is_exact:
        return collections.ids(narrowed.expression)
    ids: list[str] = []
    batch = []
    for found in collections.rows(narrowed.expression):
        batch.append(found)
        if len(batch) == IDS_AT_ONCE:
            ids += _matching(batch, narrowed)
            batch = []
    return ids + _matching(batch, narrowed)


def attach(collections: MilvusCollections, num_windows: int, recall: float) -> dict[str, Any]:
    """Have Milvus make inverted lists, wait until they are in use, and find how many a search must read.

    Args:
        num_windows: in the collection; 0 for no lists.
        recall: share of the true neighbours that must be found, for k of 10 and of `MAX_K`, by a margin of one standard
            error. Two kinds of queries are asked, and the worse one counts: windows, and sums of two. Truth is a
            search of all lists, whose vectors are whole.

    Returns:
        How the collection is searched.
    """
    if not num_windows:
        collections.attach(collections.name, "FLAT", {}, [PATH_FIELD])
        return FLAT_SEARCH
    # As in a local index: lists as long as there are lists.
    num_lists = max(2, 2 ** round(math.log2(math.sqrt(num_windows))) // 2)
    collections.attach(collections.name, "IVF_FLAT", {"nlist": num_lists}, [PATH_FIELD])
    trial = _Trial(collections, num_lists)
    low, high = 0, 1
    while high < num_lists and not trial.reaches(recall, high):
        low, high = high, min(2 * high, num_lists)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trial.reaches(recall, middle) else (middle, high)
    measured = round(float(trial.recalls(high).mean(axis=2).min()), 4)
    return {
        "kind": "ivf",
        "num_lists": num_lists,
        "num_probes": high,
        "recall": measured,
        "num_windows": num_windows,
    }


class _Trial:
    """Queries with their true neighbours. Ids are digests, so that the first windows are a random sample."""

    def __init__(self, collections: MilvusCollections, num_lists: int) -> None:
        self.collections = collections
        own, sample = collections.sample(NUM_QUERIES // 2)
        between = sample + np.roll(sample, 1, axis=0)
        between[np.linalg.norm(between, axis=1) == 0] = sample[0]
        self.queries = np.concatenate([sample, between]).astype(np.float32)
        self.own = [*own, *[""] * len(own)]
        self.truth = self._neighbours(num_lists)

    def reaches(self, recall: float, num_probes: int) -> bool:
        shares = self.recalls(num_probes)
        margin = shares.std(axis=2) / math.sqrt(shares.shape[2])
        return bool(np.all(shares.mean(axis=2) - margin >= recall))

    def recalls(self, num_probes: int) -> NDArray[np.float64]:
        """Shares of the true neighbours found, of shape (numbers of hits, kinds of queries, queries)."""
        found = self._neighbours(num_probes)
        shares = [
            [_share(true[:k], some[:k]) for true, some in zip(self.truth, found, strict=True)] for k in MEASURED_K
        ]
        return np.array(shares).reshape(len(MEASURED_K), 2, -1)

    def _neighbours(self, num_probes: int) -> list[list[str]]:
        found = self.collections.search_ids(self.queries, MAX_K + 1, num_probes)
        return [[found for found in ids if found != own] for ids, own in zip(found, self.own, strict=True)]


def _share(true: list[str], found: list[str]) -> float:
    return len(set(true) & set(found)) / max(1, len(true))


def _matching(batch: list[tuple[str, Any]], narrowed: Narrowed) -> list[str]:
    matches = narrowed.matches([row for _, row in batch])
    return [found for (found, _), is_match in zip(batch, matches, strict=True) if is_match]


def _among(
    collections: MilvusCollections, query: NDArray[np.float32], k: int, ids: list[str], every_list: int | None
) -> list[Candidate]:
    """The best k of the windows of these ids."""
    best: list[Candidate] = []
    for start in range(0, len(ids), IDS_AT_ONCE):
        some = ids[start : start + IDS_AT_ONCE]
        quoted = ", ".join(f'"{found}"' for found in some)
        (found,) = collections.search(query, min(k, len(some)), f"id in [{quoted}]", every_list)
        best = _best([*best, *found], k)
    return best


def _best(found: list[Candidate], k: int) -> list[Candidate]:
    def place(candidate: Candidate) -> tuple[float, str, float, float]:
        return -candidate.score, candidate.row.path, candidate.row.start_s, candidate.row.end_s

    return sorted(found, key=place)[:k]


def _check_metadata_names(collections: MilvusCollections, where: Mapping[str, Any]) -> None:
    """A misspelt name must not look like an archive without such recordings."""
    for name in metadata_names(where):
        if not collections.any(has_metadata(name)) and collections.any(""):
            raise QueryError(
                f"where: no window has metadata {name!r}; there are the columns {', '.join(COLUMNS)} and what the "
                "rows were added with"
            )
