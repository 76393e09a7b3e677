"""What an index is made of, in numbers."""

from dataclasses import dataclass
from pathlib import Path

from salm_index.generations import Snapshot
from salm_index.header import SegmentRecord
from salm_index.lists import FLAT_LIMIT


@dataclass(frozen=True)
class SegmentStats:
    """One segment: `num_lists`, `num_probes` and `measured_recall` are None where a search reads all vectors."""

    kind: str
    num_windows: int
    num_removed: int
    num_bytes: int
    num_lists: int | None = None
    num_probes: int | None = None
    measured_recall: float | None = None


@dataclass(frozen=True)
class Stats:
    """An index.

    Args:
        kind: how it is searched now: "flat" or "ivf".
        wanted_kind: what was asked for: "auto", "flat" or "ivf".
        wanted_recall: what a search that does not read everything must reach.
        num_removed: windows that are gone but still in the files; `Index.compact` frees their space.
        num_bytes: of all files.
    """

    path: str
    model: str
    dimension: int
    generation: int
    kind: str
    wanted_kind: str
    wanted_recall: float
    num_windows: int
    num_recordings: int
    num_removed: int
    num_bytes: int
    segments: tuple[SegmentStats, ...]

    @property
    def search(self) -> str:
        """How a search without a filter goes, as a sentence."""
        approximate = [segment for segment in self.segments if segment.measured_recall is not None]
        if not approximate:
            return f"exact (flat); kind {self.wanted_kind}, lists from {FLAT_LIMIT + 1:,} windows on with auto"
        recall = min(segment.measured_recall or 0.0 for segment in approximate)
        probes = ", ".join(f"{segment.num_probes} of {segment.num_lists}" for segment in approximate)
        return (
            f"ivf, reading {probes} lists; recall {recall:.3f} measured against exact search "
            f"(wanted {self.wanted_recall:g}); exact with a filter"
        )


def measure(folder: Path, snapshot: Snapshot) -> Stats:
    """The numbers of one generation."""
    header = snapshot.header
    segments = tuple(_segment(part.segment.record, len(part.removed_ids)) for part in snapshot.parts)
    return Stats(
        path=str(folder),
        model=header.model,
        dimension=header.dimension,
        generation=header.generation,
        kind="ivf" if any(segment.kind == "ivf" for segment in segments) else "flat",
        wanted_kind=header.kind,
        wanted_recall=header.recall,
        num_windows=header.num_windows,
        num_recordings=header.num_recordings,
        num_removed=len(snapshot.removed_ids),
        num_bytes=sum(record.num_bytes for record in header.files),
        segments=segments,
    )


def _segment(record: SegmentRecord, num_removed: int) -> SegmentStats:
    num_bytes = sum(file.num_bytes for file in record.files)
    if record.lists is None:
        return SegmentStats("flat", record.num_windows, num_removed, num_bytes)
    lists = record.lists
    return SegmentStats(
        "ivf", record.num_windows, num_removed, num_bytes, lists.num_lists, lists.num_probes, lists.recall
    )
