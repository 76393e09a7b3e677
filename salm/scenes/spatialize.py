"""Dry sound and room response -> FOA scene: convolution, mixing, noise and level. Arrays are float32."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from salm.audio.io import fit_window
from salm.errors import SceneError

_MIN_BLOCK = 32768


def spatialize(dry: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convolve a dry sound (samples,) with a room response (4, taps): (4, samples); the reverberation after it is cut.

    Overlap-add in blocks that stay in cache.

    Raises:
        SceneError: the shapes are not these.
    """
    if dry.ndim != 1 or response.ndim != 2 or response.shape[0] != 4 or not response.shape[1]:
        raise SceneError(f"expected a dry sound (samples,) and a response (4, taps), got {dry.shape}, {response.shape}")
    return convolve(dry, response)


def convolve(dry: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """`spatialize` without its checks, for responses of any number of channels."""
    samples, taps = dry.shape[0], response.shape[1]
    wet_channels = np.zeros((response.shape[0], samples), dtype=np.float32)
    size = scipy.fft.next_fast_len(max(_MIN_BLOCK, 3 * taps), real=True)
    block = size - taps + 1
    spectrum = scipy.fft.rfft(response.astype(np.float32, copy=False), size, axis=-1)
    for start in range(0, samples, block):
        piece = dry[start : start + block].astype(np.float32, copy=False)
        if not piece.any():
            continue
        wet = scipy.fft.irfft(scipy.fft.rfft(piece, size) * spectrum, size, axis=-1)
        stop = min(samples, start + len(piece) + taps - 1)
        wet_channels[:, start:stop] += wet[:, : stop - start]
    return wet_channels


def fit_duration(dry: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """A sound (length,) at exactly `samples`: a longer one is cut, a shorter one repeated whole, then zero-padded.

    Source: SALM paper (after LAION-CLAP's "repeatpad").

    Raises:
        SceneError: the sound is empty or `samples` is not positive.
    """
    if dry.ndim != 1 or not len(dry) or samples < 1:
        raise SceneError(f"expected a sound (samples,) of at least one sample, got {dry.shape} for {samples} samples")
    return fit_window(np.asarray(dry, dtype=np.float32)[None], samples)[0]


def mix(scenes: Sequence[NDArray[np.float32]], start_samples: Sequence[int], samples: int) -> NDArray[np.float32]:
    """Sum of FOA scenes (4, any), scene i from `start_samples[i]` on, in (4, samples); what lies outside is cut.

    Raises:
        SceneError: as many starts as scenes are needed, none negative.
    """
    if len(scenes) != len(start_samples) or any(start < 0 for start in start_samples):
        raise SceneError(f"expected one start >= 0 for each of {len(scenes)} scenes, got {list(start_samples)}")
    mixed = np.zeros((4, samples), dtype=np.float32)
    for scene, start in zip(scenes, start_samples, strict=True):
        stop = min(samples, start + scene.shape[1])
        if stop > start:
            mixed[:, start:stop] += scene[:, : stop - start]
    return mixed


def add_sensor_noise(foa: NDArray[np.float32], snr_db: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """The scene (4, samples) with white noise in each channel, `snr_db` under the power of W in every channel.

    Digital silence stays silent.
    """
    rms = float(np.sqrt(np.mean(np.square(foa[0], dtype=np.float64))))
    noise = generator.standard_normal(foa.shape, dtype=np.float32)
    noise *= np.float32(rms * 10 ** (-snr_db / 20))
    return foa + noise


def normalise_level(foa: NDArray[np.float32], level_dbfs: float, peak: float = 0.99) -> NDArray[np.float32]:
    """The scene (4, samples) with one gain for all channels: W has the RMS `level_dbfs`, no sample exceeds `peak`.

    Where both cannot be, the peak wins. Digital silence stays silent.
    """
    rms = float(np.sqrt(np.mean(np.square(foa[0], dtype=np.float64))))
    highest = float(np.max(np.abs(foa), initial=0.0))
    if rms == 0.0 or highest == 0.0:
        return foa.copy()
    return foa * np.float32(min(10 ** (level_dbfs / 20) / rms, peak / highest))
