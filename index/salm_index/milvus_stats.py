"""What a Milvus index is, in numbers."""

from dataclasses import dataclass

from salm_index.lists import FLAT_LIMIT


@dataclass(frozen=True)
class MilvusStats:
    """A Milvus index.

    Args:
        kind: how it is searched now: "flat" or "ivf".
        wanted_kind, wanted_recall: what was asked for, as in `Stats`.
        num_lists, num_probes: of kind "ivf", over each of Milvus' segments.
        measured_recall: the share of the true neighbours that was found when the index had been attached, with
            `measured_windows` windows in it.
    """

    uri: str
    collection: str
    model: str
    dimension: int
    kind: str
    wanted_kind: str
    wanted_recall: float
    num_windows: int
    num_lists: int | None
    num_probes: int | None
    measured_recall: float | None
    measured_windows: int

    @property
    def search(self) -> str:
        """How a search without a filter goes, as a sentence."""
        place = f"collection {self.collection} of {self.uri}"
        if self.measured_recall is None:
            return f"exact (flat), {place}; kind {self.wanted_kind}, lists from {FLAT_LIMIT + 1:,} windows on with auto"
        return (
            f"ivf, reading {self.num_probes} of {self.num_lists} lists, {place}; recall {self.measured_recall:.3f} "
            f"measured against exact search with {self.measured_windows:,} windows (wanted {self.wanted_recall:g}); "
            "exact with a filter"
        )
