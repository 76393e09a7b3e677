"""Which segments a commit writes anew, so that there are few of them and a small commit stays small.

New windows take up the segments before them that are at most twice as large, so each segment is more than twice as
large as all that came after it at its time: an index of n windows has about log2(n) segments, and a window is copied
about log2(n) times in its life (O'Neil et al. 1996, the log-structured merge-tree). Segments that are small are always
taken up, since copying them costs less than searching them; large ones never, so that no commit runs for hours.
Removed windows stay in their segment until they are a quarter of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

SMALL_WINDOWS = 1000
"""Segments up to this size are copied by any commit that touches them or adds behind them."""

LARGE_WINDOWS = 2**20
"""Segments are not joined beyond this size: 2 GiB of vectors of 512 numbers."""

TAKEN_UP_RATIO = 2
REMOVED_SHARE = 0.25


class Size(NamedTuple):
    """A segment's windows that are there, and those that are removed but still in its files."""

    num_kept: int
    num_removed: int


class Group(NamedTuple):
    """Consecutive segments that become one: their places, and whether they are written anew or stay as they are."""

    places: tuple[int, ...]
    rewrite: bool


def plan_commit(sizes: Sequence[Size], num_added: int) -> list[Group]:
    """What to do with the segments when `num_added` windows come; these go into the last group if it is rewritten.

    A last group without places is a new segment. Segments with nothing in them are in no group.
    """
    first, tail = len(sizes), num_added
    while num_added and first and _is_taken_up(sizes[first - 1].num_kept, tail):
        first -= 1
        tail += sizes[first].num_kept
    groups = [Group((place,), _is_due(sizes[place])) for place in range(first) if sizes[place].num_kept]
    return [*groups, Group(tuple(range(first, len(sizes))), True)] if num_added else groups


def plan_compaction(sizes: Sequence[Size], stale: Sequence[bool]) -> list[Group]:
    """As few segments as there can be, without removed windows.

    Args:
        sizes: of the segments.
        stale: which segments must be written anew in any case.
    """
    groups: list[Group] = []
    num_windows = 0
    for place, size in enumerate(sizes):
        if not size.num_kept:
            continue
        num_windows += size.num_kept
        if groups and num_windows <= LARGE_WINDOWS:
            groups[-1] = Group((*groups[-1].places, place), True)
        else:
            groups.append(Group((place,), size.num_removed > 0 or stale[place]))
            num_windows = size.num_kept
    return groups


def _is_taken_up(num_kept: int, num_behind: int) -> bool:
    is_small = num_kept <= max(SMALL_WINDOWS, TAKEN_UP_RATIO * num_behind)
    return is_small and num_kept + num_behind <= LARGE_WINDOWS


def _is_due(size: Size) -> bool:
    limit = 0 if size.num_kept <= SMALL_WINDOWS else REMOVED_SHARE * (size.num_kept + size.num_removed)
    return size.num_removed > limit
