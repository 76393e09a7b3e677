"""Two indexes of one model -> a third one, in one commit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from salm_index import generations
from salm_index.compaction import Size, plan_compaction
from salm_index.errors import ModelMismatchError, RowError
from salm_index.generations import Snapshot
from salm_index.header import Header
from salm_index.segments import Batch, Part, write_segment


def merged_header(first: Snapshot, second: Snapshot, names: tuple[Path, Path]) -> Header:
    """The header of an index with the windows of both, but for its segments.

    Raises:
        ModelMismatchError: their vectors cannot be compared.
        RowError: they hold different contents of one path.
    """
    one, other = first.header, second.header
    if (one.model, one.dimension) != (other.model, other.dimension):
        raise ModelMismatchError(
            f"{names[1]}: expected vectors of model {one.model!r} and dimension {one.dimension} as in {names[0]}, got "
            f"{other.model!r} and {other.dimension}; index the recordings of one of them again"
        )
    shared = _shared_paths(first, second, names)
    num_windows = one.num_windows + other.num_windows - len(second.windows_of_paths(shared))
    return Header(
        model=one.model,
        dimension=one.dimension,
        num_windows=num_windows,
        num_recordings=one.num_recordings + other.num_recordings - len(shared),
        next_id=num_windows,
        max_norm=max(one.max_norm, other.max_norm),
        kind=one.kind,
        recall=one.recall,
    )


def write_merged(folder: Path, first: Snapshot, second: Snapshot, header: Header) -> None:
    """Write both indexes as the first generation of a new one, whose lock the caller holds.

    Args:
        folder: the new index, empty so far.
        header: from `merged_header`.

    Raises:
        IndexCorruptError: a file of one of them is damaged.
        OSError, sqlite3.Error: a file cannot be written.
    """
    shared = set(first.content_hashes()) & set(second.content_hashes())
    twice = np.array(sorted(window.id for window in second.windows_of_paths(shared)), dtype=np.int64)
    left_out = np.union1d(second.removed_ids, twice)
    parts = [*first.parts, *(Part(part.segment, left_out) for part in second.parts)]
    groups = plan_compaction([Size(len(part), 0) for part in parts], [True] * len(parts))
    segments = []
    first_id = 0
    for number, group in enumerate(groups):
        sources = [parts[place] for place in group.places]
        num_windows = sum(map(len, sources))
        segments.append(write_segment(folder, header, number, num_windows, _renumbered(sources, first_id)))
        first_id += num_windows
    generations.switch(folder, replace(header, segments=tuple(segments)))


def _shared_paths(first: Snapshot, second: Snapshot, names: tuple[Path, Path]) -> list[str]:
    ours, theirs = first.content_hashes(), second.content_hashes()
    shared = [path for path in theirs if path in ours]
    for path in shared:
        if ours[path] is None or ours[path] != theirs[path]:
            raise RowError(
                f"{names[1]}: has {path} with content_hash {theirs[path]!r}, {names[0]} has it with {ours[path]!r}; "
                "remove it from one of them first"
            )
    return shared


def _renumbered(parts: list[Part], first_id: int) -> Iterator[Batch]:
    for batch in generations.checked_batches(parts):
        yield Batch(np.arange(first_id, first_id + len(batch.ids)), batch.vectors, batch.rows)
        first_id += len(batch.ids)
