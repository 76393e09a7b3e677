"""Whatever a user passes as audio -> recordings in windows, read only when they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm.audio.io import Window, array_windows, stream_windows, validate_array
from salm.geometry import Convention


@dataclass(frozen=True)
class Recording:
    """One recording, not yet read: a file or an array, and how it is cut into windows."""

    path: Path | None
    samples: NDArray[np.float32] | None
    window_s: float
    hop_s: float
    convention: Convention
    allow_mono: bool

    def batches(self, size: int) -> Iterator[list[Window]]:
        """Its windows, up to `size` at a time, read as they are asked for."""
        if self.path is not None:
            windows = stream_windows(
                self.path,
                window_s=self.window_s,
                hop_s=self.hop_s,
                convention=self.convention,
                allow_mono=self.allow_mono,
            )
        else:
            assert self.samples is not None
            windows = array_windows(self.samples, window_s=self.window_s, hop_s=self.hop_s)
        batch: list[Window] = []
        for window in windows:
            batch.append(window)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def is_collection(audio: Any) -> bool:
    """Whether an audio argument stands for several recordings: a list, or an array (batch, channels, samples)."""
    return isinstance(audio, (list, tuple)) or (getattr(audio, "ndim", 2) == 3)


def recordings(
    audio: Any,
    *,
    sample_rate: int | None = None,
    window_s: float = 10.0,
    hop_s: float = 5.0,
    convention: Convention = "ambix",
    allow_mono: bool = False,
) -> list[Recording]:
    """The recordings that an audio argument stands for.

    Args:
        audio: a path, an array or tensor (4, samples) or (batch, 4, samples), or a list of these.
        sample_rate: of arrays, in Hz.

    Raises:
        AudioFormatError: an array is no recording. Files are looked at when their windows are asked for.
    """
    cut: dict[str, Any] = {"window_s": window_s, "hop_s": hop_s, "convention": convention, "allow_mono": allow_mono}
    found = []
    for item in audio if isinstance(audio, (list, tuple)) else [audio]:
        if isinstance(item, (str, Path)):
            found.append(Recording(Path(item), None, **cut))
        else:
            clips = validate_array(item, sample_rate, convention=convention, allow_mono=allow_mono)
            found += [Recording(None, clip, **cut) for clip in clips]
    return found
