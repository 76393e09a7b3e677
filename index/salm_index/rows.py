"""The SQLite file of a segment: one row per window, with the window's id in the vectors file.

A file is written once and never changes after its commit; so it is opened as immutable, needs no locks or journals,
and can lie on a read-only medium. Windows that were removed later stay in it: whoever asks leaves their ids out.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError
from salm_index.header import RESTORE
from salm_index.numbers import NUMBER_COLUMNS, NumberColumns

COLUMNS = ("path", "start_s", "end_s", "azimuth_deg", "elevation_deg", "content_hash")
"""Fields of a row that have a column of their own; every other field is metadata."""

APPLICATION_ID = 0x53414C4D
"""SQLite's mark of whose file this is: "SALM"."""

SCHEMA = """
CREATE TABLE windows (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    start_s REAL NOT NULL,
    end_s REAL NOT NULL,
    azimuth_deg REAL,
    elevation_deg REAL,
    content_hash TEXT,
    metadata TEXT NOT NULL,
    UNIQUE (path, start_s, end_s)
)
"""
AZIMUTH_INDEX = "CREATE INDEX windows_azimuth ON windows (azimuth_deg)"
"""For filters of a sector and something else; a sector alone is looked up in `numbers`."""

IN_LIST = "IN (SELECT value FROM json_each(?))"
WRITE_CACHE_KIB = 65536


def metadata_value(name: str) -> str:
    """The SQL expression of a metadata value; NULL when a row has none."""
    return "json_extract(metadata, '$.\"" + name.replace("'", "''") + "\"')"


class Row(NamedTuple):
    """One window of a recording: times in seconds, directions in degrees, `metadata` a JSON object as text."""

    path: str
    start_s: float
    end_s: float
    azimuth_deg: float | None
    elevation_deg: float | None
    content_hash: str | None
    metadata: str

    def describe(self) -> str:
        """The window, for messages."""
        return f"{self.path}, {self.start_s:g} to {self.end_s:g} s"


class Window(NamedTuple):
    """Which window has which id, and of which contents of its recording it is."""

    id: int
    path: str
    start_s: float
    end_s: float
    content_hash: str | None


