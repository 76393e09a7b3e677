"""Recordings are read ahead of the model: by threads, in the order of the jobs, in bounded memory.

Each recording has a queue of a few windows, which its reader fills and waits at; a few recordings are read at a time.
So a reader is never far ahead in an hours-long file, and the files after it are begun before it ends.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from salm.audio.io import Window, audio_info, stream_windows
from salm.cli.jobs import Begun, Encoding, Job
from salm.errors import AudioFormatError

NUM_READERS = min(8, max(2, os.cpu_count() or 1))
WINDOWS_AHEAD = 4
"""Windows of one recording that wait for the model; each of 10 s takes 3.8 MB."""

FILES_AHEAD = 16
"""Recordings that are read or wait: with `WINDOWS_AHEAD` this bounds the memory, to 250 MB of windows of 10 s."""

POLL_S = 0.1


class Piece(NamedTuple):
    """A window that was read, and which share of its recording has been read with it."""

    window: Window
    share: float


class Start(NamedTuple):
    """A recording is about to be read: the hash of its content, and the windows before the first one that follows."""

    content_hash: str
    begun: Begun | None


class End(NamedTuple):
    """A recording has been read, or cannot be used; `is_known` if the index has it as it is."""

    is_known: bool = False
    error: str | None = None


Item = Start | Piece | End


class _Reading:
    """One recording on its way from a reader to the model."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.items: queue.Queue[Item | BaseException] = queue.Queue(WINDOWS_AHEAD)

    def put(self, item: Item | BaseException, stop: threading.Event) -> bool:
        """Wait for room; False if nobody will read any more."""
        while not stop.is_set():
            try:
                self.items.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


def read_ahead(jobs: Iterable[Job], encoding: Encoding) -> Generator[tuple[Job, Item], None, None]:
    """The windows of all recordings in their order, those of each one between its `Start` and its `End`.

    Closing the generator stops the readers.
    """
    todo, ahead = iter(jobs), deque[_Reading]()
    tasks: queue.SimpleQueue[_Reading | None] = queue.SimpleQueue()
    stop = threading.Event()
    # Daemons: a reader that hangs on a dead disk must not keep the process from ending.
    readers = [
        threading.Thread(target=_work, args=(tasks, encoding, stop), name=f"reader-{number}", daemon=True)
        for number in range(NUM_READERS)
    ]
    for reader in readers:
        reader.start()
    try:
        while True:
            while len(ahead) < FILES_AHEAD and (job := next(todo, None)) is not None:
                ahead.append(_Reading(job))
                tasks.put(ahead[-1])
            if not ahead:
                return
            reading = ahead.popleft()
            while True:
                item = reading.items.get()
                if isinstance(item, BaseException):
                    raise item
                yield reading.job, item
                if isinstance(item, End):
                    break
    finally:
        stop.set()
        for _ in readers:
            tasks.put(None)
        for reader in readers:
            reader.join(timeout=1.0)


def read(job: Job, encoding: Encoding) -> Iterator[Item]:
    """The windows of one recording between its `Start` and its `End`; an `End` alone if the index has it as it is."""
    try:
        path = _checked(job.path)
        content_hash = encoding.content_hash(path, job.metadata)
        if content_hash == job.known_hash:
            yield End(is_known=True)
            return
        begun = job.begun if job.begun is not None and job.begun.content_hash == content_hash else None
        yield Start(content_hash, begun)
        duration_s = max(audio_info(path).duration_s, 1e-9)
        windows = stream_windows(path, window_s=encoding.window_s, hop_s=encoding.hop_s, convention=encoding.convention)
        for window in islice(windows, 0 if begun is None else len(begun.rows), None):
            # A copy, since the samples are a view of all that was read at once.
            own = Window(np.array(window.samples), window.start_s, window.end_s)
            yield Piece(own, min(1.0, window.end_s / duration_s))
        yield End()
    except AudioFormatError as error:
        yield End(error=str(error))
    except OSError as error:
        yield End(error=f"{job.path}: cannot be read ({error.strerror}); check the file")


def _work(tasks: "queue.SimpleQueue[_Reading | None]", encoding: Encoding, stop: threading.Event) -> None:
    while (reading := tasks.get()) is not None and not stop.is_set():
        try:
            for item in read(reading.job, encoding):
                if not reading.put(item, stop):
                    return
        except BaseException as error:
            reading.put(error, stop)


def _checked(path: str) -> Path:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise AudioFormatError(f"{path!r}: the name is not valid Unicode; rename the file") from None
    file = Path(path)
    if file.exists() and not file.is_file():
        raise AudioFormatError(f"{path}: a folder or a pipe; expected an audio file")
    return file
