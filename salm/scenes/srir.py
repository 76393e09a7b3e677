"""First-order Ambisonics room responses (SRIRs) of shoebox rooms, and a bank of many.

Image sources (`image_sources`) give the first wavefronts; each is encoded with its delay (windowed sinc), its distance,
its direction (`geometry.foa_gains`) and the absorption of walls and air per octave band. After the nearest few thousand
images a tail of noise takes over, whose power in every band and channel is that of the images it stands for (their
density is known, and `Room.decay_rates` says what the walls leave of them).

Scale and time: every response is multiplied by its source's distance, so that the direct sound is exactly
`foa_gains(azimuth, elevation)`, at sample `DIRECT_S * sample_rate`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.sparse import csc_array

from salm.errors import SceneError
from salm.geometry import azimuth_elevation
from salm.scenes.image_sources import image_sources
from salm.scenes.rooms import AIR_ATTENUATION_DB_M, DECAY_DIRECTIONS, OCTAVE_BANDS_HZ, SPEED_OF_SOUND_M_S, Room

DIRECT_S = 0.002
"""Time of the direct sound in every response; the propagation delay before it is removed."""
SINC_TAPS = 32
_SINC_MARGIN = SINC_TAPS // 2 - 1  # samples of a kernel before its delay
_PHASES = 32
FILTER_TAPS = 512
MAX_IMAGES = 2500
_CROSSFADE = 0.15  # of the images' reach, over which the tail takes over
_MIN_TAPS = 64


@dataclass(frozen=True)
class Srir:
    """One room response; `response` (4, taps) is float32 in W, Y, Z, X, angles and distance are of the source."""

    response: NDArray[np.float32]
    azimuth_rad: float
    elevation_rad: float
    distance_m: float
    rt60_s: float
    room: Room


def simulate_srir(
    room: Room,
    source_m: tuple[float, float, float],
    receiver_m: tuple[float, float, float],
    sample_rate: int = 24000,
    *,
    generator: np.random.Generator | None = None,
    duration_s: float | None = None,
    max_images: int = MAX_IMAGES,
    air_absorption: bool = True,
) -> Srir:
    """The response from a point source to an ideal first-order receiver that looks along +x.

    Args:
        generator: of the diffuse tail; None leaves the tail out, which makes the response a function of the geometry
            alone and ends it with the images.
        duration_s: length after the direct sound; by default the room's RT60.
        max_images: about how many image sources are used.
        air_absorption: attenuate what travels farther than the direct sound by the air's absorption.

    Returns:
        The response; its `rt60_s` is measured on W in the 500 Hz and 1 kHz bands, see `decay_time`.

    Raises:
        SceneError: a position is outside the room, or the two are closer than 1 cm.
    """
    source, receiver = _inside(room, source_m, "source"), _inside(room, receiver_m, "receiver")
    distance_m = float(np.linalg.norm(source - receiver))
    if distance_m < 0.01:
        raise SceneError(f"source and receiver are {distance_m:.3f} m apart; expected at least 0.01 m")
    duration_s = room.rt60_s if duration_s is None else duration_s
    direct = round(DIRECT_S * sample_rate)
    taps = max(_MIN_TAPS, direct + round(duration_s * sample_rate))
    reach_s = (max_images * room.volume_m3 * 3 / (4 * math.pi)) ** (1 / 3) / SPEED_OF_SOUND_M_S
    reach_s = min(reach_s, distance_m / SPEED_OF_SOUND_M_S + (taps - direct) / sample_rate)

    vectors, walls = image_sources(room, source, receiver, reach_s * SPEED_OF_SOUND_M_S)
    distances = np.sqrt(np.einsum("id,id->i", vectors, vectors))
    bands = walls * (distance_m / distances)[:, None]
    if air_absorption:
        bands = bands * 10 ** (-np.asarray(AIR_ATTENUATION_DB_M) / 20 * (distances - distance_m)[:, None])
    delays = direct / sample_rate + (distances - distance_m) / SPEED_OF_SOUND_M_S
    end_s = direct / sample_rate + reach_s - distance_m / SPEED_OF_SOUND_M_S  # in time of the response
    weights, tail = np.ones(len(delays)), None
    if generator is not None and end_s < taps / sample_rate:
        fade_s = _CROSSFADE * reach_s
        weights = np.sqrt(np.clip((end_s - delays) / fade_s, 0.0, 1.0))
        tail = _tail_envelope(room, distance_m, end_s, fade_s, taps, sample_rate)
    spectrum = _image_spectrum(delays * sample_rate, vectors, bands * weights[:, None], taps, sample_rate)
    if tail is not None and generator is not None:
        spectrum += _tail_spectrum(tail, generator, sample_rate)
    size = _fft_size(taps)
    response = scipy.fft.irfft(spectrum, size, axis=-1)[:, :taps].astype(np.float32)
    azimuth, elevation = azimuth_elevation(source - receiver)
    mid = spectrum[0] * _band_filters(size, sample_rate)[2:4].sum(axis=0)
    rt60_s = decay_time(scipy.fft.irfft(mid, size)[:taps], sample_rate)
    return Srir(response, float(azimuth), float(elevation), distance_m, rt60_s, room)


def decay_time(response: NDArray, sample_rate: int, from_db: float = -5.0, to_db: float = -25.0) -> float:
    """Seconds in which the energy of a response (taps,) falls by 60 dB, from a line through its Schroeder decay.

    0.0 where it falls too fast to be measured (an anechoic room). Source: Schroeder 1965; ISO 3382-1 (T20).
    """
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    if energy[0] <= 0:
        return 0.0
    level_db = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    chosen = np.flatnonzero((level_db <= from_db) & (level_db >= to_db))
    if len(chosen) < 10:
        return 0.0
    slope = np.polyfit(chosen / sample_rate, level_db[chosen], 1)[0]
    return float(-60.0 / slope) if slope < 0 else 0.0


def _inside(room: Room, position_m: tuple[float, float, float], name: str) -> NDArray[np.float64]:
    position = np.asarray(position_m, float)
    if position.shape != (3,) or not np.all((position > 0) & (position < room.dimensions_m)):
        raise SceneError(f"{name} {tuple(position_m)} m is not inside the room of {room.dimensions_m} m")
    return position


def _image_spectrum(
    delays: NDArray, vectors: NDArray, bands: NDArray, taps: int, sample_rate: int
) -> NDArray[np.complex64]:
    """Spectrum (4, bins) of the images, each a windowed sinc at its delay (in samples) in every band and channel.

    Args:
        bands: amplitude of each image in each band (images, 7), or in all of them (images, 1).
    """
    directions = vectors / np.sqrt(np.einsum("id,id->i", vectors, vectors))[:, None]
    gains = np.stack([np.ones(len(vectors)), directions[:, 1], directions[:, 2], directions[:, 0]], axis=1)
    size = _fft_size(taps)
    if bands.shape[1] == 1:
        return scipy.fft.rfft(_pulses_by_phase(delays, gains * bands, taps), size, axis=-1)
    signals = (gains[:, :, None] * bands[:, None, :]).reshape(len(delays), -1)
    trains = _pulses(delays, signals, taps).reshape(4, len(OCTAVE_BANDS_HZ), -1)
    spectrum = scipy.fft.rfft(trains, size, axis=-1)
    return np.einsum("cbk,bk->ck", spectrum, _band_filters(size, sample_rate))


def _pulses(delays: NDArray, signals: NDArray, taps: int) -> NDArray[np.float32]:
    """Sum (columns, taps) of windowed sincs at `delays` samples, weighted by `signals` (images, columns)."""
    whole = np.floor(delays).astype(np.int64)
    kernel = _sinc_table()[np.rint((delays - whole) * (len(_sinc_table()) - 1)).astype(np.int64)]
    rows = (whole[:, None] + np.arange(SINC_TAPS)).astype(np.int32)  # `_SINC_MARGIN` samples late
    length = max(taps, int(rows.max()) + 1 - _SINC_MARGIN) + _SINC_MARGIN
    matrix = csc_array(
        (kernel.ravel(), rows.ravel(), np.arange(len(delays) + 1, dtype=np.int32) * SINC_TAPS),
        shape=(length, len(delays)),
    )
    pulses = (matrix @ signals.astype(np.float32))[_SINC_MARGIN:].T
    return np.ascontiguousarray(pulses[:, :taps])


def _pulses_by_phase(delays: NDArray, signals: NDArray, taps: int) -> NDArray[np.float32]:
    """As `_pulses`, for many images and few columns.

    Images are first gathered by whole samples and phase, shared between the two phases beside them; then each phase
    meets its kernel once, whatever the number of images. The error of sharing is below -65 dB at a third of the rate.
    """
    place = delays * _PHASES
    below = place.astype(np.int32)
    share = (place - below).astype(np.float32)
    length = max(taps, int(below.max()) // _PHASES + 2)
    shares, places = np.stack([1.0 - share, share], axis=1), np.stack([below, below + 1], axis=1)
    gather = csc_array(
        (shares.ravel(), places.ravel(), np.arange(len(delays) + 1, dtype=np.int32) * 2),
        shape=(length * _PHASES, len(delays)),
    )
    phases = np.ascontiguousarray((gather @ signals.astype(np.float32)).T).reshape(-1, length, _PHASES)
    spread = _sinc_table(_PHASES)[:_PHASES].T @ phases.transpose(0, 2, 1)
    pulses = np.zeros((len(phases), length + SINC_TAPS), np.float32)
    for tap in range(SINC_TAPS):  # tap k of sample n belongs to sample n + k
        pulses[:, tap : tap + length] += spread[:, tap]
    return pulses[:, _SINC_MARGIN : _SINC_MARGIN + taps]


@lru_cache(maxsize=2)
def _sinc_table(fractions: int = 1024) -> NDArray[np.float32]:
    """Windowed sinc kernels (fractions + 1, SINC_TAPS) for delays of 0 to 1 sample (Laakso et al. 1996)."""
    offset = np.arange(SINC_TAPS) - _SINC_MARGIN - np.linspace(0, 1, fractions + 1)[:, None]
    window = np.i0(9.0 * np.sqrt(np.clip(1 - (offset / (SINC_TAPS / 2)) ** 2, 0, None))) / np.i0(9.0)
    return (np.sinc(offset) * window).astype(np.float32)


def _fft_size(taps: int) -> int:
    return int(scipy.fft.next_fast_len(taps + FILTER_TAPS, real=True))


@lru_cache(maxsize=64)
def _band_filters(size: int, sample_rate: int) -> NDArray[np.complex64]:
    """Spectra (7, bins) of zero-phase octave filters of `FILTER_TAPS` taps whose sum is exactly one.

    Cosine crossovers on a logarithmic frequency axis; the lowest and highest band reach to 0 Hz and Nyquist.
    """
    frequencies = np.maximum(np.fft.rfftfreq(FILTER_TAPS, 1 / sample_rate), 1.0)
    position = np.clip(np.log2(frequencies / OCTAVE_BANDS_HZ[0]), 0, len(OCTAVE_BANDS_HZ) - 1)
    apart = np.clip(np.abs(position - np.arange(len(OCTAVE_BANDS_HZ))[:, None]), 0, 1)
    impulse = np.fft.irfft(np.cos(np.pi / 2 * apart) ** 2, FILTER_TAPS, axis=-1)
    centred = np.zeros((len(OCTAVE_BANDS_HZ), size))
    centred[:, : FILTER_TAPS // 2] = impulse[:, : FILTER_TAPS // 2]
    centred[:, -(FILTER_TAPS // 2) :] = impulse[:, FILTER_TAPS // 2 :]
    return np.fft.rfft(centred, axis=-1).astype(np.complex64)


def _tail_envelope(
    room: Room, distance_m: float, end_s: float, fade_s: float, taps: int, sample_rate: int
) -> NDArray[np.float32]:
    """Standard deviation (4, 7, taps) of the late field per channel and band, from the density of the images.

    A shell of thickness c dt holds ``4 pi c^3 t^2 dt / V`` images of amplitude ``distance / (c t)``: a constant power
    per sample, on which `Room.decay_rates` acts by direction (a low hall rings longer along its floor).
    """
    block = 128
    edges_s = np.arange(-(-taps // block) + 1) * block / sample_rate - DIRECT_S + distance_m / SPEED_OF_SOUND_M_S
    decay = np.exp(-room.decay_rates[:, None, :] * np.maximum(edges_s, 0.0)[:, None])  # (bands, edges, directions)
    x, y, z = DECAY_DIRECTIONS.T**2
    power = 4 * math.pi * SPEED_OF_SOUND_M_S * distance_m**2 / (room.volume_m3 * sample_rate)
    deviation = np.sqrt(power * (decay @ np.stack([np.ones_like(x), y, z, x], axis=1) / len(x))).astype(np.float32)
    start, step = deviation[:, :-1].transpose(2, 0, 1), np.diff(deviation, axis=1).transpose(2, 0, 1)
    ramp = np.arange(block, dtype=np.float32) / block
    whole = (start[..., None] + step[..., None] * ramp).reshape(4, len(OCTAVE_BANDS_HZ), -1)[..., :taps]
    fade = np.clip((np.arange(taps) / sample_rate - end_s + fade_s) / fade_s, 0.0, 1.0)
    return whole * np.sqrt(fade).astype(np.float32)


def _tail_spectrum(
    envelope: NDArray[np.float32], generator: np.random.Generator, sample_rate: int
) -> NDArray[np.complex64]:
    """Spectrum (4, bins) of diffuse noise with that envelope, independent in each channel."""
    taps = envelope.shape[-1]
    start = int(np.argmax(envelope[0, 0] > 0))
    noise = generator.standard_normal((4, taps - start), dtype=np.float32)
    size = _fft_size(taps)
    spectrum = scipy.fft.rfft(noise, size, axis=-1)
    banded = scipy.fft.irfft(spectrum[:, None] * _band_filters(size, sample_rate), size, axis=-1)[..., : taps - start]
    shaped = np.zeros((4, taps), dtype=np.float32)
    np.einsum("cbt,cbt->ct", banded, envelope[..., start:], out=shaped[:, start:])
    return scipy.fft.rfft(shaped, size, axis=-1)