class Rows:
    """The rows of one segment, read-only. They stay readable after the file has been deleted (POSIX).

    Args:
        path: the SQLite file.
        generation: the generation that the file must say it was written for.

    Raises (here and in every method):
        IndexCorruptError: not the SQLite file of this generation, or damaged.
    """

    def __init__(self, path: Path, generation: int) -> None:
        self.path = path
        with _reading(path):
            uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        (mark,) = self._one("PRAGMA application_id")
        (written,) = self._one("PRAGMA user_version")
        if (mark, written) != (APPLICATION_ID, generation):
            raise IndexCorruptError(
                f"{path}: expected the rows of generation {generation}, got "
                f"{f'those of generation {written}' if mark == APPLICATION_ID else 'a foreign SQLite file'}; {RESTORE}"
            )

    def close(self) -> None:
        """Close the file; it cannot be read any more."""
        self._connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM windows")[0])

    def ids(self, condition: str = "1", parameters: Sequence[Any] = ()) -> NDArray[np.int64]:
        """Ids of the windows that fulfil an SQL condition, in ascending order."""
        # As one text: an object for each id takes five times as long. No ORDER BY: SQLite would walk the whole table
        # for it, and numpy sorts faster.
        ((text,),) = self._all(f"SELECT group_concat(id) FROM windows WHERE {condition}", parameters)
        return np.sort(np.fromstring(text or "", dtype=np.int64, sep=","))

    def numbers(self, name: str, num_windows: int) -> NDArray[np.float64] | None:
        """A column of `NUMBER_COLUMNS` in the order of the ids, NaN where a row has none.

        None for the file of an earlier version, which has no such arrays.
        """
        if not self._one("SELECT count(*) FROM sqlite_master WHERE name = 'numbers'")[0]:
            return None
        found = self._all("SELECT float64 FROM numbers WHERE name = ?", (name,))
        blob = found[0][0] if found else None
        if not isinstance(blob, bytes) or len(blob) != 8 * num_windows:
            raise IndexCorruptError(f"{self.path}: its array of {name} is damaged or missing; {RESTORE}")
        return np.frombuffer(blob, dtype="<f8")

    def windows_of_paths(self, paths: Iterable[str]) -> list[Window]:
        """All windows of these paths."""
        sql = f"SELECT id, path, start_s, end_s, content_hash FROM windows WHERE path {IN_LIST}"
        return [Window(*row) for row in self._all(sql, (json.dumps(list(paths)),))]

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], list[Row]]]:
        """All ids and rows in the order of the ids, `size` at a time."""
        with _reading(self.path):
            cursor = self._connection.execute(
                f"SELECT id, {', '.join((*COLUMNS, 'metadata'))} FROM windows ORDER BY id"
            )
            while rows := cursor.fetchmany(size):
                yield np.array([row[0] for row in rows], dtype=np.int64), [Row(*row[1:]) for row in rows]

    def get(self, ids: Iterable[int]) -> dict[int, Row]:
        """The rows of these ids."""
        columns = ", ".join((*COLUMNS, "metadata"))
        sql = f"SELECT id, {columns} FROM windows WHERE id {IN_LIST}"
        return {row[0]: Row(*row[1:]) for row in self._all(sql, (json.dumps(list(ids)),))}

    def content_hashes(self, removed_ids: NDArray[np.int64]) -> dict[str, str | None]:
        """Content hash of each path that has windows besides the removed ones, in the order of the paths."""
        kept = f"WHERE id NOT {IN_LIST}" if removed_ids.size else ""
        parameters = (json.dumps(removed_ids.tolist()),) if removed_ids.size else ()
        sql = f"SELECT path, max(content_hash) FROM windows {kept} GROUP BY path ORDER BY path"
        return dict(self._all(sql, parameters))

    def has_metadata(self, name: str) -> bool:
        """Whether any window has metadata of this name."""
        return bool(self._one(f"SELECT EXISTS (SELECT 1 FROM windows WHERE {metadata_value(name)} IS NOT NULL)")[0])

    def metadata_names(self) -> list[str]:
        """All names of metadata (reads every row)."""
        return [row[0] for row in self._all("SELECT DISTINCT key FROM windows, json_each(metadata) ORDER BY key")]

    def check(self) -> None:
        """Have SQLite check every page, and every row's metadata."""
        (answer,) = self._one("PRAGMA integrity_check(1)")
        if answer != "ok":
            raise IndexCorruptError(f"{self.path}: damaged: {answer}; {RESTORE}")
        (wrong,) = self._one("SELECT count(*) FROM windows WHERE NOT json_valid(metadata)")
        if wrong:
            raise IndexCorruptError(f"{self.path}: {wrong} rows have damaged metadata; {RESTORE}")
        for name in NUMBER_COLUMNS:
            stored = self.numbers(name, len(self))
            if stored is not None and not np.array_equal(stored, self._column(name), equal_nan=True):
                raise IndexCorruptError(f"{self.path}: its array of {name} is not what its rows say; {RESTORE}")

    def _column(self, name: str) -> NDArray[np.float64]:
        with _reading(self.path):
            values = self._connection.execute(f"SELECT {name} FROM windows ORDER BY id")
            return np.fromiter((np.nan if value is None else value for (value,) in values), np.float64)

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with _reading(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _one(self, sql: str) -> Any:
        return self._all(sql)[0]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise IndexCorruptError(f"{path}: cannot be read as the rows of an index ({error}); {RESTORE}") from error


class RowsWriter:
    """Context manager that writes the file of `Rows` from a stream. It is not synced to disk here.

    Args:
        path: the file to write; there must be none.
        generation: the commit that it is written for.

    Raises:
        sqlite3.Error: the file cannot be written.
    """

    def __init__(self, path: Path, generation: int) -> None:
        self._generation = generation
        self._connection = sqlite3.connect(path)
        # Nobody reads this file before its commit, and a crash throws it away: no journal, and one sync at the end.
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(f"PRAGMA cache_size = -{WRITE_CACHE_KIB}")
        self._connection.execute(SCHEMA)
        self._numbers = NumberColumns()

    def write(self, ids: Iterable[int], rows: Sequence[Row]) -> None:
        """Append rows, in the order of their ids."""
        self._numbers.append([(row.start_s, row.end_s, row.azimuth_deg, row.elevation_deg) for row in rows])
        self._connection.executemany(
            "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((row_id, *row) for row_id, row in zip(ids, rows, strict=True)),
        )

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._numbers.store(self._connection)
                self._connection.execute(AZIMUTH_INDEX)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {self._generation}")
                self._connection.commit()
        finally:
            self._connection.close()
