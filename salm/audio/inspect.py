"""What a recording is, and whether SALM can use it: rate, channels, levels, defects, and its likely convention.

The convention cannot be read from a file, and never be proved from the sound. Two observations give a hint:

Gains. In any field of plane waves that do not interfere, and in a diffuse field, the energy of the three dipoles
together equals that of W in AmbiX (SN3D), is twice that of W in FuMa (W at -3 dB), and three times in N3D.

Order. Most sources are near the horizon, so Z tends to be the weakest dipole: channel 3 in AmbiX (W, Y, Z, X), channel
4 in FuMa (W, X, Y, Z).
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from salm.audio.containers import open_audio, read_blocks
from salm.audio.io import FOA_CHANNELS, SAMPLE_RATE_HZ
from salm.geometry import CHANNELS

HINT_BAND_HZ = (100.0, 4_000.0)
"""Where the capsules of a microphone behave as the theory says."""
SILENCE_DBFS = -90.0
QUIET_DBFS = -60.0
MAX_DC_OFFSET = 0.01
FULL_SCALE = 32_767 / 32_768
SHORT_S = 1.0
_FRAME_SAMPLES = 2**16
_AMBIX_RATIO_DB, _FUMA_RATIO_DB, _N3D_RATIO_DB = 0.0, 10 * math.log10(2), 10 * math.log10(3)
_RATIO_TOLERANCE_DB = 3.0
_LOST_WITHOUT = {
    "W": "nothing can be encoded; check the export",
    "Y": "left and right cannot be told apart",
    "Z": "elevation cannot be told",
    "X": "front and back cannot be told apart",
}


@dataclass(frozen=True)
class ChannelReport:
    """One channel: its name under the AmbiX order, and its levels (None: digital silence)."""

    name: str
    peak_dbfs: float | None
    rms_dbfs: float | None
    dc_offset: float
    clipped_samples: int

    @property
    def silent(self) -> bool:
        """Whether nothing is on it."""
        return self.peak_dbfs is None or self.peak_dbfs < SILENCE_DBFS


@dataclass(frozen=True)
class ConventionHint:
    """What the channel order and gains look like; a hint with its reasons, never a proof."""

    looks_like: Literal["ambix", "fuma", "unclear"]
    reasons: tuple[str, ...]
    dipole_to_w_db: float | None = None


@dataclass(frozen=True)
class RecordingReport:
    """What `salm doctor` prints."""

    path: str
    format: str
    sample_rate_hz: int
    num_channels: int
    duration_s: float
    usable: Literal["all embeddings", "semantic embedding only", "no"]
    channels: tuple[ChannelReport, ...]
    convention: ConventionHint | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON; silent channels are marked."""
        report = asdict(self)
        for plain, channel in zip(report["channels"], self.channels, strict=True):
            plain["silent"] = channel.silent
        return report


@dataclass
class _Totals:
    """Sums over a recording, channel by channel."""

    count: int
    peak: NDArray[np.float64]
    total: NDArray[np.float64]
    energy: NDArray[np.float64]
    clipped: NDArray[np.int64]
    band: NDArray[np.float64]  # (channels, channels) cross spectrum in HINT_BAND_HZ


def inspect_recording(path: str | Path) -> RecordingReport:
    """Examine a recording of any channel count and length, in bounded memory.

    Raises:
        AudioFormatError: it cannot be read to its end: missing, no audio, empty, truncated, NaN or infinite samples.
    """
    path = Path(path)
    with open_audio(path) as file:
        totals = _measure(path, file)
        rate, num_channels, kind = file.samplerate, file.channels, f"{file.format} {file.subtype}"
    names = CHANNELS if num_channels == FOA_CHANNELS else tuple(str(number + 1) for number in range(num_channels))
    channels = tuple(_channel_report(name, totals, index) for index, name in enumerate(names))
    convention = convention_hint(totals.band) if num_channels == FOA_CHANNELS else None
    duration_s = totals.count / rate
    return RecordingReport(
        path=str(path),
        format=kind,
        sample_rate_hz=rate,
        num_channels=num_channels,
        duration_s=duration_s,
        usable={FOA_CHANNELS: "all embeddings", 1: "semantic embedding only"}.get(num_channels, "no"),  # type: ignore[arg-type]
        channels=channels,
        convention=convention,
        warnings=(*_layout_warnings(channels, convention, totals.band), *_signal_warnings(channels, rate, duration_s)),
    )


