"""`Index`: vectors of windows of recordings in a folder, with a row for each, and a search over them."""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from salm_index import files, generations
from salm_index.errors import IndexAccessError, ModelMismatchError, RowError, VectorError
from salm_index.generations import Change, Snapshot
from salm_index.header import Header
from salm_index.inputs import (
    check_dimension,
    check_kind,
    check_model_name,
    check_paths,
    check_recall,
    check_rows,
    check_vectors,
)
from salm_index.lock import WriterLock
from salm_index.merge import merged_header, write_merged
from salm_index.reader import LOCK_TIMEOUT_S, Reader


class Index(Reader):
    """An inner-product index in a folder. `Index.create` makes one, `Index.open` opens one.

    An open index is a snapshot: it keeps answering from the generation it has until it writes, or `refresh` is called,
    whatever other processes commit. `add`, `remove`, `replace` and `compact` each are one atomic, durable commit on top
    of the newest generation. One `Index` may be searched from several threads.
    """

    def __init__(self, path: Path, snapshot: Snapshot, lock_timeout_s: float) -> None:
        super().__init__(path, snapshot, lock_timeout_s)
        self._write_lock = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        dimension: int = 512,
        *,
        model: str,
        kind: str = "auto",
        recall: float = 0.99,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> "Index":
        """Make an empty index and open it.

        Args:
            path: a new or empty folder; parent folders are made.
            dimension: length of the vectors.
            model: name and fingerprint of the model that makes the vectors, such as "salm-small:1f3c".
            kind: "flat" is always exact; "ivf" reads the nearest lists of windows only; "auto" is flat up to
                `lists.FLAT_LIMIT` windows, then ivf. Searches with a filter are exact in any kind.
            recall: the share of the true neighbours that a search of kind "ivf" must find. It is measured when the
                lists are made, and decides how many of them a search reads; see `salm_index.tuning`.
            lock_timeout_s: how long a write waits for another writer, in seconds.

        Raises:
            IndexExistsError: the folder holds an index or anything else.
            VectorError, ModelMismatchError, QueryError: `dimension`, `model`, or `kind` or `recall` is invalid.
            IndexAccessError: the folder cannot be written.
        """
        folder = Path(path)
        kind, recall = check_kind(kind), check_recall(recall)
        try:
            header = Header(check_model_name(model), check_dimension(dimension), kind=kind, recall=recall)
        except (VectorError, ModelMismatchError) as error:
            raise type(error)(f"{folder}: {error}") from None
        with _creating(folder, lock_timeout_s):
            generations.switch(folder, header)
        return cls.open(folder, model, lock_timeout_s=lock_timeout_s)

    @classmethod
    def merge(
        cls,
        first: str | os.PathLike[str],
        second: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> "Index":
        """Make an index of the windows of two others, which stay as they are, and open it.

        A recording that both have with one content hash is taken once. Kind and recall are those of `first`.

        Args:
            first, second: folders of indexes of one model.
            out: a new or empty folder.
            lock_timeout_s: as in `create`.

        Raises:
            ModelMismatchError: the indexes are of different models or dimensions.
            RowError: they hold different contents of one path, or contents without hash.
            IndexExistsError, IndexAccessError: as in `create`.
            IndexNotFoundError, IndexCorruptError: as in `open`.
        """
        folder = Path(out)
        with cls.open(first) as one, cls.open(second) as other:
            header = merged_header(one._current, other._current, (one.path, other.path))
            with _creating(folder, lock_timeout_s):
                write_merged(folder, one._current, other._current, header)
        return cls.open(folder, lock_timeout_s=lock_timeout_s)

    def add(self, vectors: ArrayLike, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add windows in one durable commit. All or none: any error leaves the index as it was.

        A commit writes the new windows, and now and then merges smaller segments before them; memory is that of the
        batch. So an archive of any size is a loop of adds, of some thousand windows each.

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

    def compact(self, *, kind: str | None = None, recall: float | None = None) -> bool:
        """Write the index anew in as few segments as can be: frees what removed windows take, and searches get faster.

        Args:
            kind, recall: change these, as in `create`; none leaves them.

        Returns:
            Whether there was anything to do.

        Raises:
            IndexLockedError, IndexAccessError: as in `add`.
        """
        kind = None if kind is None else check_kind(kind)
        recall = None if recall is None else check_recall(recall)
        with self._writing() as base:
            header = base.header
            self._snapshot = generations.compact(self.path, base, kind or header.kind, recall or header.recall)
            return self._snapshot is not base

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
        with self._writing() as base:
            removed = base.windows_of_paths(removed_paths)
            if removed or checked:
                self._snapshot = generations.commit(self.path, base, Change(removed, vectors, checked))
        return len(removed)

    @contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """The newest generation, with the lock held and nothing of a crash left behind."""
        with self._write_lock, _os_errors(self.path), WriterLock(self.path, self.lock_timeout_s):
            self.refresh()
            base = self._current
            generations.sweep(self.path, base.header)
            yield base


@contextmanager
def _creating(folder: Path, lock_timeout_s: float) -> Iterator[None]:
    """Within it, the folder is there, holds nothing but a lock, and the lock is held."""
    generations.check_creatable(folder)
    with _os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with WriterLock(folder, lock_timeout_s):
            generations.check_creatable(folder)
            generations.sweep(folder, None)
            yield
            files.sync_folder(folder.absolute().parent)


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise IndexAccessError(
            f"{folder}: cannot be written ({error}); what was committed before is still there: "
            "check free space and permissions, and run again"
        ) from error
