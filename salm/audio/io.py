"""Recordings -> FOA samples at the model's rate: files of any common format and rate, arrays, long files in windows."""

import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from salm.audio.containers import MIN_SAMPLE_RATE_HZ, open_audio, read_blocks
from salm.errors import AudioFormatError
from salm.geometry import CONVENTIONS, Convention, fuma_to_ambix

SAMPLE_RATE_HZ = 24_000
"""Rate of everything behind this module."""
FOA_CHANNELS = 4
_MONO_HINT = "for a mono file encode with embedding='semantic'"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    path: Path
    sample_rate_hz: int
    channels: int
    num_samples: int
    format: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz


@dataclass(frozen=True)
class Window:
    """A piece of a recording: samples (4 or 1, n) at the requested rate, and its place in the recording."""

    samples: NDArray[np.float32]
    start_s: float
    end_s: float


def audio_info(path: str | Path) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioFormatError: the file is missing, unreadable, empty, or no audio.
    """
    path = Path(path)
    with open_audio(path) as file:
        return AudioInfo(path, file.samplerate, file.channels, file.frames, f"{file.format} {file.subtype}")


def read_audio(
    path: str | Path,
    *,
    convention: Convention = "ambix",
    sample_rate: int = SAMPLE_RATE_HZ,
    allow_mono: bool = False,
) -> NDArray[np.float32]:
    """A whole recording, (4, samples) in W, Y, Z, X with SN3D gains, or (1, samples) where mono is allowed.

    Args:
        path: wav, flac, ogg or mp3 of any rate.
        convention: `"ambix"`, or `"fuma"` for W, X, Y, Z with W at -3 dB.
        sample_rate: of the result, in Hz.
        allow_mono: accept single-channel files.

    Raises:
        AudioFormatError: unreadable, truncated, empty, neither 4 channels nor an allowed mono, or not finite.
    """
    return np.concatenate(list(_blocks(Path(path), convention, sample_rate, allow_mono)), axis=1)


def read_foa(
    path: str | Path, *, convention: Convention = "ambix", sample_rate: int = SAMPLE_RATE_HZ
) -> NDArray[np.float32]:
    """A whole FOA recording, (4, samples); see `read_audio`."""
    return read_audio(path, convention=convention, sample_rate=sample_rate)


def read_mono(path: str | Path, sample_rate: int = SAMPLE_RATE_HZ) -> NDArray[np.float32]:
    """A dry sound, (samples,): the mean of its channels, however many there are.

    Raises:
        AudioFormatError: as `read_audio`, but for the number of channels.
    """
    path = Path(path)
    _check_rate("the wanted rate", sample_rate)
    with open_audio(path) as file:
        pieces = [block.mean(axis=0, keepdims=True) for block in read_blocks(path, file)]
        rate = file.samplerate
    return _resample(np.concatenate(pieces, axis=1), rate, sample_rate)[0]


def stream_windows(
    path: str | Path,
    *,
    window_s: float = 10.0,
    hop_s: float = 5.0,
    convention: Convention = "ambix",
    sample_rate: int = SAMPLE_RATE_HZ,
    allow_mono: bool = False,
) -> Iterator[Window]:
    """The windows of a recording of any length, one after the other, in bounded memory.

    Windows start every `hop_s`; the last one holds what is left and may be shorter (`fit_window` fills it). A
    recording of at most one window gives one.

    Raises:
        AudioFormatError: as `read_audio`; a defect late in a long file is raised when it is reached.
    """
    window, hop = _window_samples(window_s, hop_s, sample_rate)
    pending: list[NDArray[np.float32]] = []
    held, first = 0, 0
    for block in _blocks(Path(path), convention, sample_rate, allow_mono):
        pending.append(block)
        held += block.shape[1]
        if held <= window:
            continue
        samples = np.concatenate(pending, axis=1)
        # A window is given out only once a later sample is known: the last one must end with the recording.
        while samples.shape[1] > window:
            yield Window(samples[:, :window], first / sample_rate, (first + window) / sample_rate)
            samples, first = samples[:, hop:], first + hop
        pending, held = [samples], samples.shape[1]
    rest = np.concatenate(pending, axis=1)
    yield Window(rest, first / sample_rate, (first + rest.shape[1]) / sample_rate)


def array_windows(
    samples: NDArray[np.float32], *, window_s: float = 10.0, hop_s: float = 5.0, sample_rate: int = SAMPLE_RATE_HZ
) -> Iterator[Window]:
    """The windows of an array (channels, samples): the same as `stream_windows` gives for such a file."""
    window, hop = _window_samples(window_s, hop_s, sample_rate)
    for start in window_starts(samples.shape[1], window, hop):
        piece = samples[:, start : start + window]
        yield Window(piece, start / sample_rate, (start + piece.shape[1]) / sample_rate)


def window_starts(num_samples: int, window: int, hop: int) -> list[int]:
    """First samples of the windows that cover `num_samples`: the last window is the first that reaches the end."""
    if num_samples <= window:
        return [0]
    return list(range(0, num_samples - window + hop, hop))


def fit_window(samples: NDArray[np.float32], window_samples: int) -> NDArray[np.float32]:
    """A shorter recording (channels, n) repeated as often as it fits whole, then zero-padded (the paper's rule).

    A longer one is cut to its first `window_samples`.

    Raises:
        AudioFormatError: there are no samples.
    """
    length = samples.shape[-1]
    if length == 0:
        raise AudioFormatError("no samples to fill a window with; expected at least one")
    if length >= window_samples:
        return samples[..., :window_samples]
    repeated = np.tile(samples, window_samples // length)
    return np.pad(repeated, ((0, 0), (0, window_samples - repeated.shape[-1])))


def validate_array(
    array: Any, sample_rate: int | None, *, convention: Convention = "ambix", allow_mono: bool = False
) -> NDArray[np.float32]:
    """An array or tensor as recordings (batch, 4 or 1, samples) at `SAMPLE_RATE_HZ`.

    Args:
        array: (4, samples) or (batch, 4, samples); (samples,), (1, samples) or (batch, 1, samples) where mono is
            allowed.
        sample_rate: of the array in Hz; arrays do not know it themselves.
        convention: as for `read_audio`.
        allow_mono: accept single-channel recordings.

    Raises:
        AudioFormatError: the rate is missing, or the shape, the type or a value is wrong.
    """
    if sample_rate is None:
        raise AudioFormatError("array input: its sample rate is not known; pass sample_rate=... in Hz")
    _check_rate("array input", sample_rate)
    _checked_convention(convention)
    samples = _as_float_array(array)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim == 2:
        if samples.shape[1] == FOA_CHANNELS < samples.shape[0]:
            raise AudioFormatError(
                f"array input: expected (4, samples), got shape {samples.shape}, which looks transposed; pass array.T"
            )
        samples = samples[None]
    if samples.ndim != 3:
        raise AudioFormatError(f"array input: expected (4, samples) or (batch, 4, samples), got shape {samples.shape}")
    _check_channels("array input", samples.shape[1], allow_mono)
    if samples.size == 0:
        raise AudioFormatError(f"array input: no samples (shape {samples.shape}); expected at least one")
    finite = np.isfinite(samples)
    if not finite.all():
        clip, channel, first = np.argwhere(~finite)[0]
        raise AudioFormatError(
            f"array input: NaN or infinite sample at {first / sample_rate:.3f} s "
            f"(recording {clip}, channel {channel}); replace it before encoding"
        )
    if samples.shape[1] == FOA_CHANNELS and convention == "fuma":
        samples = fuma_to_ambix(samples).astype(np.float32)
    return np.stack([_resample(clip, sample_rate, SAMPLE_RATE_HZ) for clip in samples])


def write_foa(
    path: str | Path, foa: NDArray[np.float32], sample_rate: int = SAMPLE_RATE_HZ, *, subtype: str = "PCM_16"
) -> None:
    """Write (4, samples) in W, Y, Z, X as the format that the file's ending names; the file appears only when complete.

    Raises:
        AudioFormatError: wrong shape, samples beyond full scale, an unknown ending, or the disk refuses.
    """
    path = Path(path)
    if foa.ndim != 2 or foa.shape[0] != FOA_CHANNELS:
        raise AudioFormatError(f"{path}: expected samples of shape (4, samples), got {foa.shape}")
    peak = float(np.abs(foa).max(initial=0.0))
    if not peak <= 1.0:
        raise AudioFormatError(f"{path}: peak {peak:.3g} is beyond full scale or not finite; lower the level first")
    _check_rate(str(path), sample_rate)
    try:
        # mkstemp would make a file that only its owner may read.
        temporary = path.parent / f".{path.stem[:100]}-{secrets.token_hex(6)}{path.suffix}"
        temporary.open("xb").close()
    except OSError as error:
        raise AudioFormatError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    try:
        soundfile.write(temporary, foa.T, sample_rate, subtype=subtype)
        os.replace(temporary, path)
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise AudioFormatError(f"{path}: cannot be written as {path.suffix} {subtype} ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(path: Path, convention: Convention, sample_rate: int, allow_mono: bool) -> Iterator[NDArray[np.float32]]:
    """A file's samples (channels, n) in AmbiX at `sample_rate`, block by block."""
    convention = _checked_convention(convention)
    _check_rate("the wanted rate", sample_rate)
    with open_audio(path) as file:
        _check_channels(str(path), file.channels, allow_mono)
        resampler = None
        if file.samplerate != sample_rate:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, file.channels, dtype="float32")
        produced = 0
        for block in read_blocks(path, file):
            if file.channels == FOA_CHANNELS and convention == "fuma":
                block = fuma_to_ambix(block).astype(np.float32)
            if resampler is not None:
                block = resampler.resample_chunk(np.ascontiguousarray(block.T)).T
            produced += block.shape[1]
            if block.shape[1]:
                yield block
        if resampler is not None:
            tail = resampler.resample_chunk(np.zeros((0, file.channels), np.float32), last=True).T
            if tail.shape[1] or not produced:
                yield tail if tail.shape[1] else np.zeros((file.channels, 1), np.float32)