def convention_hint(cross_energy: NDArray[np.float64]) -> ConventionHint:
    """Judge the convention from the (4, 4) energies and cross energies of the channels, in file order."""
    energy = np.diag(cross_energy)
    if energy[0] <= 0 or energy[1:].max() <= 0:
        return ConventionHint("unclear", ("no sound in the channels that would tell",))
    ratio_db = 10 * math.log10(float(energy[1:].sum() / energy[0]))
    gain_points, gain_reason = _judge_gains(ratio_db)
    order_points, order_reason = _judge_order(energy[1:])
    points = gain_points + order_points
    reasons = tuple(reason for reason in (gain_reason, order_reason) if reason)
    looks_like: Literal["ambix", "fuma", "unclear"] = "unclear"
    # One observation alone does not reach this, unless it is as clear as it can be.
    if abs(points) >= 1.0:
        looks_like = "ambix" if points > 0 else "fuma"
    return ConventionHint(looks_like, reasons, round(ratio_db, 2))


def _judge_gains(ratio_db: float) -> tuple[float, str]:
    """Evidence in [-1, 1], positive for AmbiX, from the energy of the dipoles over that of W."""
    text = f"the dipoles together are {ratio_db:+.1f} dB against W (AmbiX 0 dB, FuMa +3 dB)"
    if not _AMBIX_RATIO_DB - _RATIO_TOLERANCE_DB <= ratio_db <= _FUMA_RATIO_DB + _RATIO_TOLERANCE_DB:
        return 0.0, f"{text}: neither; the gains are of another convention, or not calibrated"
    middle_db = (_AMBIX_RATIO_DB + _FUMA_RATIO_DB) / 2
    points = float(np.clip((middle_db - ratio_db) / middle_db, -1.0, 1.0))
    if abs(points) < 0.5:
        return points, f"{text}: between the two"
    if points > 0:
        return points, f"{text}: as in AmbiX"
    nearer_n3d = ratio_db > (_FUMA_RATIO_DB + _N3D_RATIO_DB) / 2
    return points, f"{text}: {'as in FuMa or in N3D (+4.8 dB)' if nearer_n3d else 'as in FuMa'}"


def _judge_order(dipole_energy: NDArray[np.float64]) -> tuple[float, str]:
    """Evidence in [-0.75, 0.75], positive for AmbiX, from which of channels 2 to 4 is the weakest."""
    weakest = int(np.argmin(dipole_energy))
    others_db = 10 * np.log10(np.maximum(np.delete(dipole_energy, weakest), 1e-30))
    margin_db = float(others_db.min() - 10 * math.log10(max(float(dipole_energy[weakest]), 1e-30)))
    if margin_db < 3.0:
        return 0.0, "no dipole is clearly the weakest, so nothing tells which channel is Z"
    text = f"channel {weakest + 2} is the weakest dipole by {min(margin_db, 99.0):.0f} dB"
    points = 0.75 if margin_db >= 6.0 else 0.5
    if weakest == 1:
        return points, f"{text}: Z in AmbiX, if the sources are near the horizon"
    if weakest == 2:
        return -points, f"{text}: Z in FuMa, if the sources are near the horizon"
    return 0.0, f"{text}: Z in neither convention"


def _measure(path: Path, file: Any) -> _Totals:
    num = file.channels
    totals = _Totals(0, np.zeros(num), np.zeros(num), np.zeros(num), np.zeros(num, np.int64), np.zeros((num, num)))
    for block in read_blocks(path, file):
        samples = block.astype(np.float64)
        full = np.abs(samples) >= FULL_SCALE
        totals.count += samples.shape[1]
        totals.peak = np.maximum(totals.peak, np.abs(samples).max(axis=1))
        totals.total += samples.sum(axis=1)
        totals.energy += np.sum(samples**2, axis=1)
        # A single sample at full scale is what normalising gives; two in a row are a flattened top.
        totals.clipped += (full[:, 1:] & full[:, :-1]).sum(axis=1)
        totals.band += _band_energy(samples, file.samplerate)
    return totals


