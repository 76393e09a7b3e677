"""`Reader`: what can be asked of an index without changing it; `Index` adds the rest."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from numpy.typing import ArrayLike

from salm_index import generations
from salm_index.errors import IndexAccessError, ModelMismatchError, SalmIndexError
from salm_index.export import export
from salm_index.generations import Snapshot
from salm_index.header import read_header
from salm_index.inputs import check_vectors
from salm_index.search import Hit, search
from salm_index.searchable import Searchable
from salm_index.stats import Stats, measure

LOCK_TIMEOUT_S = 10.0
"""How long a writer waits for another one by default."""


class Reader(Searchable):
    """A snapshot of a committed generation; `refresh` moves on to the newest. Several threads may search it."""

    def __init__(self, path: Path, snapshot: Snapshot, lock_timeout_s: float) -> None:
        self.path = path
        self.lock_timeout_s = lock_timeout_s
        self._snapshot: Snapshot | None = snapshot

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], model: str | None = None, *, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> Self:
        """Open the newest committed generation. Reading needs no lock and no write permission.

        Args:
            path: the index folder.
            model: the model whose vectors will be searched or added; none skips the check.
            lock_timeout_s: how long a write waits for another writer, in seconds.

        Raises:
            IndexNotFoundError: there is no index.
            IndexCorruptError: files are damaged, missing or of another index. Files beyond
                `generations.CHECKSUM_AT_OPEN_BYTES` are checked by size and counts only; `verify` checks all.
            SchemaVersionError: written by another version of this package.
            ModelMismatchError: the index holds vectors of another model.
        """
        folder = Path(path)
        check_same_model(folder, read_header(folder).model, model)
        return cls(folder, generations.load(folder), lock_timeout_s)

    def close(self) -> None:
        """Release files and memory; also happens when the index is garbage-collected."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def __len__(self) -> int:
        return self._current.header.num_windows

    def __repr__(self) -> str:
        name = f"{type(self).__name__}({str(self.path)!r}"
        if self._snapshot is None:
            return f"{name}, closed)"
        return f"{name}, {len(self)} windows, {self.kind}, model={self.model!r}, generation={self.generation})"

    @property
    def model(self) -> str:
        return self._current.header.model

    @property
    def dimension(self) -> int:
        return self._current.header.dimension

    @property
    def generation(self) -> int:
        """Number of commits up to this snapshot."""
        return self._current.header.generation

    @property
    def kind(self) -> str:
        return self.stats().kind

    def paths(self) -> dict[str, str | None]:
        return self._current.content_hashes()

    def search_many(
        self,
        queries: ArrayLike,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        snapshot = self._current
        check_same_model(self.path, snapshot.header.model, model)
        return search(snapshot, check_vectors(queries, snapshot.header.dimension, "query"), k, where, exact)

    def refresh(self) -> bool:
        """Move on to the newest committed generation.

        Returns:
            Whether there was a newer one.

        Raises:
            ModelMismatchError: the folder now holds an index of another model or dimension.
        """
        current = self._current
        newest = read_header(self.path)
        if newest == current.header:
            return False
        check_same_model(self.path, newest.model, current.header.model)
        if newest.dimension != current.header.dimension:
            raise ModelMismatchError(
                f"{self.path}: expected dimension {current.header.dimension}, got {newest.dimension}: another index "
                "was made here; open it again"
            )
        self._snapshot = generations.load(self.path, known=current)
        return True

    def verify(self) -> None:
        """Check all of the newest committed generation on disk: checksums, counts, and that rows and vectors agree.

        Raises:
            IndexCorruptError: the message names the file and what to do.
        """
        generations.load(self.path, full=True).close()

    def stats(self) -> Stats:
        """What the index is made of, in numbers."""
        return measure(self.path, self._current)

    def export(self, folder: str | os.PathLike[str]) -> None:
        """Write all windows as `vectors.npy` (float32) and `rows.parquet`, row for row.

        Args:
            folder: a new or empty folder.

        Raises:
            MissingDependencyError: pyarrow is not installed.
            IndexExistsError: the folder holds something.
            IndexAccessError: it cannot be written.
        """
        try:
            export(self._current, Path(folder))
        except OSError as error:
            raise IndexAccessError(
                f"{folder}: cannot be written ({error}); check free space and permissions, and run again"
            ) from error

    @property
    def _current(self) -> Snapshot:
        if self._snapshot is None:
            raise SalmIndexError(f"{self.path}: this index is closed; open it again with Index.open")
        return self._snapshot


def check_same_model(folder: Path, expected: str, model: str | None) -> None:
    """Refuse vectors of another model than the index's; None skips the check.

    Raises:
        ModelMismatchError: the models differ.
    """
    if model is not None and model != expected:
        raise ModelMismatchError(
            f"{folder}: holds vectors of model {expected!r}, got vectors of model {model!r}; "
            f"use {expected!r}, or index the recordings with {model!r} into another folder"
        )
