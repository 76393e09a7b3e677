"""From a query vector and `where` to hits."""

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError, QueryError
from salm_index.filters import metadata_names, parse_where
from salm_index.generations import Snapshot
from salm_index.header import RESTORE
from salm_index.rows import COLUMNS, Row, Rows
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


def search(
    snapshot: Snapshot, queries: NDArray[np.float32], k: int, where: Mapping[str, Any] | None
) -> list[list[Hit]]:
    """The best k windows for each query of shape (count, dimension); see `Index.search`.

    Raises:
        QueryError: `k` or `where` is invalid.
        IndexCorruptError: a vector has no row.
    """
    k = _check_k(k)
    allowed_ids = None if where is None else _allowed_ids(snapshot.rows, where)
    found = snapshot.vectors.search(queries, k, snapshot.header.max_norm, allowed_ids)
    ids = {row_id for result in found for row_id in result.ids.tolist()}
    rows = snapshot.rows.get(ids)
    if len(rows) != len(ids):
        raise IndexCorruptError(
            f"{snapshot.rows.path}: has no rows for {len(ids) - len(rows)} vectors of {snapshot.header.vectors.name}; "
            f"{RESTORE}"
        )
    return [_hits(result, rows) for result in found]


def _check_k(k: int) -> int:
    try:
        checked = operator.index(k)
    except TypeError:
        checked = 0
    if isinstance(k, bool) or checked < 1:
        raise QueryError(f"k: expected a positive integer, got {k!r}")
    return checked


def _allowed_ids(rows: Rows, where: Mapping[str, Any]) -> NDArray[np.int64]:
    clause = parse_where(where)
    ids = rows.ids(clause.sql, clause.parameters)
    if ids.size == 0 and len(rows):
        # A misspelt name must not look like an archive without such recordings.
        for name in metadata_names(where):
            if not rows.has_metadata(name):
                raise QueryError(
                    f"where: no window has metadata {name!r}; there are the columns {', '.join(COLUMNS)} and the "
                    f"metadata {', '.join(rows.metadata_names()) or '(none)'}"
                )
    return ids


def _hits(found: Found, rows: Mapping[int, Row]) -> list[Hit]:
    hits = []
    for place, (row_id, score) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True)):
        row = rows[row_id]
        hits.append(
            Hit(
                rank=place + 1,
                score=score,
                path=row.path,
                start_s=row.start_s,
                end_s=row.end_s,
                azimuth_deg=row.azimuth_deg,
                elevation_deg=row.elevation_deg,
                metadata=json.loads(row.metadata),
            )
        )
    return hits
