"""`Index`: vectors of windows of recordings in a folder, with a row for each, and an exact search over them."""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from salm_index import generations
from salm_index.errors import IndexAccessError, ModelMismatchError, RowError, SalmIndexError, VectorError
from salm_index.generations import Change, Snapshot
from salm_index.header import read_header
from salm_index.inputs import check_paths, check_query, check_rows, check_vectors, is_text
from salm_index.lock import WriterLock
from salm_index.search import Hit, search

MAX_DIMENSION = 65536
LOCK_TIMEOUT_S = 10.0
"""How long a writer waits for another one by default."""


class Index:
    """An exact inner-product index in a folder. `Index.create` makes one, `Index.open` opens one.

    An open index is a snapshot: it keeps answering from the generation it has until it writes, or `refresh` is called,
    whatever other processes commit. `add`, `remove` and `replace` each are one atomic, durable commit on top of the
    newest generation. One `Index` may be searched from several threads.
    """

    def __init__(self, path: Path, snapshot: Snapshot, lock_timeout_s: float) -> None:
        self.path = path
        self.lock_timeout_s = lock_timeout_s
        self._snapshot: Snapshot | None = snapshot
        self._write_lock = threading.Lock()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], dimension: int = 512, *, model: str, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> "Index":
        """Make an empty index and open it.

        Args:
            path: a new or empty folder; parent folders are made.
            dimension: length of the vectors.
            model: name and fingerprint of the model that makes the vectors, such as "salm-small:1f3c".
            lock_timeout_s: how long a write waits for another writer, in seconds.

        Raises:
            IndexExistsError: the folder holds an index or anything else.
            VectorError, ModelMismatchError: `dimension` or `model` is invalid.
            IndexAccessError: the folder cannot be written.
        """
        folder = Path(path)
        if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSION:
            raise VectorError(
                f"{folder}: expected dimension to be an integer from 1 to {MAX_DIMENSION}, got {dimension!r}"
            )
        if not model or not is_text(model):
            raise ModelMismatchError(f"{folder}: expected model to be the name of a model, got {model!r}")
        generations.check_creatable(folder)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with WriterLock(folder, lock_timeout_s):
                generations.check_creatable(folder)
                generations.sweep(folder, None)
                generations.create(folder, dimension, model)
        return cls.open(folder, model, lock_timeout_s=lock_timeout_s)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], model: str | None = None, *, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> "Index":
        """Open the newest committed generation. Reading needs no lock and no write permission.

        Args:
            path: the index folder.
            model: the model whose vectors will be searched or added; none skips the check.
            lock_timeout_s: how long a write waits for another writer, in seconds.

        Raises:
            IndexNotFoundError: there is no index.
            IndexCorruptError: files are damaged, missing or of another index. Files over
                `generations.CHECKSUM_AT_OPEN_BYTES` are checked by size and counts only; `verify` checks all.
            SchemaVersionError: written by another version of this package.
            ModelMismatchError: the index holds vectors of another model.
        """
        folder = Path(path)
        _check_model(folder, read_header(folder).model, model)
        return cls(folder, generations.load(folder), lock_timeout_s)

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and memory; also happens when the index is garbage-collected."""
        if self._snapshot is not None:
            self._snapshot.rows.close()
            self._snapshot = None

    def __len__(self) -> int:
        """Number of windows."""
        return self._current.header.num_windows

    def __repr__(self) -> str:
        if self._snapshot is None:
            return f"Index({str(self.path)!r}, closed)"
        return f"Index({str(self.path)!r}, {len(self)} windows, model={self.model!r}, generation={self.generation})"

    @property
    def model(self) -> str:
        """Name and fingerprint of the model that made the vectors."""
        return self._current.header.model

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._current.header.dimension

    @property
    def metric(self) -> str:
        """What a score is: "inner_product"."""
        return self._current.header.metric

    @property
    def generation(self) -> int:
        """Number of commits up to this snapshot."""
        return self._current.header.generation

    def paths(self) -> dict[str, str | None]:
        """Content hash of each recording in the index, in the order of the paths."""
        return self._current.rows.content_hashes()

    def search(
        self, query: ArrayLike, k: int = 10, where: Mapping[str, Any] | None = None, model: str | None = None
    ) -> list[Hit]:
        """The k windows that are most similar to one query. Exact, also under a filter.

        Args:
            query: shape (dimension,) or (1, dimension).
            k: how many; fewer are returned only if fewer windows match.
            where: conditions on the windows, such as ``{"azimuth_deg": (22.5, 67.5), "path": "yard/*"}``; the forms
                are listed in `salm_index.filters`.
            model: the model that made the query; none skips the check.

        Returns:
            Hits, best first; equal scores in the order in which the windows were added.

        Raises:
            VectorError, QueryError, ModelMismatchError: the query, `k` or `where`, or `model` does not fit.
        """
        return self.search_many(check_query(query, self.dimension), k, where, model)[0]

    def search_many(
        self, queries: ArrayLike, k: int = 10, where: Mapping[str, Any] | None = None, model: str | None = None
    ) -> list[list[Hit]]:
        """`search` for each of several queries under one filter; the answers are the same as one by one.

        Args:
            queries: shape (count, dimension).
            k, where, model: as in `search`.
        """
        snapshot = self._current
        _check_model(self.path, snapshot.header.model, model)
        return search(snapshot, check_vectors(queries, snapshot.header.dimension, "query"), k, where)

    def add(self, vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add windows in one durable commit. All or none: any error leaves the index as it was.

        A commit rewrites the files of the index: its cost grows with all that is in it, so add in big batches.

        Args:
            vectors: shape (count, dimension), finite and not zero; normally L2-normalised.
            rows: one dict per vector: `path`, `start_s`, `end_s` (seconds), and optionally `azimuth_deg` in
                [-180, 180], `elevation_deg` in [-90, 90], `content_hash` (text, one per path), and any other fields
                that are JSON: the window's metadata.

        Raises:
            VectorError, RowError: a vector or row is invalid, or its window is in the index already.
            IndexLockedError: another writer did not finish within `lock_timeout_s`.
            IndexAccessError: the folder cannot be written, or the disk is full.
        """
        self._commit((), vectors, rows)

    def remove(self, paths: str | Iterable[str]) -> int:
        """Remove all windows of these recordings in one durable commit.

        Args:
            paths: paths as they were added (no patterns); unknown ones are passed over.

        Returns:
            The number of windows removed; 0 means that nothing was committed.

        Raises:
            IndexLockedError, IndexAccessError: as in `add`.
        """
        return self._commit(paths, np.empty((0, self.dimension), np.float32), [])

    def replace(self, paths: str | Iterable[str], vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> int:
        """Put new windows in place of all windows of these recordings, in one durable commit.

        Nobody ever sees a recording without its windows, or with old and new ones mixed.

        Args:
            paths: the recordings whose windows go; they need not be in the index.
            vectors, rows: the windows that come, as in `add`; their paths must be among `paths`.

        Returns:
            The number of windows removed.

        Raises:
            As in `add`; RowError as well for a row of another path.
        """
        paths = check_paths(paths)
        return self._commit(paths, vectors, rows, only_paths=set(paths))

    def refresh(self) -> bool:
        """Move on to the newest committed generation.

        Returns:
            Whether there was a newer one.

        Raises:
            ModelMismatchError: the folder now holds an index of another model or dimension.
        """
        header = self._current.header
        newest = read_header(self.path)
        if newest == header:
            return False
        _check_model(self.path, newest.model, header.model)
        if newest.dimension != header.dimension:
            raise ModelMismatchError(
                f"{self.path}: expected dimension {header.dimension}, got {newest.dimension}: another index was made "
                "here; open it again"
            )
        self._snapshot = generations.load(self.path)
        return True

    def verify(self) -> None:
        """Check all of the newest committed generation on disk: checksums, counts, and that rows and vectors agree.

        Raises:
            IndexCorruptError: the message names the file and what to do.
        """
        generations.load(self.path, full=True).rows.close()

    @property
    def _current(self) -> Snapshot:
        if self._snapshot is None:
            raise SalmIndexError(f"{self.path}: this index is closed; open it again with Index.open")
        return self._snapshot

    def _commit(
        self,
        removed_paths: str | Iterable[str],
        vectors: ArrayLike,
        rows: Sequence[Mapping[str, Any]],
        only_paths: set[str] | None = None,
    ) -> int:
        removed_paths = check_paths(removed_paths)
        vectors = check_vectors(vectors, self.dimension, "vectors")
        checked = check_rows(rows, len(vectors))
        for number, row in enumerate(checked):
            if only_paths is not None and row.path not in only_paths:
                raise RowError(f"row {number} ({row.describe()}): its path is not among the replaced paths; use add")
        with self._write_lock, _writing(self.path), WriterLock(self.path, self.lock_timeout_s):
            self.refresh()
            base = self._current
            removed_ids = base.rows.ids_of_paths(removed_paths)
            if removed_ids.size or checked:
                generations.sweep(self.path, base.header)
                self._snapshot = generations.commit(self.path, base, Change(removed_ids, vectors, checked))
        return len(removed_ids)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise IndexAccessError(
            f"{folder}: cannot be written ({error}); what was committed before is still there: "
            "check free space and permissions, and run again"
        ) from error


def _check_model(folder: Path, expected: str, model: str | None) -> None:
    if model is not None and model != expected:
        raise ModelMismatchError(
            f"{folder}: holds vectors of model {expected!r}, got vectors of model {model!r}; "
            f"use {expected!r}, or index the recordings with {model!r} into another folder"
        )
