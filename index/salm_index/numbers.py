"""The columns of numbers beside the rows of a segment, as arrays: a range of 1,000,000 windows takes milliseconds.

SQLite hands over each id as an object of its own, a quarter of a second for half a million of them. So the file of the
rows holds each column of numbers a second time: as one blob of float64, in the order of the ids, NaN where a row has
none. `Rows.check` compares them.
"""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUMBER_COLUMNS = ("start_s", "end_s", "azimuth_deg", "elevation_deg")

SCHEMA = "CREATE TABLE numbers (name TEXT PRIMARY KEY, float64 BLOB NOT NULL)"


class Span(NamedTuple):
    """A closed range of a column; where `low` is above `high` (azimuth), all that is not between them."""

    name: str
    low: float = -np.inf
    high: float = np.inf

    def holds(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values are within it; NaN never is."""
        if self.low > self.high:
            return (values >= self.low) | (values <= self.high)
        return (values >= self.low) & (values <= self.high)


class NumberColumns:
    """Collects the columns while rows are written, and stores them at the end."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float64]] = [np.empty((0, len(NUMBER_COLUMNS)))]

    def append(self, values: Sequence[tuple[float | None, ...]]) -> None:
        """Take the values of `NUMBER_COLUMNS` of some rows."""
        self._parts.append(np.array(values, dtype=np.float64).reshape(-1, len(NUMBER_COLUMNS)))

    def store(self, connection: sqlite3.Connection) -> None:
        """Write them; one row of the table for each column."""
        table = np.concatenate(self._parts).astype("<f8")
        connection.execute(SCHEMA)
        columns = zip(NUMBER_COLUMNS, table.T, strict=True)
        connection.executemany(
            "INSERT INTO numbers VALUES (?, ?)", ((name, values.tobytes()) for name, values in columns)
        )
