"""Files that are on disk for certain, and files that are what they were: syncing, checksums, deleting."""

import contextlib
import hashlib
import os
from pathlib import Path

from salm_index.errors import IndexCorruptError
from salm_index.header import HEADER_NAME, RESTORE, FileRecord


def record(path: Path) -> FileRecord:
    """What `check` compares a file with later."""
    return FileRecord(path.name, path.stat().st_size, _sha256(path))


def check(folder: Path, expected: FileRecord, checksum: bool) -> None:
    """Compare a file with its record: its size, and, if wanted, its checksum.

    Raises:
        IndexCorruptError: they differ, or there is no such file.
    """
    path = folder / expected.name
    try:
        num_bytes = path.stat().st_size
    except FileNotFoundError:
        raise IndexCorruptError(
            f"{path}: expected this file, which {HEADER_NAME} names; it is gone; {RESTORE}"
        ) from None
    if num_bytes != expected.num_bytes:
        raise IndexCorruptError(f"{path}: expected {expected.num_bytes} bytes, got {num_bytes}; {RESTORE}")
    if checksum and (sha256 := _sha256(path)) != expected.sha256:
        raise IndexCorruptError(
            f"{path}: expected checksum {expected.sha256[:12]}, got {sha256[:12]}: damaged or foreign; {RESTORE}"
        )


def delete(path: Path) -> None:
    """Delete a file, if the system lets us."""
    # Windows keeps files that a reader has open; the next writer tries again.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Return when the contents of a file are on disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on disk."""
    if os.name != "posix":
        return
    file_descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
