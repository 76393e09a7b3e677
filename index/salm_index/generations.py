"""Generations on disk: how one is loaded, how the next one is committed, and what is swept away.

A commit writes the two files of the next generation, syncs them, and then replaces `index.json`: before that moment
the old generation is the committed one, after it the new one. Old files are deleted only when the new `index.json` is
known to be on disk. Whoever opened an old generation keeps it; whoever was about to open it finds the new one.

A commit writes every file anew, so its cost grows with the whole index and not with what is added: add in big batches.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salm_index.errors import IndexAccessError, IndexCorruptError, IndexExistsError, SalmIndexError
from salm_index.header import HEADER_NAME, RESTORE, FileRecord, Header, read_header, rows_name, vectors_name
from salm_index.inputs import vector_norms
from salm_index.lock import LOCK_NAME
from salm_index.rows import Row, Rows, write_rows
from salm_index.vectors import FlatVectors

CHECKSUM_AT_OPEN_BYTES = 256 * 2**20
"""Files up to this size are checksummed whenever they are opened (0.3 s at most); larger ones by `Index.verify`."""

NORM_TOLERANCE = 1e-12
"""Relative rounding error of a norm in float64."""

TEMPORARY_HEADER_NAME = HEADER_NAME + ".tmp"
OWN_FILE = re.compile(r"(vectors-\d{8,}\.faiss|rows-\d{8,}\.sqlite(-journal)?|index\.json\.tmp)")
"""Names that only this module writes; nothing else in the folder is ever deleted."""


@dataclass(frozen=True)
class Snapshot:
    """One committed generation, loaded."""

    header: Header
    vectors: FlatVectors
    rows: Rows


@dataclass(frozen=True)
class Change:
    """What a commit does: first the windows with these ids go, then the new ones come.

    Args:
        removed_ids: shape (removed,).
        vectors: shape (added, dimension).
        rows: one per vector.
    """

    removed_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    rows: list[Row]


def load(folder: Path, full: bool = False) -> Snapshot:
    """Load the committed generation.

    Args:
        folder: the index folder.
        full: checksum every file, and compare every row with every vector.

    Raises:
        IndexNotFoundError, SchemaVersionError, IndexAccessError: see `read_header`.
        IndexCorruptError: the files are not those that the commit wrote.
    """
    while True:
        header = read_header(folder)
        try:
            return _load(folder, header, full)
        except (SalmIndexError, OSError) as error:
            # A writer may have committed, and deleted these files, between reading the header and opening them.
            if read_header(folder) != header:
                continue
            if isinstance(error, SalmIndexError):
                raise
            raise IndexAccessError(f"{folder}: cannot be read ({error}); check permissions and the disk") from error


def _load(folder: Path, header: Header, full: bool) -> Snapshot:
    for record in (header.vectors, header.rows):
        _check_file(folder / record.name, record, full)
    vectors = FlatVectors.read(folder / header.vectors.name, header.dimension)
    rows = Rows(folder / header.rows.name, header.generation)
    counts = (len(vectors), len(rows))
    if counts != (header.num_windows, header.num_windows):
        raise IndexCorruptError(
            f"{folder}: expected {header.num_windows} vectors and rows, got {counts[0]} in {header.vectors.name} and "
            f"{counts[1]} in {header.rows.name}; {RESTORE}"
        )
    if full:
        _check_agreement(folder, header, vectors, rows)
    return Snapshot(header, vectors, rows)


def _check_file(path: Path, record: FileRecord, full: bool) -> None:
    try:
        num_bytes = path.stat().st_size
    except FileNotFoundError:
        raise IndexCorruptError(
            f"{path}: expected this file, which {HEADER_NAME} names; it is gone; {RESTORE}"
        ) from None
    if num_bytes != record.num_bytes:
        raise IndexCorruptError(f"{path}: expected {record.num_bytes} bytes, got {num_bytes}; {RESTORE}")
    if (full or num_bytes <= CHECKSUM_AT_OPEN_BYTES) and (sha256 := _sha256(path)) != record.sha256:
        raise IndexCorruptError(
            f"{path}: expected checksum {record.sha256[:12]}, got {sha256[:12]}: damaged or foreign; {RESTORE}"
        )


def _check_agreement(folder: Path, header: Header, vectors: FlatVectors, rows: Rows) -> None:
    rows.check()
    ids = rows.ids()
    if not np.array_equal(ids, vectors.ids) or (ids.size and not 0 <= ids[0] <= ids[-1] < header.next_id):
        raise IndexCorruptError(
            f"{folder}: the ids in {header.rows.name} are not those in {header.vectors.name}; {RESTORE}"
        )
    norms = vector_norms(vectors.matrix)
    if not np.all((norms > 0) & (norms <= header.max_norm * (1 + NORM_TOLERANCE))):
        raise IndexCorruptError(
            f"{folder / header.vectors.name}: holds vectors that are zero, not finite or too long; {RESTORE}"
        )
    num_recordings = len(rows.content_hashes())
    if num_recordings != header.num_recordings:
        raise IndexCorruptError(
            f"{folder / header.rows.name}: expected {header.num_recordings} paths, got {num_recordings}; {RESTORE}"
        )


def check_creatable(folder: Path) -> None:
    """Refuse a folder that holds anything but what a creation that did not finish has left.

    Raises:
        IndexExistsError: it holds an index, or something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise IndexExistsError(f"{folder}: expected a new or empty folder, got a file; choose another path")
    names = {path.name for path in folder.iterdir()}
    if HEADER_NAME in names:
        raise IndexExistsError(f"{folder}: is an index already; use Index.open, or delete the folder to start again")
    foreign = sorted(name for name in names if name != LOCK_NAME and not OWN_FILE.fullmatch(name))
    if foreign:
        raise IndexExistsError(
            f"{folder}: expected a new or empty folder, got one with {foreign[0]!r} in it ({len(foreign)} entries); "
            "choose another path"
        )


