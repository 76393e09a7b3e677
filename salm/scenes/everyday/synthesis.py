"""What everyday sounds are made of: sources, resonances, envelopes, and events on a time line. All at `RATE_HZ`."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

RATE_HZ = 24_000
"""Rate of the synthesis; `everyday_sound` resamples its result."""
HIGHEST_HZ = 11_000.0
Signal = NDArray[np.float64]
Spectrum = Sequence[tuple[float, float]]
"""Levels as (Hz, dB), straight between them over the logarithm of frequency."""
Formants = Sequence[tuple[float, float, float]]
"""Resonances as (centre in Hz, bandwidth in Hz, gain)."""


def num_samples(duration_s: float) -> int:
    """At least one sample."""
    return max(1, round(duration_s * RATE_HZ))


def seconds(samples: int) -> Signal:
    """The time of each sample, from 0."""
    return np.arange(samples) / RATE_HZ


def curve(samples: int, points: Sequence[tuple[float, float]]) -> Signal:
    """A line through (fraction of the length, value), straight between the points."""
    places, values = zip(*points, strict=True)
    return np.interp(np.linspace(0.0, 1.0, samples), places, values)


def bend(samples: int, points: Sequence[tuple[float, float]]) -> Signal:
    """As `curve`, but smooth at the points."""
    places, values = zip(*points, strict=True)
    position = np.linspace(0.0, 1.0, samples)
    return PchipInterpolator(places, values)(position)


def wander(samples: int, rate_hz: float, generator: np.random.Generator) -> Signal:
    """A smooth random curve in [-1, 1] that takes a new value `rate_hz` times a second."""
    num_points = max(2, int(np.ceil(samples / RATE_HZ * rate_hz)) + 2)
    position = np.linspace(0.0, num_points - 1.0, samples) if samples > 1 else np.zeros(1)
    values = generator.uniform(-1.0, 1.0, num_points)
    before = np.minimum(position.astype(int), num_points - 2)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - before))
    return values[before] * (1 - blend) + values[before + 1] * blend


def white(samples: int, generator: np.random.Generator) -> Signal:
    """Noise of unit power."""
    return generator.standard_normal(samples)


def shaped_noise(samples: int, points: Spectrum, generator: np.random.Generator) -> Signal:
    """Noise of unit power whose spectrum goes through (Hz, dB), straight over the logarithm of frequency."""
    length = max(samples, 64)
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / RATE_HZ), 1.0)
    gain = 10 ** (_spectrum_db(frequency, points) / 20)
    noise = np.fft.irfft(np.fft.rfft(white(length, generator)) * gain, length)[:samples]
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)


def band(signal: Signal, low_hz: float, high_hz: float, order: int = 2) -> Signal:
    """What lies between two frequencies; a bound of 0 or above `HIGHEST_HZ` is left open."""
    kind: Literal["lowpass", "highpass", "bandpass"]
    if low_hz <= 0:
        kind, edges = "lowpass", [min(high_hz, HIGHEST_HZ)]
    elif high_hz >= HIGHEST_HZ:
        kind, edges = "highpass", [low_hz]
    else:
        kind, edges = "bandpass", [low_hz, high_hz]
    return sosfilt(butter(order, edges if len(edges) > 1 else edges[0], kind, fs=RATE_HZ, output="sos"), signal)


def resonate(signal: Signal, formants: Formants) -> Signal:
    """The sum of two-pole resonators, each of the given gain at its centre."""
    result = np.zeros(len(signal))
    for centre_hz, width_hz, gain in formants:
        if centre_hz >= HIGHEST_HZ:
            continue
        radius = np.exp(-np.pi * width_hz / RATE_HZ)
        angle = 2 * np.pi * centre_hz / RATE_HZ
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        zeros = np.array([1.0, 0.0, -1.0]) * (1 - radius**2) / 2  # no gain at 0 Hz and at half the rate
        result += gain * lfilter(zeros, poles, signal)
    return result


def morph(signal: Signal, stages: Sequence[tuple[float, Formants]]) -> Signal:
    """Resonances that change: (fraction of the length, formants), blended between the stages."""
    result = np.zeros(len(signal))
    places = [place for place, _ in stages]
    for number, (_, formants) in enumerate(stages):
        weight = np.interp(np.linspace(0, 1, len(signal)), places, np.eye(len(stages))[number])
        result += weight * resonate(signal, formants)
    return result


def tone(frequency_hz: ArrayLike, samples: int, phase: float = 0.0) -> Signal:
    """A sine of constant or changing frequency."""
    frequency = np.broadcast_to(np.asarray(frequency_hz, float), (samples,))
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE_HZ + phase)


def harmonics(frequency_hz: ArrayLike, samples: int, tilt: float = 1.0, odd_only: bool = False) -> Signal:
    """A sum of harmonics, the k-th of amplitude ``k**-tilt``, none above `HIGHEST_HZ`."""
    frequency = np.broadcast_to(np.asarray(frequency_hz, float), (samples,))
    phase = 2 * np.pi * np.cumsum(frequency) / RATE_HZ
    result = np.zeros(samples)
    for k in range(1, int(HIGHEST_HZ / max(float(frequency.min()), 20.0)) + 1, 2 if odd_only else 1):
        audible = np.clip((HIGHEST_HZ - k * frequency) / 500.0, 0.0, 1.0)
        # Phases of a squared law keep the crest factor near that of a voice.
        result += audible * k**-tilt * np.sin(k * phase + 0.3 * k * k)
    return result


def voiced(frequency_hz: Signal, jitter: float, tilt: float, generator: np.random.Generator) -> Signal:
    """A voice source: harmonics of a pitch that is never quite steady (`jitter`: relative, at 90 Hz)."""
    unsteady = frequency_hz * (1 + jitter * wander(len(frequency_hz), 90.0, generator))
    return harmonics(unsteady, len(frequency_hz), tilt)


def sing(
    pitch: Signal, stages: Sequence[tuple[float, Spectrum]], jitter: float, generator: np.random.Generator
) -> Signal:
    """A voice: harmonics of an unsteady pitch, as loud as the spectrum at their frequency.

    Args:
        pitch: in Hz, per sample.
        stages: (fraction of the length, spectrum); between two of them the spectrum blends.
        jitter: relative unsteadiness of the pitch, at 90 Hz.
        generator: of the jitter.
    """
    samples = len(pitch)
    pitch = pitch * (1 + jitter * wander(samples, 90.0, generator))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    places = [place for place, _ in stages]
    weights = [np.interp(np.linspace(0, 1, samples), places, row) for row in np.eye(len(stages))]
    result = np.zeros(samples)
    for k in range(1, int(HIGHEST_HZ / max(float(pitch.min()), 20.0)) + 1):
        level_db = sum(
            weight * _spectrum_db(k * pitch, spectrum) for weight, (_, spectrum) in zip(weights, stages, strict=True)
        )
        audible = np.clip((HIGHEST_HZ - k * pitch) / 500.0, 0.0, 1.0)
        result += audible * 10 ** (level_db / 20) * np.sin(k * phase + 0.3 * k * k)
    return result


def _spectrum_db(frequency_hz: Signal, spectrum: Spectrum) -> Signal:
    places, levels_db = zip(*spectrum, strict=True)
    return np.interp(np.log(np.maximum(frequency_hz, 1.0)), np.log(places), levels_db)


def scaled(spectrum: Spectrum, factor: float) -> Spectrum:
    """The same spectrum at `factor` times the frequency: a smaller or larger body."""
    return [(place * factor, level_db) for place, level_db in spectrum]


def decay(samples: int, time_s: float, attack_s: float = 0.0005) -> Signal:
    """An envelope that rises in `attack_s` and falls to -60 dB in `time_s`."""
    time = seconds(samples)
    return np.minimum(time / attack_s, 1.0) * 10 ** (-3 * np.maximum(time - attack_s, 0) / time_s)


def modes(
    duration_s: float,
    frequencies_hz: ArrayLike,
    amplitudes: ArrayLike,
    times_s: ArrayLike,
    generator: np.random.Generator,
) -> Signal:
    """A struck body: decaying sines of random phase; `times_s` are their times to -60 dB."""
    samples = num_samples(duration_s)
    triples = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in (frequencies_hz, amplitudes, times_s)))
    result = np.zeros(samples)
    for frequency, amplitude, time_s in zip(*triples, strict=True):
        if frequency < HIGHEST_HZ:
            ring = tone(frequency, samples, generator.uniform(0, 2 * np.pi))
            result += amplitude * ring * decay(samples, time_s)
    return result


def click(duration_s: float, low_hz: float, high_hz: float, generator: np.random.Generator) -> Signal:
    """A burst of noise in a band that falls to -60 dB in `duration_s`."""
    samples = num_samples(duration_s)
    return band(white(samples, generator), low_hz, high_hz) * decay(samples, duration_s)


def impact(spectrum: Spectrum, fast_s: float, slow_s: float, slow_db: float, generator: np.random.Generator) -> Signal:
    """A blow on something that does not ring: shaped noise that falls in two stages, as objects in rooms do.

    Args:
        spectrum: of the noise.
        fast_s: time to -60 dB of the blow itself.
        slow_s: time to -60 dB of what follows.
        slow_db: its level at the start.
        generator: of the noise.
    """
    samples = num_samples(slow_s)
    envelope = decay(samples, fast_s) + 10 ** (slow_db / 20) * decay(samples, slow_s)
    return level(shaped_noise(samples, spectrum, generator) * envelope)


def place(line: Signal, event: Signal, start_s: float, gain: float = 1.0) -> None:
    """Add an event to a time line; what is beyond the end is dropped."""
    start = round(start_s * RATE_HZ)
    if 0 <= start < len(line):
        length = min(len(event), len(line) - start)
        line[start : start + length] += gain * event[:length]


def echo(line: Signal, time_s: float, level_db: float, generator: np.random.Generator) -> Signal:
    """A little of the place where it was heard: diffuse, `time_s` to -60 dB, `level_db` of energy."""
    samples = num_samples(time_s)
    tail = shaped_noise(samples, [(100, -6), (500, 0), (3_000, 0), (9_000, -12)], generator) * decay(
        samples, time_s, 0.01
    )
    tail *= 10 ** (level_db / 20) / np.sqrt(np.sum(tail**2))
    return line + fftconvolve(line, tail)[: len(line)]


def level(signal: Signal) -> Signal:
    """The same with a peak of one; silence stays."""
    peak = float(np.abs(signal).max(initial=0.0))
    return signal / peak if peak > 0 else signal


def arrivals(rate_hz: float, duration_s: float, generator: np.random.Generator) -> Signal:
    """Times of independent events, `rate_hz` of them a second on average."""
    return np.sort(generator.uniform(0.0, duration_s, generator.poisson(rate_hz * duration_s)))
