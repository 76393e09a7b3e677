"""Which windows of a segment fulfil a filter. Segments never change, so what was found once is kept."""

import threading

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError
from salm_index.filters import Clause, Filter
from salm_index.header import RESTORE
from salm_index.rows import Rows
from salm_index.vectors import FlatVectors

MAX_KEPT = 16
"""Filters whose result is kept, a bit for each window: 2 MB for 1,000,000 windows."""


class Selections:
    """Looks up filters in the rows of a segment; several threads may.

    Args:
        rows: of the segment.
        vectors: of the same windows.
    """

    def __init__(self, rows: Rows, vectors: FlatVectors) -> None:
        self._rows, self._vectors = rows, vectors
        self._columns: dict[str, NDArray[np.float64] | None] = {}
        self._kept: dict[Clause, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def mask(self, conditions: Filter) -> NDArray[np.bool_]:
        """Which windows fulfil a filter: shape (windows,), in the order of their ids.

        Raises:
            IndexCorruptError: the rows are damaged, or do not fit the vectors.
        """
        with self._lock:
            mask = self._by_columns(conditions)
            return self._by_rows(conditions.clause) if mask is None else mask

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where among the vectors the windows with these ids are; ids in ascending order.

        Raises:
            IndexCorruptError: some are nowhere.
        """
        known_ids = self._vectors.ids
        places: NDArray[np.int64] = np.searchsorted(known_ids, ids)
        known = places < len(known_ids)
        known[known] = known_ids[places[known]] == ids[known]
        if not known.all():
            raise IndexCorruptError(
                f"{self._rows.path}: its ids are not those of {self._vectors.path.name} "
                f"(no vectors for {np.count_nonzero(~known)} of them); {RESTORE}"
            )
        return places

    def _by_columns(self, conditions: Filter) -> NDArray[np.bool_] | None:
        if conditions.spans is None:
            return None
        mask = np.ones(len(self._vectors), dtype=bool)
        for span in conditions.spans:
            if span.name not in self._columns:
                self._columns[span.name] = self._rows.numbers(span.name, len(self._vectors))
            values = self._columns[span.name]
            if values is None:
                return None
            mask &= span.holds(values)
        return mask

    def _by_rows(self, clause: Clause) -> NDArray[np.bool_]:
        num_windows = len(self._vectors)
        if clause in self._kept:
            return np.unpackbits(self._kept[clause], count=num_windows).view(bool)
        mask = np.zeros(num_windows, dtype=bool)
        mask[self.places(self._rows.ids(clause.sql, clause.parameters))] = True
        if len(self._kept) == MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[clause] = np.packbits(mask)
        return mask