def create(folder: Path, dimension: int, model: str) -> None:
    """Commit generation 0, which is empty. The caller holds the lock."""
    vectors = FlatVectors(np.empty((0, dimension), np.float32), np.empty(0, np.int64))
    vectors.write(folder / vectors_name(0))
    write_rows(folder / rows_name(0), generation=0)
    header = Header(
        model=model,
        dimension=dimension,
        generation=0,
        num_windows=0,
        num_recordings=0,
        next_id=0,
        max_norm=0.0,
        vectors=_record(folder / vectors_name(0)),
        rows=_record(folder / rows_name(0)),
    )
    _switch(folder, header)
    _sync_folder(folder.absolute().parent)


def commit(folder: Path, base: Snapshot, change: Change) -> Snapshot:
    """Commit `change` as the generation after `base`. The caller holds the lock, and `base` is the newest.

    Either all of it is committed or nothing; on an error in between, `base` stays committed.

    Raises:
        RowError: a window is in the index already.
        OSError, sqlite3.Error: a file cannot be written.
    """
    generation = base.header.generation + 1
    rows_path, vectors_path = folder / rows_name(generation), folder / vectors_name(generation)
    first_id = base.header.next_id
    added_ids = np.arange(first_id, first_id + len(change.rows), dtype=np.int64)
    # A damaged file must not be copied into a generation with a valid checksum.
    _check_file(folder / base.header.rows.name, base.header.rows, full=True)
    try:
        num_recordings = write_rows(
            rows_path,
            generation,
            source=folder / base.header.rows.name,
            removed_ids=change.removed_ids,
            added=change.rows,
            first_id=first_id,
        )
        vectors = base.vectors.edited(change.removed_ids, change.vectors, added_ids)
        vectors.write(vectors_path)
        header = replace(
            base.header,
            generation=generation,
            num_windows=len(vectors),
            num_recordings=num_recordings,
            next_id=first_id + len(added_ids),
            max_norm=float(max(base.header.max_norm, vector_norms(change.vectors).max(initial=0.0))),
            vectors=_record(vectors_path),
            rows=_record(rows_path),
        )
        _switch(folder, header)
    except BaseException:
        _discard(folder, generation)
        raise
    snapshot = Snapshot(header, vectors, Rows(rows_path, generation))
    sweep(folder, header)
    return snapshot


def sweep(folder: Path, header: Header | None) -> None:
    """Delete the files of every generation but the committed one: old ones, and those that a crash left unfinished.

    Args:
        folder: the index folder, whose lock the caller holds.
        header: the committed generation; none while there is no index yet.
    """
    keep = (header.vectors.name, header.rows.name) if header else ()
    # What is committed must be on disk before what it replaced is deleted; its writer may have died before its sync.
    _sync_folder(folder)
    for path in folder.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in keep:
            _delete(path)


def _switch(folder: Path, header: Header) -> None:
    for record in (header.vectors, header.rows):
        _sync_file(folder / record.name)
    temporary = folder / TEMPORARY_HEADER_NAME
    temporary.write_text(header.to_json(), encoding="utf-8")
    _sync_file(temporary)
    _sync_folder(folder)
    os.replace(temporary, folder / HEADER_NAME)
    _sync_folder(folder)


def _discard(folder: Path, generation: int) -> None:
    """Delete what a failed commit wrote, unless it failed after the switch."""
    try:
        committed = read_header(folder).generation
    except SalmIndexError:
        return
    if committed != generation:
        for name in (vectors_name(generation), rows_name(generation), TEMPORARY_HEADER_NAME):
            _delete(folder / name)


def _delete(path: Path) -> None:
    # Windows keeps files that a reader has open; the next writer tries again.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.name, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    file_descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)