def _band_energy(samples: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Energies and cross energies (channels, channels) within `HINT_BAND_HZ`."""
    result = np.zeros((len(samples), len(samples)))
    for start in range(0, samples.shape[1], _FRAME_SAMPLES):
        frame = samples[:, start : start + _FRAME_SAMPLES]
        frequency = np.fft.rfftfreq(frame.shape[1], 1 / sample_rate)
        inside = (frequency >= HINT_BAND_HZ[0]) & (frequency <= HINT_BAND_HZ[1])
        spectrum = np.fft.rfft(frame, axis=1)[:, inside]
        result += (spectrum @ spectrum.conj().T).real / frame.shape[1]
    return result


def _channel_report(name: str, totals: _Totals, index: int) -> ChannelReport:
    return ChannelReport(
        name=name,
        peak_dbfs=_dbfs(float(totals.peak[index])),
        rms_dbfs=_dbfs(math.sqrt(float(totals.energy[index]) / totals.count)),
        dc_offset=round(float(totals.total[index]) / totals.count, 6),
        clipped_samples=int(totals.clipped[index]),
    )


def _dbfs(amplitude: float) -> float | None:
    return round(20 * math.log10(amplitude), 2) if amplitude > 0 else None


def _layout_warnings(
    channels: tuple[ChannelReport, ...], convention: ConventionHint | None, band: NDArray[np.float64]
) -> list[str]:
    count = len(channels)
    if count == 1:
        return ["one channel: no direction in it; encode it with embedding='semantic'"]
    if convention is None:
        if count > FOA_CHANNELS and math.isqrt(count) ** 2 == count:
            return [f"{count} channels: perhaps higher-order AmbiX; keep the first 4"]
        return [f"{count} channels: SALM reads 4 FOA channels (W, Y, Z, X), or one; export as first-order AmbiX"]
    warnings = [
        f"channel {number} ({channel.name}) is silent: {_LOST_WITHOUT[channel.name]}"
        for number, channel in enumerate(channels, start=1)
        if channel.silent
    ]
    ratio_db = convention.dipole_to_w_db
    if _all_alike(band):
        warnings.append("all four channels are the same: a mono sound copied, with no direction in it")
    elif convention.looks_like == "fuma":
        warnings.append("the channels look like FuMa (W, X, Y, Z): if they are, pass convention='fuma'")
    elif ratio_db is not None and abs(ratio_db - _N3D_RATIO_DB) < 0.7:
        warnings.append("the gains look like N3D: if they are, divide Y, Z and X by the square root of 3")
    return warnings


def _all_alike(band: NDArray[np.float64]) -> bool:
    """Whether the channels are copies of one, from their energies and cross energies; no FOA field is like that."""
    return bool(band[0, 0] > 0 and np.all(np.abs(band / band[0, 0] - 1) < 0.01))


def _signal_warnings(channels: tuple[ChannelReport, ...], rate: int, duration_s: float) -> list[str]:
    warnings = []
    for number, channel in enumerate(channels, start=1):
        if channel.clipped_samples:
            warnings.append(f"channel {number} ({channel.name}) clips: record at a lower level")
        if abs(channel.dc_offset) > MAX_DC_OFFSET:
            warnings.append(
                f"channel {number} ({channel.name}) has a DC offset of {channel.dc_offset:+.3f}: high-pass it at 20 Hz"
            )
    loudest = max((channel.rms_dbfs for channel in channels if channel.rms_dbfs is not None), default=None)
    if loudest is None:
        warnings.append("digital silence: there is nothing to find in it")
    elif loudest < QUIET_DBFS:
        warnings.append(f"very quiet ({loudest:.0f} dBFS): noise of the recorder may dominate")
    if rate < SAMPLE_RATE_HZ:
        warnings.append(f"{rate} Hz: nothing above {rate / 2_000:g} kHz, where the model listens up to 12 kHz")
    if duration_s < SHORT_S:
        warnings.append(f"only {duration_s:.2f} s long: it is repeated to fill the model's window")
    return warnings
