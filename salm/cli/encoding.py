"""Recordings -> their rows and vectors, or why not: in this process, or in a worker of `salm.cli.ray_encoding`.

Windows of several recordings share a batch, which keeps a GPU busy with thousands of short files.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from salm.audio.io import SAMPLE_RATE_HZ, Window
from salm.cli.jobs import Begun, Encoding, Job, Outcome
from salm.cli.reading import End, Start, read_ahead
from salm.cli.unfinished import Unfinished
from salm.geometry import azimuth_elevation

if TYPE_CHECKING:
    from salm.embedder import Embedder

OnWindows = Callable[[str, int, float], None]
"""Called with a recording, how many of its windows were just encoded, and the share of it that is done."""


class _Partial:
    """A recording whose windows are not all encoded yet."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.vectors: list[np.ndarray] = []
        self.rows: list[dict[str, Any]] = []
        self.num_waiting = 0
        self.content_hash = ""
        self.end: End | None = None

    def start(self, start: Start) -> None:
        self.content_hash = start.content_hash
        if start.begun is not None:
            self.vectors, self.rows = list(start.begun.vectors), list(start.begun.rows)

    def begun(self) -> Begun:
        # An interruption may fall between a vector and its row.
        return Begun(self.content_hash, np.array(self.vectors[: len(self.rows)]), self.rows)

    def outcome(self) -> Outcome:
        end, path = self.end, self.job.path
        assert end is not None
        if end.error is not None:
            return Outcome(path, error=end.error)
        if end.is_known:
            return Outcome(path)
        fields = self.job.metadata | {"path": path, "content_hash": self.content_hash}
        return Outcome(path, np.stack(self.vectors), [fields | row for row in self.rows])


def encode_jobs(
    embedder: "Embedder",
    encoding: Encoding,
    jobs: Iterable[Job],
    on_windows: OnWindows | None = None,
    unfinished: Unfinished | None = None,
) -> Generator[Outcome, None, None]:
    """Encode recordings, but for those that the index has as they are; the outcomes come in the order of the jobs.

    Readers run ahead of the model; closing the generator stops them.

    Args:
        jobs: drawn from as readers get to them.
        unfinished: where the windows of the recording that is being encoded are kept, now and then and at the end.
    """
    partials = deque[_Partial]()
    batch: list[tuple[_Partial, Window, float]] = []
    try:
        with closing(read_ahead(jobs, encoding)) as items:
            for job, item in items:
                if not partials or partials[-1].job is not job:
                    partials.append(_Partial(job))
                if isinstance(item, Start):
                    partials[-1].start(item)
                elif isinstance(item, End):
                    partials[-1].end = item
                else:
                    partials[-1].num_waiting += 1
                    batch.append((partials[-1], item.window, item.share))
                if len(batch) == encoding.batch_size:
                    _encode(embedder, encoding, batch, on_windows)
                    batch = []
                    if unfinished is not None and unfinished.is_due():
                        unfinished.save(partials[0].job.path, partials[0].begun())
                yield from _finished(partials)
        if batch:
            _encode(embedder, encoding, batch, on_windows)
        yield from _finished(partials)
    finally:
        if unfinished is not None and partials:
            unfinished.save(partials[0].job.path, partials[0].begun())


def _finished(partials: deque[_Partial]) -> Iterator[Outcome]:
    while partials and partials[0].end is not None and not partials[0].num_waiting:
        yield partials.popleft().outcome()


def _encode(
    embedder: "Embedder",
    encoding: Encoding,
    batch: list[tuple[_Partial, Window, float]],
    on_windows: OnWindows | None,
) -> None:
    parts = embedder.encode_audio_parts(
        [window.samples for _, window, _ in batch],
        sample_rate=SAMPLE_RATE_HZ,
        batch_size=encoding.batch_size,
        window_s=encoding.window_s,
        hop_s=encoding.hop_s,
    )
    joint = functional.normalize(torch.as_tensor(parts.joint), dim=-1).numpy()
    azimuth_rad, elevation_rad = azimuth_elevation(np.asarray(parts.doa))
    for number, (partial, window, share) in enumerate(batch):
        partial.num_waiting -= 1
        partial.vectors.append(joint[number])
        direction = {"azimuth_deg": azimuth_rad[number], "elevation_deg": elevation_rad[number]}
        row: dict[str, Any] = {"start_s": window.start_s, "end_s": window.end_s}
        partial.rows.append(row | {name: math.degrees(angle_rad) for name, angle_rad in direction.items()})
        if on_windows is not None:
            on_windows(partial.job.path, 1, share)
