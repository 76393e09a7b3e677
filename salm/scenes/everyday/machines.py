"""Machines: engines and rotors, horns and sirens, clocks."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    RATE_HZ,
    Signal,
    curve,
    echo,
    harmonics,
    impact,
    level,
    modes,
    num_samples,
    place,
    resonate,
    scaled,
    seconds,
    shaped_noise,
    wander,
)

_STROKE = [(25, -12), (60, 0), (120, -9.5), (300, -0.5), (800, -17), (3_000, -35)]
_CLATTER = [(200, -24), (700, -5.5), (1_500, 0), (3_000, 0), (6_000, -10), (10_000, -22)]
_TICK = [(200, -34), (600, -4), (1_100, -2), (1_600, -6), (3_000, -12), (5_500, -8), (9_000, -16)]
_HORN_LOUDSPEAKER = [(700, 500, 1.0), (1_300, 700, 1.0), (2_300, 1_000, 0.6), (3_400, 1_500, 0.3)]


def siren(duration_s: float, generator: np.random.Generator) -> Signal:
    """An emergency vehicle: a slow wail, a fast yelp, or the two tones of Europe."""
    samples = num_samples(duration_s)
    kind = ("wail", "yelp", "two-tone")[generator.integers(3)]
    low_hz = generator.uniform(550, 700)
    high_hz = low_hz * generator.uniform(2.0, 2.4)
    if kind == "two-tone":
        period_s = generator.uniform(0.9, 1.3)
        switch = (seconds(samples) / period_s + generator.random()) % 1 < 0.5
        low_hz = generator.uniform(410, 480)
        pitch = np.where(switch, low_hz * 1.33, low_hz)
    else:
        period_s = generator.uniform(3.0, 5.0) if kind == "wail" else generator.uniform(0.28, 0.42)
        phase = (seconds(samples) / period_s + generator.random()) % 1
        rise = 0.45 if kind == "wail" else 0.55
        sweep = np.where(
            phase < rise, np.sin(np.pi / 2 * phase / rise), np.cos(np.pi / 2 * (phase - rise) / (1 - rise))
        )
        pitch = low_hz * (high_hz / low_hz) ** sweep
    sound = resonate(harmonics(pitch, samples, 0.8, odd_only=kind != "two-tone"), _HORN_LOUDSPEAKER)
    street = shaped_noise(samples, [(50, 6), (500, -6), (4_000, -24)], generator)
    return level(sound) * (1 + 0.1 * wander(samples, 2.0, generator)) + 0.015 * street


def car_horn(duration_s: float, generator: np.random.Generator) -> Signal:
    """Honks of two trumpets a third apart, bright and a little unsteady."""
    low_hz = generator.uniform(330, 440)
    pair = (low_hz, low_hz * generator.choice([1.19, 1.25, 1.26]))
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.03, 0.2)
    while start_s < duration_s - 0.15:
        samples = num_samples(generator.choice([0.2, 0.35, 0.7, 1.2]) * generator.uniform(0.8, 1.2))
        onset = curve(samples, [(0, 0.97), (min(0.5, 600 / samples), 1), (1, 1)])
        both = sum(harmonics(pitch * onset, samples, 0.35) for pitch in pair)
        trumpet = [(500, 300, 0.7), (1_500, 900, 1.0), (2_600, 900, 1.0), (3_800, 1_200, 0.5)]
        sound = np.tanh(1.5 * level(resonate(np.asarray(both), trumpet)))
        ramp = np.minimum(1, np.minimum(np.arange(samples) / 240, np.arange(samples)[::-1] / 600))
        place(line, sound * ramp, start_s)
        start_s += samples / RATE_HZ + generator.uniform(0.1, 0.6)
    return line + 0.008 * shaped_noise(len(line), [(50, 6), (500, -6), (4_000, -24)], generator)


def engine_idling(duration_s: float, generator: np.random.Generator) -> Signal:
    """A combustion engine: strokes of four unequal cylinders, the clatter of the valves, and the hum of the exhaust."""
    samples = num_samples(duration_s)
    firing_hz, size = generator.uniform(36, 48), generator.uniform(0.85, 1.15)
    strength = generator.uniform(0.8, 1.0, 4)
    strokes = [impact(scaled(_STROKE, size), 0.025, 0.038, -15.0, generator) for _ in range(4)]
    clacks = [impact(scaled(_CLATTER, size), 0.034, 0.085, -14.0, generator) for _ in range(12)]
    line, valves = np.zeros(samples), np.zeros(samples)
    start_s, stroke = 0.0, 0
    while start_s < duration_s:
        place(line, strokes[stroke % 4], start_s, strength[stroke % 4] * generator.uniform(0.9, 1.0))
        for probability, spread_s in ((1.0, 0.02), (0.5, 1 / firing_hz)):
            if generator.random() < probability:
                clack = clacks[generator.integers(len(clacks))]
                place(valves, clack, start_s + generator.uniform(0, spread_s), generator.uniform(0.2, 1.0))
        start_s += generator.normal(1.0, 0.03) / firing_hz
        stroke += 1
    steady = harmonics(firing_hz * (1 + 0.004 * wander(samples, 3.0, generator)), samples, 0.7)
    hum = resonate(steady, [(90, 60, 1.0), (200, 120, 0.6), (450, 300, 0.3)])
    air = shaped_noise(samples, [(40, -6), (100, 0), (400, -7), (1_500, -18), (4_000, -25), (10_000, -37)], generator)
    return level(line) + 0.21 * level(valves) + 0.55 * level(hum) + 0.027 * air


def helicopter(duration_s: float, generator: np.random.Generator) -> Signal:
    """Rotor blades that slap the air 10 to 16 times a second, over the turbine and the rush of the downwash."""
    samples = num_samples(duration_s)
    blade_hz = generator.uniform(10.5, 16)
    phase = np.cumsum(blade_hz * (1 + 0.01 * wander(samples, 1.0, generator))) / RATE_HZ
    chop = (0.5 + 0.5 * np.cos(2 * np.pi * phase)) ** generator.uniform(1.5, 3.0)
    low = shaped_noise(samples, [(25, 0), (60, 6), (150, 2), (400, -8), (2_000, -30)], generator)
    wash = shaped_noise(samples, [(100, -6), (300, 0), (1_200, -4), (4_000, -14), (10_000, -26)], generator)
    pitch_hz = generator.uniform(85, 130) * (1 + 0.01 * wander(samples, 2.0, generator))
    drone = level(resonate(harmonics(pitch_hz, samples, 0.6), [(250, 200, 1.0), (900, 600, 0.5)]))
    swell = 1 + 0.25 * wander(samples, 0.5, generator)
    return (low * (0.25 + chop) + wash * (0.2 + 0.6 * chop) + 0.25 * drone * (0.6 + 0.4 * chop)) * swell


def clock_ticking(duration_s: float, generator: np.random.Generator) -> Signal:
    """Tick and tock: the escapement strikes three times within a tick; every other tick is a little lower."""
    beats_hz, size = generator.uniform(3.4, 4.2), generator.uniform(0.88, 1.12)
    line = np.zeros(num_samples(duration_s))
    start_s, tock = generator.uniform(0.05, 0.2), 0
    while start_s < duration_s:
        pitch = size * (1.0, 0.89)[tock]
        for delay_s, gain in ((0.0, 0.8), (0.008, 1.0), (0.016, 0.48)):
            strike = impact(scaled(_TICK, 1.47 * pitch), 0.062, 0.082, -30.0, generator)
            place(line, strike, start_s + delay_s, gain * generator.uniform(0.9, 1.0))
        wheel = modes(0.12, 1_477 * pitch * np.array([1, 1.51, 2.3]), [1, 0.7, 0.5], 0.119, generator)
        place(line, level(wheel), start_s + 0.008, 0.58)
        start_s += (1.0, 1.04)[tock] / beats_hz
        tock = 1 - tock
    return echo(line, 0.29, -20.0, generator)
