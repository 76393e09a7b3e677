"""Weather, water and fire: shaped noise with its slow movement, and showers of small events."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    RATE_HZ,
    Signal,
    arrivals,
    band,
    click,
    curve,
    decay,
    level,
    num_samples,
    place,
    resonate,
    seconds,
    shaped_noise,
    tone,
    wander,
    white,
)


def rain_falling(duration_s: float, generator: np.random.Generator) -> Signal:
    """The hiss of far drops and the patter of near ones, some of which ring as bubbles."""
    samples = num_samples(duration_s)
    line = np.zeros(samples)
    drops = [_drop(generator) for _ in range(40)]
    for start_s in arrivals(generator.uniform(150, 500), duration_s, generator):
        place(line, drops[generator.integers(len(drops))], start_s, generator.pareto(2.5) + 0.2)
    hiss = shaped_noise(samples, [(100, -12), (800, -4), (3_000, 0), (7_000, 0), (11_000, -6)], generator)
    return np.clip(line, -4, 4) / 4 + generator.uniform(0.12, 0.25) * hiss * (1 + 0.1 * wander(samples, 2.0, generator))


def _drop(generator: np.random.Generator) -> Signal:
    patter = click(
        generator.uniform(0.004, 0.012), generator.uniform(1_000, 3_000), generator.uniform(5_000, 10_000), generator
    )
    bubble = num_samples(0.03)
    pitch = generator.uniform(1_500, 5_000) * curve(bubble, [(0, 1.0), (1, 1.2)])
    line = 0.25 * generator.random() * tone(pitch, bubble) * decay(bubble, 0.03)
    place(line, level(patter), 0.0)
    return line


def thunderstorm(duration_s: float, generator: np.random.Generator) -> Signal:
    """A crack that breaks up into claps and rolls away, over rain."""
    samples = num_samples(duration_s)
    line = np.zeros(samples)
    start_s = generator.uniform(0.1, 0.5)
    while start_s < duration_s - 0.8:
        length = num_samples(generator.uniform(3.0, 5.0))
        time = seconds(length)
        roll = np.zeros(length)
        for delay_s in np.concatenate([[0.0], generator.exponential(0.9, generator.integers(7, 14))]):
            clap = num_samples(generator.uniform(0.4, 1.2))
            cutoff_hz = 90 + 900 * np.exp(-delay_s / 0.5) * generator.uniform(0.4, 1.0)
            event = (
                band(white(clap, generator), 25, cutoff_hz) * np.minimum(np.arange(clap) / 400, 1) * decay(clap, 1.5)
            )
            place(roll, level(event), delay_s, np.exp(-delay_s / 1.5) * generator.uniform(0.5, 1.0))
        crack = band(white(length, generator), 300, 5_000) * decay(length, generator.uniform(0.25, 0.5), 0.01)
        rumble = (
            band(white(length, generator), 25, 110) * (0.6 + 0.4 * wander(length, 5.0, generator)) * np.exp(-time / 1.6)
        )
        place(line, level(roll) + 0.35 * level(crack) + 0.5 * level(rumble), start_s)
        start_s += generator.uniform(2.5, 4.0)
    rain = shaped_noise(samples, [(100, -15), (800, -6), (3_000, 0), (8_000, 0)], generator)
    return np.tanh(1.5 * level(line)) + 0.012 * rain


def sea_waves(duration_s: float, generator: np.random.Generator) -> Signal:
    """Swell that rises as a rumble, breaks into hiss and washes back over the sand."""
    samples = num_samples(duration_s)
    line = 0.06 * shaped_noise(samples, [(60, 0), (300, -3), (2_000, -12), (9_000, -25)], generator)
    start_s = -generator.uniform(0.5, 2.0)
    while start_s < duration_s:
        length = num_samples(generator.uniform(3.5, 5.5))
        body = shaped_noise(length, [(50, 0), (400, 0), (1_500, -8), (8_000, -24)], generator)
        foam = shaped_noise(length, [(200, -24), (1_000, -3), (3_000, 0), (9_000, -8)], generator)
        body *= curve(length, [(0, 0), (0.25, 0.5), (0.42, 1.0), (0.6, 0.45), (1, 0)])
        foam *= curve(length, [(0, 0), (0.3, 0.15), (0.45, 1.0), (0.65, 0.5), (0.85, 0.2), (1, 0)])
        wave = (body + 0.7 * foam) * (1 + 0.15 * wander(length, 8.0, generator))
        skipped = max(0, round(-start_s * RATE_HZ))
        place(line, wave[skipped:], max(start_s, 0.0), generator.uniform(0.6, 1.0))
        start_s += generator.uniform(2.2, 3.6)
    return line


def wind_blowing(duration_s: float, generator: np.random.Generator) -> Signal:
    """Gusts: a broad rumble, and a howl whose pitch rises with the speed of the air."""
    samples = num_samples(duration_s)
    gust = np.clip(0.6 + 0.35 * wander(samples, 0.7, generator) + 0.1 * wander(samples, 4.0, generator), 0.05, 1.0)
    rumble = shaped_noise(samples, [(40, 6), (150, 3), (500, -8), (2_000, -24), (8_000, -45)], generator)
    source = white(samples, generator)
    howl = np.zeros(samples)
    base_hz = generator.uniform(300, 480)
    for number, place_in_gust in enumerate(np.linspace(0.1, 1.0, 7)):
        weight = np.maximum(0, 1 - np.abs(gust - place_in_gust) / 0.15)
        howl += weight * resonate(source, [(base_hz * (1 + 0.13 * number), 30, 1.0), (2.3 * base_hz, 120, 0.15)])
    return gust**1.2 * (rumble + generator.uniform(0.6, 1.6) * level(howl))


def fire_crackling(duration_s: float, generator: np.random.Generator) -> Signal:
    """Wood that snaps, in bursts and of very unequal strength, over the flutter of the flames."""
    samples = num_samples(duration_s)
    line = np.zeros(samples)
    activity = 1 + 0.8 * wander(samples, 1.5, generator)
    for start_s in arrivals(generator.uniform(25, 55), duration_s, generator):
        low_hz = generator.uniform(800, 3_000)
        snap = click(generator.uniform(0.003, 0.02), low_hz, generator.uniform(2, 4) * low_hz, generator)
        gain = min(0.05 + 0.1 * generator.pareto(1.3), 1.0) * activity[min(round(start_s * RATE_HZ), samples - 1)]
        place(line, level(snap), start_s, gain)
    flames = shaped_noise(samples, [(40, 3), (200, 0), (1_000, -12), (6_000, -24)], generator)
    hiss = shaped_noise(samples, [(500, -20), (3_000, 0), (9_000, 0)], generator)
    return line + 0.05 * flames * (1 + 0.6 * wander(samples, 8.0, generator)) + 0.008 * hiss
