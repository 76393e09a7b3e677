"""People and what they do with their hands and feet."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    Signal,
    band,
    curve,
    echo,
    impact,
    level,
    modes,
    morph,
    num_samples,
    place,
    scaled,
    shaped_noise,
    voiced,
    wander,
    white,
)

_DOOR = [(50, -1), (120, -9), (230, -1), (450, 0), (800, -6), (1_300, -12), (2_200, -30), (5_000, -46)]
_SHOE = [(50, -11), (120, -4), (300, 0), (700, -4), (1_500, -20), (3_000, -34), (8_000, -48)]
_SCRAPE = [(200, -20), (800, -6), (2_000, 0), (5_000, -15), (9_000, -23)]
_KEY = [(100, -39), (400, -27), (900, -6), (1_500, 0), (2_500, 0), (5_000, -19), (9_000, -32)]


def baby_crying(duration_s: float, generator: np.random.Generator) -> Signal:
    """Wails of about a second on a high, strained voice, with a breath drawn in between."""
    pitch_hz, size = generator.uniform(400, 500), generator.uniform(0.92, 1.08)
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.02, 0.15)
    while start_s < duration_s - 0.4:
        samples = num_samples(generator.uniform(0.7, 1.25))
        contour = curve(samples, [(0, 0.78), (0.15, 1.05), (0.5, 1.1), (0.8, 0.98), (1, 0.75)])
        pitch = pitch_hz * generator.uniform(0.93, 1.08) * contour * (1 + 0.025 * wander(samples, 9.0, generator))
        source = voiced(pitch, 0.012, 0.55, generator) + 0.06 * white(samples, generator)
        half = [(900 / size, 200, 0.8), (1_700 / size, 250, 0.4), (3_300 / size, 400, 0.4)]
        full = [(1_150 / size, 220, 1.0), (1_900 / size, 260, 0.7), (3_600 / size, 450, 0.7), (5_200 / size, 700, 0.3)]
        cry = np.tanh(1.8 * level(morph(source, [(0, half), (0.25, full), (0.75, full), (1, half)])))
        place(line, cry * curve(samples, [(0, 0), (0.1, 0.8), (0.5, 1), (0.85, 0.6), (1, 0)]), start_s)
        start_s += samples / num_samples(1.0) + 0.04
        breath = num_samples(generator.uniform(0.16, 0.28))
        gasp = band(white(breath, generator), 900, 4_500) * np.sin(np.pi * np.linspace(0, 1, breath)) ** 2
        place(line, level(gasp), start_s, 0.08)
        start_s += breath / num_samples(1.0) + generator.uniform(0.03, 0.2)
    return line


def applause(duration_s: float, generator: np.random.Generator) -> Signal:
    """A hall of people: each claps at a rate and with a resonance of their hands of their own."""
    line = np.zeros(num_samples(duration_s))
    for _ in range(generator.integers(75, 150)):
        rate_hz, hands_hz = generator.uniform(2.8, 5.2), generator.lognormal(np.log(1_450), 0.3)
        loudness = generator.uniform(0.1, 1.0) ** 2.2
        spectrum = [(0.25, -24.0), (0.6, -6.0), (1.0, 0.0), (1.7, -4.0), (3.0, -18.0), (6.0, -28.0)]
        clap = impact(scaled(spectrum, hands_hz), 0.085, 0.47, -13.0, generator)
        start_s = generator.uniform(0, 1 / rate_hz)
        while start_s < duration_s:
            place(line, clap, start_s, loudness * generator.uniform(0.6, 1.0))
            start_s += generator.uniform(0.85, 1.15) / rate_hz
    return echo(line, 0.65, -14.0, generator)


def footsteps(duration_s: float, generator: np.random.Generator) -> Signal:
    """Someone in shoes on a hard floor: heel, then sole, with a scrape between them, two steps a second or more."""
    rate_hz, floor = generator.uniform(2.0, 2.5), generator.uniform(1.14, 1.54)
    line = np.zeros(num_samples(duration_s))
    start_s, left = generator.uniform(0.05, 0.25), True
    while start_s < duration_s - 0.1:
        shoe = scaled(_SHOE, floor * (1.0 if left else 1.08))
        loudness, roll_s = generator.uniform(0.75, 1.0), generator.uniform(0.045, 0.06)
        place(line, impact(shoe, 0.04, 0.33, -18.0, generator), start_s, loudness)
        place(line, impact(scaled(shoe, 1.4), 0.032, 0.33, -18.0, generator), start_s + roll_s, 0.53 * loudness)
        length = num_samples(0.15)
        scrape = shaped_noise(length, _SCRAPE, generator) * np.hanning(length)
        place(line, level(scrape), start_s + roll_s / 2, 0.33 * loudness)
        start_s += generator.uniform(0.94, 1.06) / rate_hz
        left = not left
    return echo(line, 0.4, -28.0, generator)


def door_knock(duration_s: float, generator: np.random.Generator) -> Signal:
    """Three to five raps of a knuckle on a wooden door, then a pause, then again."""
    rate_hz, panel = generator.uniform(3.75, 5.0), generator.uniform(0.77, 1.04)
    line = np.zeros(num_samples(duration_s))
    start_s, raps = generator.uniform(0.05, 0.3), int(generator.integers(3, 6))
    while start_s < duration_s - 0.2:
        for _ in range(raps):
            loudness = generator.uniform(0.8, 1.0)
            place(line, impact(scaled(_DOOR, panel), 0.22, 0.23, -7.0, generator), start_s, loudness)
            boom = modes(0.3, panel * np.array([190, 330, 470, 720]), [1, 0.8, 0.6, 0.3], 0.19, generator)
            place(line, level(boom), start_s, 0.8 * loudness)
            start_s += generator.uniform(0.93, 1.07) / rate_hz
        start_s += generator.uniform(0.7, 1.1)
    return echo(line, 0.42, -20.0, generator)


def keyboard_typing(duration_s: float, generator: np.random.Generator) -> Signal:
    """Typing with pauses: each key, of its own sound and force, is touched, meets its bed, and springs back."""
    rate_hz, board = generator.uniform(4.2, 6.2), generator.uniform(0.86, 1.16)
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.0, 0.15)
    while start_s < duration_s:
        key, force = scaled(_KEY, board * generator.uniform(0.85, 1.2)), generator.uniform(0.35, 1.0)
        touch = impact(scaled(key, 1.3), 0.032, 0.23, -29.0, generator)
        bed = impact(key, 0.064, 0.23, -29.0, generator)
        release = impact(scaled(key, 1.2), 0.045, 0.23, -29.0, generator)
        place(line, touch, start_s, 0.29 * force)
        place(line, bed, start_s + generator.uniform(0.012, 0.03), force)
        place(line, release, start_s + generator.uniform(0.06, 0.12), 0.75 * force)
        start_s += generator.gamma(10.0, 0.1) / rate_hz
        if generator.random() < 0.06:
            start_s += generator.uniform(0.15, 0.4)
    return echo(line, 0.22, -16.0, generator)
