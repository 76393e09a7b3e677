"""From a query vector and `where` to hits."""

import json
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError, QueryError
from salm_index.filters import metadata_names, parse_filter
from salm_index.generations import Snapshot
from salm_index.header import RESTORE
from salm_index.rows import COLUMNS, Row
from salm_index.vectors import Found


@dataclass(frozen=True)
class Hit:
    """One window that a search found.

    Args:
        rank: 1 is the best.
        score: inner product of query and window; the cosine if both are L2-normalised.
        path: the recording, as it was given to `Index.add`.
        start_s: where the window begins in the recording, in seconds.
        end_s: where it ends.
        azimuth_deg: the window's direction if known, counter-clockwise from the front, in (-180, 180].
        elevation_deg: likewise, up from the horizon.
        metadata: all other fields of the row.
    """

    rank: int
    score: float
    path: str
    start_s: float
    end_s: float
    azimuth_deg: float | None
    elevation_deg: float | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, row: Row, rank: int, score: float) -> "Hit":
        """The window of a row, as a hit."""
        place = (row.path, row.start_s, row.end_s, row.azimuth_deg, row.elevation_deg)
        return cls(rank, score, *place, metadata=json.loads(row.metadata))


def search(
    snapshot: Snapshot, queries: NDArray[np.float32], k: int, where: Mapping[str, Any] | None, exact: bool
) -> list[list[Hit]]:
    """The best k windows for each query of shape (count, dimension); see `Index.search`.

    Raises:
        QueryError: `k` or `where` is invalid.
        IndexCorruptError: a vector has no row.
    """
    k = check_k(k)
    allowed = [None] * len(snapshot.parts) if where is None else _allowed_places(snapshot, where)
    max_norm = snapshot.header.max_norm
    found = [
        part.search(queries, k, max_norm, places, exact) for part, places in zip(snapshot.parts, allowed, strict=True)
    ]
    results = [_best([part_found[query] for part_found in found], k) for query in range(len(queries))]
    ids = sorted({row_id for result in results for row_id in result.ids.tolist()})
    rows: dict[int, Row] = {}
    for part in snapshot.parts:
        rows |= part.segment.rows.get(_between(ids, part.segment.vectors.ids))
    if len(rows) != len(ids):
        raise IndexCorruptError(
            f"{snapshot.parts[0].segment.rows.path.parent}: has no rows for {len(ids) - len(rows)} vectors; {RESTORE}"
        )
    return [_hits(result, rows) for result in results]


def _best(found: list[Found], k: int) -> Found:
    """The best k of what the segments gave, in the order of their ids."""
    ids = np.concatenate([np.empty(0, np.int64), *(result.ids for result in found)])
    scores = np.concatenate([np.empty(0, np.float32), *(result.scores for result in found)])
    order = np.argsort(-scores, kind="stable")[:k]
    return Found(ids[order], scores[order])


def _between(ids: list[int], segment_ids: NDArray[np.int64]) -> list[int]:
    """Those of the ids, in ascending order, that lie in a segment's range."""
    if not len(segment_ids):
        return []
    return ids[bisect_left(ids, segment_ids[0]) : bisect_right(ids, segment_ids[-1])]


def check_k(k: int) -> int:
    """Return the number of hits that is wanted.

    Raises:
        QueryError: it is no positive whole number.
    """
    try:
        checked = operator.index(k)
    except TypeError:
        checked = 0
    if isinstance(k, bool) or checked < 1:
        raise QueryError(f"k: expected a positive integer, got {k!r}")
    return checked


def _allowed_places(snapshot: Snapshot, where: Mapping[str, Any]) -> list[NDArray[np.int64] | None]:
    conditions = parse_filter(where)
    allowed: list[NDArray[np.int64] | None] = [part.places(conditions) for part in snapshot.parts]
    if snapshot.header.num_windows and not any(places is not None and places.size for places in allowed):
        # A misspelt name must not look like an archive without such recordings.
        all_rows = [part.segment.rows for part in snapshot.parts]
        for name in metadata_names(where):
            if not any(rows.has_metadata(name) for rows in all_rows):
                names = sorted({known for rows in all_rows for known in rows.metadata_names()})
                raise QueryError(
                    f"where: no window has metadata {name!r}; there are the columns {', '.join(COLUMNS)} and the "
                    f"metadata {', '.join(names) or '(none)'}"
                )
    return allowed


def _hits(found: Found, rows: Mapping[int, Row]) -> list[Hit]:
    pairs = zip(found.ids.tolist(), found.scores.tolist(), strict=True)
    return [Hit.of(rows[row_id], rank, score) for rank, (row_id, score) in enumerate(pairs, start=1)]
