"""Generations on disk: how one is loaded, how the next one is committed, and what is swept away.

A commit writes the files that the next generation has beyond those of the old one, syncs them, and then replaces
`index.json`: before that moment the old generation is the committed one, after it the new one. Files that no generation
needs any more are deleted only when the new `index.json` is known to be on disk. Whoever opened an old generation keeps
it; whoever was about to open it finds the new one.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salm_index import files
from salm_index.compaction import Group, Size, plan_commit, plan_compaction
from salm_index.errors import IndexAccessError, IndexCorruptError, IndexExistsError, SalmIndexError
from salm_index.header import FILE_NAMES, HEADER_NAME, RESTORE, FileRecord, Header, SegmentRecord, read_header
from salm_index.inputs import check_new, vector_norms
from salm_index.lists import wants_lists
from salm_index.lock import LOCK_NAME
from salm_index.rows import Row, Window
from salm_index.segments import Batch, Part, Segment, write_segment

CHECKSUM_AT_OPEN_BYTES = 256 * 2**20
"""Files are checksummed whenever they are opened, the smallest first, until these are so many bytes (0.3 s at most);
the others by `Index.verify`."""

TEMPORARY_HEADER_NAME = HEADER_NAME + ".tmp"


@dataclass(frozen=True)
class Snapshot:
    """One committed generation, loaded."""

    header: Header
    parts: tuple[Part, ...]
    removed_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def windows_of_paths(self, paths: Iterable[str]) -> list[Window]:
        """All windows of these paths."""
        paths = list(paths)
        return [window for part in self.parts for window in part.windows_of_paths(paths)]

    def content_hashes(self) -> dict[str, str | None]:
        """Content hash of each path, in the order of the paths."""
        hashes: dict[str, str | None] = {}
        for part in self.parts:
            hashes |= part.segment.rows.content_hashes(part.removed_ids)
        return dict(sorted(hashes.items()))

    def close(self) -> None:
        """Close the files."""
        for part in self.parts:
            part.segment.rows.close()


@dataclass(frozen=True)
class Change:
    """What a commit does: first these windows go, then the new ones come.

    Args:
        removed: windows that are in the index.
        vectors: shape (added, dimension).
        rows: one per vector.
    """

    removed: list[Window]
    vectors: NDArray[np.float32]
    rows: list[Row]


def load(folder: Path, full: bool = False, known: Snapshot | None = None) -> Snapshot:
    """Load the committed generation.

    Args:
        folder: the index folder.
        full: checksum every file, and compare every row with every vector.
        known: a generation whose open segments are used again.

    Raises:
        IndexNotFoundError, SchemaVersionError, IndexAccessError: see `read_header`.
        IndexCorruptError: the files are not those that the commit wrote.
    """
    while True:
        header = read_header(folder)
        try:
            return _load(folder, header, full, known)
        except (SalmIndexError, OSError) as error:
            # A writer may have committed, and deleted these files, between reading the header and opening them.
            if read_header(folder) != header:
                continue
            if isinstance(error, SalmIndexError):
                raise
            raise IndexAccessError(f"{folder}: cannot be read ({error}); check permissions and the disk") from error


def _load(folder: Path, header: Header, full: bool, known: Snapshot | None) -> Snapshot:
    opened = {part.segment.record: part.segment for part in known.parts} if known else {}
    budget_bytes = CHECKSUM_AT_OPEN_BYTES
    new = [segment.files for segment in header.segments if segment not in opened]
    removed = () if header.removed is None else (header.removed,)
    for record in sorted(chain(*new, removed), key=lambda record: record.num_bytes):
        budget_bytes -= record.num_bytes
        files.check(folder, record, checksum=full or budget_bytes >= 0)
    segments = [opened.get(record) or Segment.open(folder, record, header.dimension) for record in header.segments]
    removed_ids = np.empty(0, np.int64) if header.removed is None else _read_removed(folder / header.removed.name)
    snapshot = Snapshot(header, tuple(Part(segment, removed_ids) for segment in segments), removed_ids)
    _check_counts(folder, snapshot)
    if full:
        for segment in segments:
            segment.check(header.max_norm)
        num_recordings = len(snapshot.content_hashes())
        if num_recordings != header.num_recordings:
            raise IndexCorruptError(
                f"{folder}: expected {header.num_recordings} paths, got {num_recordings} in the rows; {RESTORE}"
            )
    return snapshot


def _read_removed(path: Path) -> NDArray[np.int64]:
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IndexCorruptError(f"{path}: cannot be read as removed ids ({error}); {RESTORE}") from error
    if ids.dtype != np.int64 or ids.ndim != 1 or np.any(np.diff(ids) <= 0):
        raise IndexCorruptError(f"{path}: expected ascending ids, got {ids.dtype} of shape {ids.shape}; {RESTORE}")
    return ids


def _check_counts(folder: Path, snapshot: Snapshot) -> None:
    header = snapshot.header
    last_id = -1
    for segment in (part.segment for part in snapshot.parts if len(part.segment.vectors)):
        ids = segment.vectors.ids
        if not last_id < ids[0] <= ids[-1] < header.next_id:
            raise IndexCorruptError(
                f"{folder / segment.record.vectors.name}: its ids do not follow on those of the segments before it; "
                f"{RESTORE}"
            )
        last_id = ids[-1]
    num_removed = sum(len(part.removed_ids) for part in snapshot.parts)
    counts = (sum(map(len, snapshot.parts)), num_removed)
    if counts != (header.num_windows, len(snapshot.removed_ids)):
        raise IndexCorruptError(
            f"{folder}: expected {header.num_windows} windows and {len(snapshot.removed_ids)} removed ones, got "
            f"{counts[0]} and {counts[1]} in its segments; {RESTORE}"
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
    foreign = sorted(name for name in names if name != LOCK_NAME and not is_own_file(name))
    if foreign:
        raise IndexExistsError(
            f"{folder}: expected a new or empty folder, got one with {foreign[0]!r} in it ({len(foreign)} entries); "
            "choose another path"
        )


def commit(folder: Path, base: Snapshot, change: Change) -> Snapshot:
    """Commit `change` as the generation after `base`. The caller holds the lock, and `base` is the newest.

    Either all of it is committed or nothing; on an error in between, `base` stays committed.

    Raises:
        RowError: a window is in the index already.
        IndexCorruptError: a file that would be copied is damaged.
        OSError, sqlite3.Error: a file cannot be written.
    """
    header = base.header
    gone = {window.id for window in change.removed}
    known = [w for w in base.windows_of_paths({row.path for row in change.rows}) if w.id not in gone]
    check_new(change.rows, known)
    paths_before = {window.path for window in (*change.removed, *known)}
    paths_after = {row.path for row in change.rows} | {window.path for window in known}
    header = replace(
        header,
        generation=header.generation + 1,
        num_windows=header.num_windows - len(gone) + len(change.rows),
        num_recordings=header.num_recordings + len(paths_after) - len(paths_before),
        next_id=header.next_id + len(change.rows),
        max_norm=float(max(header.max_norm, vector_norms(change.vectors).max(initial=0.0))),
    )
    removed_ids = np.union1d(base.removed_ids, np.fromiter(gone, np.int64, len(gone)))
    parts = [Part(part.segment, removed_ids) for part in base.parts]
    groups = plan_commit([Size(len(part), len(part.removed_ids)) for part in parts], len(change.rows))
    added_ids = np.arange(base.header.next_id, header.next_id, dtype=np.int64)
    return _write(folder, base, header, parts, groups, Batch(added_ids, change.vectors, change.rows))


def compact(folder: Path, base: Snapshot, kind: str, recall: float) -> Snapshot:
    """Commit the same windows in as few segments as can be, all of this kind. As `commit` otherwise.

    Returns:
        `base` itself if there is nothing to do.
    """
    header = replace(base.header, generation=base.header.generation + 1, kind=kind, recall=recall)
    is_changed = (kind, recall) != (base.header.kind, base.header.recall)
    records = [part.segment.record for part in base.parts]
    stale = [is_changed and (r.lists is not None or wants_lists(kind, r.num_windows)) for r in records]
    groups = plan_compaction([Size(len(part), len(part.removed_ids)) for part in base.parts], stale)
    if not is_changed and len(groups) == len(records) and not any(group.rewrite for group in groups):
        return base
    nothing = Batch(np.empty(0, np.int64), np.empty((0, header.dimension), np.float32), [])
    return _write(folder, base, header, list(base.parts), groups, nothing)


def _write(
    folder: Path, base: Snapshot, header: Header, parts: list[Part], groups: list[Group], added: Batch
) -> Snapshot:
    segments: list[SegmentRecord] = []
    num_written = 0
    still_removed: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    try:
        for number, group in enumerate(groups):
            sources = [parts[place] for place in group.places]
            if not group.rewrite:
                segments.append(sources[0].segment.record)
                still_removed.append(sources[0].removed_ids)
                continue
            new = added if len(added.ids) and number == len(groups) - 1 else None
            batches = chain(checked_batches(sources), [new] if new else [])
            num_windows = sum(map(len, sources)) + (len(new.ids) if new else 0)
            segments.append(write_segment(folder, header, num_written, num_windows, batches))
            num_written += 1
        removed = _write_removed(folder, header.generation, np.concatenate(still_removed))
        header = replace(header, segments=tuple(segments), removed=removed)
        switch(folder, header)
    except BaseException:
        _discard(folder, header.generation)
        raise
    snapshot = load(folder, known=base)
    sweep(folder, header)
    return snapshot


def checked_batches(parts: Iterable[Part]) -> Iterator[Batch]:
    """The windows of segments whose files still have their checksums: damage must not get a new, valid one."""
    for part in parts:
        for record in (part.segment.record.vectors, part.segment.record.rows):
            files.check(part.segment.rows.path.parent, record, checksum=True)
        yield from part.batches()


def _write_removed(folder: Path, generation: int, ids: NDArray[np.int64]) -> FileRecord | None:
    if not ids.size:
        return None
    path = folder / f"removed-{generation:08d}.npy"
    with path.open("wb") as file:
        np.save(file, ids)
    return files.record(path)


def sweep(folder: Path, header: Header | None) -> None:
    """Delete the files of every generation but the committed one: old ones, and those that a crash left unfinished.

    Args:
        folder: the index folder, whose lock the caller holds.
        header: the committed generation; none while there is no index yet.
    """
    # What is committed must be on disk before what it replaced is deleted; its writer may have died before its sync.
    files.sync_folder(folder)
    _delete_all_but(folder, header)


def switch(folder: Path, header: Header) -> None:
    """Make `header` the committed generation; its files are written."""
    for record in header.files:
        if _is_written_by(record, header.generation):
            files.sync_file(folder / record.name)
    temporary = folder / TEMPORARY_HEADER_NAME
    temporary.write_text(header.to_json(), encoding="utf-8")
    files.sync_file(temporary)
    files.sync_folder(folder)
    os.replace(temporary, folder / HEADER_NAME)
    files.sync_folder(folder)


def is_own_file(name: str) -> bool:
    """Whether only this package writes files of this name; nothing else in the folder is ever deleted."""
    name = name.removesuffix("-journal")
    return name == TEMPORARY_HEADER_NAME or any(pattern.fullmatch(name) for pattern in FILE_NAMES.values())


def _is_written_by(record: FileRecord, generation: int) -> bool:
    return f"-{generation:08d}" in record.name


def _discard(folder: Path, generation: int) -> None:
    """Delete what a failed commit wrote, unless it failed after the switch."""
    try:
        committed = read_header(folder)
    except SalmIndexError:
        return
    if committed.generation != generation:
        _delete_all_but(folder, committed)


def _delete_all_but(folder: Path, header: Header | None) -> None:
    keep = {record.name for record in header.files} if header else set()
    for path in folder.iterdir():
        if is_own_file(path.name) and path.name not in keep:
            files.delete(path)
