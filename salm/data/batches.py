"""Which examples make up a batch, in one process or in several, and how they become one."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from salm.data.dataset import Example


class EpochSampler(Sampler[int]):
    """Item numbers of one epoch after another; Lightning calls `set_epoch`, also when it resumes.

    Args:
        batches_per_epoch: of `batch_size` items for each process.
        rank, world_size: this process among all; a joint batch is what one process alone would take as a batch of
            `batch_size * world_size`.
    """

    def __init__(self, batches_per_epoch: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.batches_per_epoch, self.batch_size = batches_per_epoch, batch_size
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Continue with the items of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch * self.batch_size

    def __iter__(self) -> Iterator[int]:
        first_batch = self.epoch * self.batches_per_epoch
        for batch in range(first_batch, first_batch + self.batches_per_epoch):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


def collate(examples: Sequence[Example]) -> Example:
    """A batch as one `Example`: tensors stacked, captions in a flat tuple (sound by sound, clip by clip).

    `spans` stays that of the first clip: the clips of a batch have equal joints.
    """
    stacked = {
        name: torch.stack([getattr(example, name) for example in examples])
        for name in ("features", "doa", "labels", "sectors", "teacher", "tags")
    }
    heard = [example.heard for example in examples if example.heard is not None]
    return Example(
        **stacked,
        heard=torch.stack(heard) if heard else None,
        spans=examples[0].spans,
        captions=tuple(text for example in examples for text in example.captions),
        spatial_captions=tuple(text for example in examples for text in example.spatial_captions),
    )
