"""Recordings in windows -> what the model says of each window, batched across recordings."""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from salm.audio.features import FeatureExtractor
from salm.audio.io import Window, fit_window
from salm.audio.recordings import Recording
from salm.config import FeatureConfig
from salm.errors import AudioFormatError, ConfigError
from salm.geometry import azimuth_elevation
from salm.models.audio_encoder import diffuse_maps
from salm.models.precision import Precision, compiled_code_for
from salm.models.salm import SALM
from salm.models.tuned import tuned_model
from salm.progress import progress_on_stderr
from salm.results import EncodedWindow

Embedding = Literal["joint", "semantic", "spatial"]
EMBEDDINGS: tuple[Embedding, ...] = ("joint", "semantic", "spatial")
PARTS = ("semantic", "spatial", "joint", "doa")
MOST_TOGETHER = 4
"""Clips that a thread takes at once where the branches gain by it; more bring no more."""
Clips = TypeVar("Clips", np.ndarray, Tensor)
Item = TypeVar("Item")
Result = TypeVar("Result")
OnError = Callable[[int, AudioFormatError], None]
"""Called with the number of a recording that cannot be used, which is then left out."""


@dataclass(frozen=True)
class WindowParts:
    """One window: the number of its recording, its times, and the model's vectors by name, on the CPU.

    `parts` holds the names of `PARTS`; of a mono recording only "semantic".
    """

    recording: int
    start_s: float
    end_s: float
    parts: dict[str, Tensor]