def _check_channels(where: str, channels: int, allow_mono: bool) -> None:
    if channels == FOA_CHANNELS or (channels == 1 and allow_mono):
        return
    hint = _MONO_HINT
    if channels > FOA_CHANNELS and round(channels**0.5) ** 2 == channels:
        hint = "of higher-order AmbiX keep the first 4 channels"
    elif channels != 1:
        hint = "SALM reads first-order Ambisonics, or mono with embedding='semantic'"
    raise AudioFormatError(f"{where}: expected 4 FOA channels (W, Y, Z, X), got {channels}; {hint}")


def _as_float_array(array: Any) -> NDArray[np.float32]:
    if hasattr(array, "detach"):
        tensor = array.detach().cpu()
        # numpy has no bfloat16.
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    try:
        samples = np.asarray(array)
    except ValueError as error:
        raise AudioFormatError("array input: rows of different lengths; pass a list of arrays instead") from error
    if samples.dtype.kind != "f":
        raise AudioFormatError(f"array input: expected floating-point samples in [-1, 1], got {samples.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return samples.astype(np.float32)


def _check_rate(where: str, sample_rate: Any) -> None:
    # soxr never returns from a rate that is not finite.
    if not isinstance(sample_rate, (int, float, np.number)) or not MIN_SAMPLE_RATE_HZ <= sample_rate < math.inf:
        raise AudioFormatError(f"{where}: sample rate {sample_rate!r} Hz; expected at least {MIN_SAMPLE_RATE_HZ} Hz")


def _checked_convention(convention: Convention) -> Convention:
    if convention not in CONVENTIONS:
        raise AudioFormatError(f"unknown convention {convention!r}; expected one of {', '.join(CONVENTIONS)}")
    return convention


def _resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """(channels, samples) at another rate; never empty."""
    if rate == wanted:
        return samples
    resampled = soxr.resample(np.ascontiguousarray(samples.T), rate, wanted).T.astype(np.float32)
    return resampled if resampled.shape[1] else np.zeros((samples.shape[0], 1), np.float32)


def _window_samples(window_s: float, hop_s: float, sample_rate: int) -> tuple[int, int]:
    _check_rate("the wanted rate", sample_rate)
    finite = math.isfinite(window_s) and math.isfinite(hop_s)
    window, hop = (round(window_s * sample_rate), round(hop_s * sample_rate)) if finite else (0, 0)
    if not 0 < hop <= window:
        raise AudioFormatError(f"expected 0 < hop <= window, got a window of {window_s} s and a hop of {hop_s} s")
    return window, hop
