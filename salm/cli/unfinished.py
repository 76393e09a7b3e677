"""The first windows of recordings that are being encoded, kept in the index folder: so an interruption costs little.

An index never holds half a recording; without this, one of many hours would begin anew after every interruption.
"""

import hashlib
import json
import os
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from salm.cli.jobs import Begun

MIN_WINDOWS = 64
"""Recordings with fewer encoded windows are not kept: to encode them again takes seconds."""

SAVE_S = 30.0


class Unfinished:
    """Files `unfinished-*.npz` in a folder, one for each recording. A run replaces them whole.

    Args:
        folder: of the index.
        model_id: those of another model are left alone.
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        self.folder, self.model_id = folder, model_id
        self._next_save_s = time.monotonic() + SAVE_S

    def load(self) -> dict[str, Begun]:
        """What earlier runs have left, by path; what is damaged, or of a recording that is gone, is deleted."""
        found = {}
        for half_written in self.folder.glob("unfinished-*.tmp"):
            _delete(half_written)
        for file in self.folder.glob("unfinished-*.npz"):
            try:
                with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                    told = json.loads(str(content["about"]))
                    begun = Begun(told["content_hash"], content["vectors"], told["rows"])
                    path, model_id = told["path"], told["model"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                _delete(file)
                continue
            if not os.path.isfile(path) or len(begun.vectors) != len(begun.rows):
                _delete(file)
            elif model_id == self.model_id:
                found[path] = begun
        return found

    def is_due(self) -> bool:
        """Whether the last `save` is so long ago that the next one is worth it."""
        return time.monotonic() >= self._next_save_s

    def save(self, path: str, begun: Begun) -> None:
        """Keep the first windows of a recording, if they are many and there is room; the commit reports a full disk."""
        self._next_save_s = time.monotonic() + SAVE_S
        if len(begun.rows) < MIN_WINDOWS:
            return
        told = {"path": path, "model": self.model_id, "content_hash": begun.content_hash, "rows": begun.rows}
        file = self._file(path)
        partial = file.with_suffix(".tmp")
        try:
            with partial.open("wb") as stream:
                np.savez(stream, about=json.dumps(told), vectors=begun.vectors)
            partial.replace(file)
        except OSError:
            _delete(partial)

    def forget(self, path: str) -> None:
        """The recording is in the index now."""
        _delete(self._file(path))

    def _file(self, path: str) -> Path:
        return self.folder / f"unfinished-{hashlib.sha256(path.encode()).hexdigest()[:16]}.npz"


def _delete(file: Path) -> None:
    """If it can be: nothing is wrong with an index that has such a file beside it."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
