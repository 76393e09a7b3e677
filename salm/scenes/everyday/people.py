"""People and what they do with their hands and feet."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    Signal,
    band,
    body,
    click,
    curve,
    level,
    morph,
    num_samples,
    place,
    voiced,
    wander,
    white,
)


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
    for _ in range(generator.integers(120, 220)):
        rate_hz, centre_hz = generator.uniform(2.8, 5.0), generator.lognormal(np.log(1_600), 0.35)
        loudness = generator.uniform(0.3, 1.0)
        clap = click(generator.uniform(0.015, 0.03), 0.6 * centre_hz, 2.0 * centre_hz, generator)
        clap /= np.sqrt(np.sum(clap**2))
        start_s = generator.uniform(0, 1 / rate_hz)
        while start_s < duration_s:
            place(line, clap, start_s, loudness * generator.uniform(0.6, 1.0))
            start_s += generator.uniform(0.85, 1.15) / rate_hz
    return np.tanh(0.8 * line / np.sqrt(12 * np.mean(line**2)))


def footsteps(duration_s: float, generator: np.random.Generator) -> Signal:
    """Someone in hard shoes: heel, then sole, about two steps a second, left and right not quite alike."""
    rate_hz, floor_hz = generator.uniform(1.6, 2.1), generator.uniform(90, 150)
    hardness = generator.uniform(0.5, 1.0)
    line = np.zeros(num_samples(duration_s))
    start_s, left = generator.uniform(0.05, 0.25), True
    while start_s < duration_s - 0.1:
        loudness = (1.0 if left else 0.85) * generator.uniform(0.8, 1.0)
        heel = level(body(0.12, (floor_hz, 2_500), 40, 0.1, generator))
        place(line, heel, start_s, 0.6 * loudness)
        place(line, level(click(0.025, 800, 2_000 + 5_000 * hardness, generator)), start_s, hardness * loudness)
        sole = generator.uniform(0.06, 0.1)
        place(line, level(body(0.08, (1.6 * floor_hz, 3_000), 40, 0.06, generator)), start_s + sole, 0.3 * loudness)
        scrape = band(white(num_samples(0.09), generator), 1_200, 6_000) * np.hanning(num_samples(0.09))
        place(line, level(scrape), start_s + sole, 0.15 * loudness)
        start_s += generator.uniform(0.94, 1.06) / rate_hz
        left = not left
    return line


def door_knock(duration_s: float, generator: np.random.Generator) -> Signal:
    """Three to five raps of a knuckle on a wooden door, then a pause, then again."""
    panel_hz, rate_hz = generator.uniform(110, 180), generator.uniform(4.0, 6.0)
    line = np.zeros(num_samples(duration_s))
    start_s, raps = generator.uniform(0.05, 0.3), int(generator.integers(3, 6))
    panel_seed = int(generator.integers(2**31))
    while start_s < duration_s - 0.2:
        for _ in range(raps):
            # One panel: every rap finds the same modes.
            rap = body(0.2, (panel_hz, 2_200), 24, 0.16, np.random.default_rng(panel_seed))
            loudness = generator.uniform(0.75, 1.0)
            place(line, level(rap), start_s, loudness)
            place(line, level(click(0.012, 500, 3_500, generator)), start_s, 0.5 * loudness)
            start_s += generator.uniform(0.93, 1.07) / rate_hz
        start_s += generator.uniform(0.7, 1.1)
    return line


def keyboard_typing(duration_s: float, generator: np.random.Generator) -> Signal:
    """Fast typing in bursts: each key, of its own sound and force, clicks down on its bed and back more softly."""
    rate_hz = generator.uniform(7.0, 11.0)
    low_hz = generator.uniform(180, 350)
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.0, 0.15)
    while start_s < duration_s:
        force = 10 ** (generator.uniform(-16, 0) / 20)
        brightness = generator.uniform(0.6, 1.4)
        down = level(click(0.02, 1_000 * brightness, 7_000, generator))
        bed = level(body(0.06, (low_hz, 5_000), 40, 0.045, generator))
        touch_s = generator.uniform(0.008, 0.02)
        place(line, level(click(0.01, 1_500, 9_000, generator)), start_s, 0.2 * force)
        place(line, down, start_s + touch_s, 0.7 * force)
        place(line, bed, start_s + touch_s, 0.6 * force)
        release = level(click(0.015, 1_500 * brightness, 8_000, generator))
        place(line, release, start_s + generator.uniform(0.05, 0.1), 0.25 * force)
        start_s += generator.gamma(4.0, 1 / 4.0) / rate_hz
        if generator.random() < 0.1:
            start_s += generator.uniform(0.15, 0.5)
    return line
