"""Segments: some windows of an index with their vectors, rows and perhaps lists, in files that never change.

`Segment` is what the files hold, `Part` what one generation sees of it: the windows that are not removed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm_index import files
from salm_index.errors import IndexCorruptError
from salm_index.filters import Filter
from salm_index.header import RESTORE, Header, SegmentRecord
from salm_index.inputs import vector_norms
from salm_index.lists import Lists, wants_lists, write_lists
from salm_index.rows import Row, Rows, RowsWriter, Window
from salm_index.selections import Selections
from salm_index.tuning import MAX_K
from salm_index.vectors import FlatVectors, Found, VectorsWriter

BATCH_WINDOWS = 4096
"""Windows that are copied at once: bounds the memory of compacting, merging and exporting."""

NORM_TOLERANCE = 1e-12
"""Relative rounding error of a norm in float64."""


class Batch(NamedTuple):
    """Consecutive windows: ids of shape (count,), vectors of shape (count, dimension), and their rows."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    rows: list[Row]


@dataclass(frozen=True)
class Segment:
    """The open files of a segment, and what filters found in them."""

    record: SegmentRecord
    vectors: FlatVectors
    rows: Rows
    lists: Lists | None
    selections: Selections

    @classmethod
    def open(cls, folder: Path, record: SegmentRecord, dimension: int) -> "Segment":
        """Open the files, whose sizes have been checked.

        Raises:
            IndexCorruptError: they are not what they should be, or do not belong together.
        """
        vectors = FlatVectors(folder / record.vectors.name, dimension)
        rows = Rows(folder / record.rows.name, record.generation)
        counts = (len(vectors), len(rows))
        if counts != (record.num_windows, record.num_windows):
            raise IndexCorruptError(
                f"{folder}: expected {record.num_windows} vectors and rows, got {counts[0]} in {record.vectors.name} "
                f"and {counts[1]} in {record.rows.name}; {RESTORE}"
            )
        lists = None if record.lists is None else Lists(folder / record.lists.file.name, vectors, record.lists)
        return cls(record, vectors, rows, lists, Selections(rows, vectors))

    def check(self, max_norm: float) -> None:
        """Compare every row with every vector.

        Raises:
            IndexCorruptError: they do not agree.
        """
        self.rows.check()
        if not np.array_equal(self.rows.ids(), self.vectors.ids):
            raise IndexCorruptError(f"{self.rows.path}: its ids are not those of {self.record.vectors.name}; {RESTORE}")
        for _, block in self.vectors.blocks(BATCH_WINDOWS):
            norms = vector_norms(block)
            if not np.all((norms > 0) & (norms <= max_norm * (1 + NORM_TOLERANCE))):
                raise IndexCorruptError(
                    f"{self.rows.path.with_name(self.record.vectors.name)}: holds vectors that are zero, not finite "
                    f"or too long; {RESTORE}"
                )
        if self.lists is not None:
            self.lists.check()


class Part:
    """A segment without the windows that a generation has removed.

    Args:
        segment: the open segment.
        removed_ids: ids removed from the whole index, in ascending order.
    """

    def __init__(self, segment: Segment, removed_ids: NDArray[np.int64]) -> None:
        self.segment = segment
        ids = segment.vectors.ids
        # Segments follow on each other, so what was removed from this one is one stretch of all that was removed.
        first, last = np.searchsorted(removed_ids, [ids[0], ids[-1] + 1]) if len(ids) else (0, 0)
        self.removed_ids = removed_ids[first:last]
        self._removed_places = segment.selections.places(self.removed_ids)
        self._kept_places: NDArray[np.int64] | None = None
        if self.removed_ids.size:
            self._kept_places = np.delete(np.arange(len(ids)), self._removed_places)

    def __len__(self) -> int:
        return len(self.segment.vectors) - len(self.removed_ids)

    def places(self, conditions: Filter) -> NDArray[np.int64]:
        """Where the windows are that fulfil a filter, in ascending order."""
        mask = self.segment.selections.mask(conditions)
        mask[self._removed_places] = False
        return np.flatnonzero(mask)

    def windows_of_paths(self, paths: Iterable[str]) -> list[Window]:
        """All windows of these paths."""
        removed = set(self.removed_ids.tolist())
        return [window for window in self.segment.rows.windows_of_paths(paths) if window.id not in removed]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        max_norm: float,
        places: NDArray[np.int64] | None,
        exact: bool,
    ) -> list[Found]:
        """The best k windows for each query.

        A search among some places is always exact: how many lists would have to be read was measured without a filter,
        and says nothing about the neighbours that one leaves.

        Args:
            queries: shape (count, dimension).
            k: fewer are returned only if there are fewer.
            max_norm: as in `FlatVectors.search`.
            places: search only the vectors at these places, in ascending order; none for all.
            exact: do not use the lists.
        """
        vectors, lists = self.segment.vectors, self.segment.lists
        if places is not None:
            return vectors.search(queries, k, max_norm, places)
        if lists is None or exact or k > MAX_K:
            return vectors.search(queries, k, max_norm, self._kept_places)
        found = lists.search(queries, k, self._kept_places)
        few = [number for number, result in enumerate(found) if len(result.ids) < min(k, len(self))]
        for number, result in zip(few, vectors.search(queries[few], k, max_norm, self._kept_places), strict=True):
            found[number] = result
        return found

    def batches(self) -> Iterator[Batch]:
        """All windows in the order of their ids.

        Raises:
            IndexCorruptError: rows and vectors do not agree.
        """
        for ids, rows in self.segment.rows.batches(BATCH_WINDOWS):
            places = self.segment.selections.places(ids)
            kept = np.flatnonzero(~np.isin(ids, self.removed_ids))
            if kept.size:
                # Rows and vectors have the same ids, so these are consecutive, unless a file is damaged.
                block = self.segment.vectors.read(places[0], places[-1] + 1)
                yield Batch(ids[kept], block[places[kept] - places[0]], [rows[place] for place in kept])


def write_segment(
    folder: Path, header: Header, part_number: int, num_windows: int, batches: Iterable[Batch]
) -> SegmentRecord:
    """Write the files of a segment; they are not synced to disk here.

    Args:
        folder: the index folder.
        header: of the generation that is being written; kind, recall and dimension count.
        part_number: 0 for the first segment that this generation writes.
        num_windows: how many windows the batches hold.
        batches: in the order of their ids.

    Raises:
        OSError, sqlite3.Error: a file cannot be written.
    """
    name = f"{header.generation:08d}" + (f"-{part_number}" if part_number else "")
    vectors_path, rows_path = folder / f"vectors-{name}.faiss", folder / f"rows-{name}.sqlite"
    with (
        VectorsWriter(vectors_path, header.dimension, num_windows) as vectors,
        RowsWriter(rows_path, header.generation) as rows,
    ):
        for batch in batches:
            vectors.write(batch.ids, batch.vectors)
            rows.write(batch.ids.tolist(), batch.rows)
    lists = None
    if wants_lists(header.kind, num_windows):
        lists = write_lists(
            folder / f"lists-{name}.faiss",
            FlatVectors(vectors_path, header.dimension),
            header.recall,
            forced=header.kind == "ivf",
        )
    return SegmentRecord(
        generation=header.generation,
        num_windows=num_windows,
        vectors=files.record(vectors_path),
        rows=files.record(rows_path),
        lists=lists,
    )
