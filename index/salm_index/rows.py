"""The SQLite file of a generation: one row per window, with the window's id in the vectors file.

A file is written once, beside the live one, and never changes after its commit; so it is opened as immutable, needs no
locks or journals, and can lie on a read-only medium.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexCorruptError, RowError
from salm_index.header import RESTORE

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
IN_LIST = "IN (SELECT value FROM json_each(?))"


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


class Rows:
    """The rows of one committed generation, read-only. It stays readable after the file has been deleted (POSIX).

    Args:
        path: the SQLite file.
        generation: the generation that the file must say it is of.

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
        rows = self._all(f"SELECT id FROM windows WHERE {condition} ORDER BY id", parameters)
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))

    def ids_of_paths(self, paths: Iterable[str]) -> NDArray[np.int64]:
        """Ids of all windows of these paths."""
        return self.ids(f"path {IN_LIST}", (json.dumps(list(paths)),))

    def get(self, ids: Iterable[int]) -> dict[int, Row]:
        """The rows of these ids."""
        columns = ", ".join((*COLUMNS, "metadata"))
        sql = f"SELECT id, {columns} FROM windows WHERE id {IN_LIST}"
        return {row[0]: Row(*row[1:]) for row in self._all(sql, (json.dumps(list(ids)),))}

    def content_hashes(self) -> dict[str, str | None]:
        """Content hash of each path, in the order of the paths."""
        return dict(self._all("SELECT path, max(content_hash) FROM windows GROUP BY path ORDER BY path"))

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


def write_rows(
    target: Path,
    generation: int,
    *,
    source: Path | None = None,
    removed_ids: NDArray[np.int64] | None = None,
    added: Sequence[Row] = (),
    first_id: int = 0,
) -> int:
    """Write the rows of a new generation: those of `source`, less the removed, plus the added.

    Args:
        target: the file to write; it is not synced to disk here.
        generation: the new generation.
        source: the previous generation's file; none for an empty index.
        removed_ids: ids to leave out.
        added: new rows; they get the ids `first_id`, `first_id + 1`, ...
        first_id: the first new id.

    Returns:
        The number of distinct paths.

    Raises:
        RowError: a window is in the index already, or its path is with another content hash.
    """
    if source is not None:
        shutil.copyfile(source, target)
    with closing(sqlite3.connect(target)) as connection:
        # Nobody reads this file before its commit, and a crash throws it away: no journal, and one sync at the end.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        if source is None:
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if removed_ids is not None and removed_ids.size:
            connection.execute(f"DELETE FROM windows WHERE id {IN_LIST}", (json.dumps(removed_ids.tolist()),))
        _check_new(connection, added)
        connection.executemany(
            "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((first_id + number, *row) for number, row in enumerate(added)),
        )
        connection.execute(f"PRAGMA user_version = {generation}")
        connection.commit()
        (num_paths,) = connection.execute("SELECT count(DISTINCT path) FROM windows").fetchone()
        return int(num_paths)


def _check_new(connection: sqlite3.Connection, added: Sequence[Row]) -> None:
    known: dict[str, list[tuple[float, float, str | None]]] = {}
    paths = json.dumps(sorted({row.path for row in added}))
    for path, *window in connection.execute(
        f"SELECT path, start_s, end_s, content_hash FROM windows WHERE path {IN_LIST}", (paths,)
    ):
        known.setdefault(path, []).append(tuple(window))
    for number, row in enumerate(added):
        for start_s, end_s, content_hash in known.get(row.path, ()):
            if content_hash != row.content_hash:
                raise RowError(
                    f"row {number} ({row.describe()}): the index has this path with content_hash {content_hash!r}, "
                    f"got {row.content_hash!r}; use Index.replace for a file that has changed"
                )
            if (start_s, end_s) == (row.start_s, row.end_s):
                raise RowError(
                    f"row {number} ({row.describe()}): this window is in the index already; "
                    "use Index.replace to put it in place of the old one"
                )