class WindowEncoder:
    """A model behind its features: encodes the windows of many recordings in their order.

    Args:
        model: in evaluation mode; later changes of its audio tower's weights have no effect.
        features: what it reads.
        device: where the model is.
        precision: of the audio tower, see `salm.models.precision`.
    """

    def __init__(
        self, model: SALM, features: FeatureConfig, device: torch.device, precision: Precision = "float32"
    ) -> None:
        self.model, self.device = tuned_model(model, precision), device
        self.features = FeatureExtractor(features, compiled_for=compiled_code_for(precision)).to(device)

    def windows(
        self, sources: Sequence[Recording], batch_size: int, on_error: OnError | None = None
    ) -> Iterator[WindowParts]:
        """Every window of every recording, read as they are asked for.

        Raises:
            AudioFormatError: a recording cannot be used, and there is no `on_error`.
        """
        for batch in window_batches(sources, batch_size, on_error):
            vectors = self._encode([window for _, window in batch])
            for row, (number, window) in enumerate(batch):
                parts = {name: values[row] for name, values in vectors.items()}
                yield WindowParts(number, window.start_s, window.end_s, parts)

    def by_recording(
        self,
        sources: Sequence[Recording],
        batch_size: int,
        *,
        on_error: OnError | None = None,
        show_progress_bar: bool = False,
    ) -> Iterator[list[WindowParts]]:
        """As `windows`, one list for each recording; one that turns out damaged in its midst is left out whole."""
        failed: set[int] = set()

        def report(number: int, error: AudioFormatError) -> None:
            if on_error is None:
                raise error
            failed.add(number)
            on_error(number, error)

        with progress_on_stderr("encoding", quiet=not show_progress_bar) as progress:
            grouped = groupby(self.windows(sources, batch_size, report), key=lambda window: window.recording)
            for number, group in grouped:
                encoded = list(group)  # reads on to the next recording, so any damage of this one is known by now
                if number not in failed:
                    yield encoded
                if progress is not None:
                    progress(number + 1, len(sources))

    def _encode(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        length = self.features.config.clip_samples
        samples = np.stack([fit_window(window.samples, length) for window in windows])
        if self.device.type != "cpu":
            with torch.inference_mode():
                return self._parts(self._maps(samples))
        groups = split_for_threads(samples, together=self.model.audio_encoder.takes_batches)
        clips = list(chain.from_iterable(map_on_threads(self._encode_group, groups)))
        return {name: torch.cat([clip[name] for clip in clips]) for name in clips[0]}

    def _encode_group(self, samples: np.ndarray) -> list[dict[str, Tensor]]:
        """Clips that go through the branches together, and one by one through the rest."""
        with torch.inference_mode():
            maps = self._maps(samples)
            tokens = self.model.audio_encoder(diffuse_maps(maps) if maps.shape[1] == 1 else maps)
            clips = zip(maps.split(1), *(part.split(1) for part in tokens), strict=True)
            return [self._parts(clip, (semantic, spatial)) for clip, semantic, spatial in clips]

    def _maps(self, samples: np.ndarray) -> Tensor:
        return self.features(torch.from_numpy(samples).to(self.device))

    def _parts(self, maps: Tensor, tokens: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        if maps.shape[1] == 1:
            return {"semantic": self.model.encode_semantic(maps, tokens).float().cpu()}
        parts = self.model.encode_audio(maps, tokens)
        return {name: getattr(parts, name).float().cpu() for name in PARTS}


def split_for_threads(clips: Clips, *, together: bool) -> list[Clips]:
    """Parts of a batch for `map_on_threads`: one clip each, or some `together`, but few enough for all threads.

    A thread fetches the weights of an integer tower once for all of its clips.
    """
    size, threads = 1, torch.get_num_threads()
    if together:
        rounds = math.ceil(len(clips) / (threads * MOST_TOGETHER))
        size = max(1, len(clips) // (threads * rounds))
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results in the order of `items`, each item on one of as many threads as torch may use.

    A clip then stays in its core's cache, its result does not depend on the others, and cores need not wait for each
    other after every operation: twice as fast on a busy machine. One item alone uses all threads.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return [function(item) for item in items]
    return list(_pool(threads).map(function, items))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones for each batch would start milliseconds late."""
    meet = threading.Barrier(threads)

    def start(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # else what is set last anywhere counts at the thread's first operation
        meet.wait()

    pool = ThreadPoolExecutor(threads, "salm")
    list(pool.map(start, range(threads)))
    torch.set_num_threads(threads)  # what a thread sets for itself, threads to come take for theirs
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def window_batches(
    sources: Sequence[Recording], size: int, on_error: OnError | None = None
) -> Iterator[list[tuple[int, Window]]]:
    """The windows of all recordings in order, each with its recording's number, up to `size` at a time.

    A batch holds windows of one channel count.

    Raises:
        AudioFormatError: a recording cannot be used, and there is no `on_error`.
        ConfigError: `size` is not positive.
    """
    check_batch_size(size)
    batch: list[tuple[int, Window]] = []
    for number, recording in enumerate(sources):
        try:
            for window in chain.from_iterable(recording.batches(1)):
                if batch and (len(batch) == size or len(batch[0][1].samples) != len(window.samples)):
                    yield batch
                    batch = []
                batch.append((number, window))
        except AudioFormatError as error:
            if on_error is None:
                raise
            on_error(number, error)
    if batch:
        yield batch


def encoded_window(window: WindowParts) -> EncodedWindow:
    """A window of an FOA recording as users see it: normalised embeddings and degrees."""
    azimuth, elevation = azimuth_elevation(window.parts["doa"].numpy())
    return EncodedWindow(
        window.start_s,
        window.end_s,
        **{name: functional.normalize(window.parts[name], dim=-1).numpy() for name in EMBEDDINGS},
        azimuth_deg=math.degrees(azimuth),
        elevation_deg=math.degrees(elevation),
    )


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that nothing can be encoded with."""
    if batch_size < 1:
        raise ConfigError(f"expected a batch_size of at least 1, got {batch_size}")


def find_device(device: str | torch.device | None) -> torch.device:
    """The named device; by default a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    try:
        found = torch.device(device or ("cuda" if has_gpu else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}; expected cpu, cuda, cuda:1, ...") from error
    if found.type == "cuda" and not has_gpu:
        raise ConfigError(f"device {str(device)!r}: torch finds no GPU here; pass device='cpu'")
    return found
