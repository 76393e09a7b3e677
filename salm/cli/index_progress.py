"""Progress of `salm index` on stderr: recordings, windows per second, time left."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from salm.progress import Progress

LINE_EVERY_S = 30.0
"""How often a line is printed where stderr is no terminal."""


@dataclass
class Done:
    """How far an update of an index is.

    Args:
        recordings, num_recordings: looked at, and all.
        windows: that were encoded.
        share: of the bytes of all recordings; within an hours-long one it grows with every batch.
    """

    recordings: int
    num_recordings: int
    windows: int
    share: float


OnDone = Callable[[Done], None]


class Tracker:
    """Tells how far an update is: in recordings, windows and bytes."""

    def __init__(self, paths: Sequence[str], progress: Progress | None, on_done: OnDone | None) -> None:
        self.progress, self.on_done = progress, on_done
        self.sizes = {path: _num_bytes(path) for path in paths}
        self.num_bytes = max(1, sum(self.sizes.values()))
        self.num_bytes_done = 0
        self.shares: dict[str, float] = {}
        self.done = Done(0, len(paths), 0, 0.0)

    def on_windows(self, path: str, num_windows: int, share: float) -> None:
        """Some windows of a recording are encoded, and with them a share of it."""
        self.shares[path] = share
        self._tell(num_windows=num_windows)

    def on_recording(self, path: str) -> None:
        """A recording has been dealt with."""
        self.shares.pop(path, None)
        self.num_bytes_done += self.sizes[path]
        self._tell(num_recordings=1)
        if self.progress is not None:
            self.progress(self.done.recordings, self.done.num_recordings)

    def _tell(self, num_recordings: int = 0, num_windows: int = 0) -> None:
        in_part = sum(self.sizes[path] * share for path, share in self.shares.items())
        self.done = Done(
            self.done.recordings + num_recordings,
            self.done.num_recordings,
            self.done.windows + num_windows,
            (self.num_bytes_done + in_part) / self.num_bytes,
        )
        if self.on_done is not None:
            self.on_done(self.done)


class Pace:
    """Rate and time left, since the first window came: before that the model is loaded."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._first: tuple[float, Done] | None = None

    def describe(self, done: Done) -> str:
        """Such as "120/2000 recordings, 8.3 windows/s, 0:03:10 left"."""
        text = f"{done.recordings}/{done.num_recordings} recordings"
        now_s = self._now_s()
        if self._first is None:
            if done.windows:
                self._first = now_s, done
            return text
        started_s, first = self._first
        elapsed_s, share = now_s - started_s, done.share - first.share
        if elapsed_s <= 0 or done.windows == first.windows:
            return text
        text += f", {(done.windows - first.windows) / elapsed_s:.1f} windows/s"
        if share <= 0:
            return text
        left_s = round(elapsed_s * (1 - done.share) / share)
        return f"{text}, {left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d} left"


@contextmanager
def index_progress(*, quiet: bool) -> Iterator[OnDone | None]:
    """A bar on a terminal, a line now and then elsewhere; None when quiet."""
    if quiet:
        yield None
        return
    pace = Pace()
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        next_s = 0.0

        def print_line(done: Done) -> None:
            nonlocal next_s
            if time.monotonic() >= next_s or done.recordings == done.num_recordings:
                next_s = time.monotonic() + LINE_EVERY_S
                typer.echo(f"indexing: {pace.describe(done)}", err=True)

        yield print_line
        return
    with Bar(TextColumn("indexing"), BarColumn(), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done: bar.update(task, completed=done.share, description=pace.describe(done))


def _num_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
