"""Struck metal: church bells, a doorbell, a telephone, breaking glass."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    RATE_HZ,
    Signal,
    band,
    click,
    decay,
    echo,
    harmonics,
    impact,
    level,
    modes,
    num_samples,
    place,
    resonate,
    seconds,
    white,
)

# Hum, prime, tierce, quint, nominal and the partials above, with levels and relative decays, of a minor-third bell
# (Fletcher and Rossing, The Physics of Musical Instruments, ch. 21).
_BELL_RATIOS = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.52, 2.66, 3.01, 4.1, 5.4, 6.8])
_BELL_LEVELS = 10 ** (np.array([-12, -7.5, -4.5, -2.2, 0, -3, -6, -9, -11, -13, -15]) / 20)
_BELL_DECAYS = np.array([1.6, 1.0, 0.8, 0.5, 0.55, 0.35, 0.33, 0.3, 0.2, 0.14, 0.1])


def church_bells(duration_s: float, generator: np.random.Generator) -> Signal:
    """One to three bells in turn, each with its hum, its minor third and a strike note."""
    line = np.zeros(num_samples(duration_s))
    prime_hz, bells = generator.uniform(390, 530), int(generator.integers(1, 4))
    tunings = [prime_hz * ratio for ratio in (1.0, 0.89, 0.75)[:bells]]
    interval_s = generator.uniform(0.8, 1.3)
    start_s, strike = generator.uniform(0.02, 0.15), 0
    while start_s < duration_s:
        frequencies = tunings[strike % bells] * _BELL_RATIOS * generator.uniform(0.998, 1.002, len(_BELL_RATIOS))
        # A bell is not quite round: each partial is a pair that beats.
        pairs = np.concatenate([frequencies, frequencies * 1.003])
        levels = np.concatenate([_BELL_LEVELS, 0.6 * _BELL_LEVELS])
        ring = modes(duration_s, pairs, levels, 6.0 * np.tile(_BELL_DECAYS**0.8, 2), generator)
        place(line, level(ring), start_s, generator.uniform(0.8, 1.0))
        clapper = impact([(300, -12), (1_500, 0), (5_000, -3), (9_000, -12)], 0.08, 0.3, -20.0, generator)
        place(line, clapper, start_s, 0.2)
        start_s += interval_s * generator.uniform(0.95, 1.05)
        strike += 1
    return echo(line, 0.95, -14.0, generator)


def doorbell(duration_s: float, generator: np.random.Generator) -> Signal:
    """Ding-dong: two chime bars, a major third apart, struck by a plunger."""
    high_hz = generator.uniform(600, 780)
    line = np.zeros(num_samples(duration_s))
    start_s, gap_s = generator.uniform(0.05, 0.2), generator.uniform(0.45, 0.7)
    while start_s < duration_s - 0.3:
        for number, pitch in enumerate((high_hz, high_hz / 1.26)):
            bar = modes(
                2.2, pitch * np.array([1.0, 2.0, 2.76, 5.4]), [1.0, 0.12, 0.35, 0.12], [2.2, 1.2, 0.8, 0.3], generator
            )
            place(line, level(bar), start_s + number * gap_s, 1.0)
            place(line, level(click(0.012, 1_500, 8_000, generator)), start_s + number * gap_s, 0.15)
        start_s += 2 * gap_s + generator.uniform(0.9, 1.6)
    return line


def telephone_ringing(duration_s: float, generator: np.random.Generator) -> Signal:
    """An old telephone, whose hammer strikes two gongs in turn, or an electronic one that warbles."""
    mechanical = generator.random() < 0.6
    line = np.zeros(num_samples(duration_s))
    ring_s, pause_s = generator.uniform(0.9, 1.6), generator.uniform(0.5, 1.1)
    low_hz = generator.uniform(1_050, 1_400) if mechanical else generator.uniform(750, 1_000)
    start_s = generator.uniform(0.03, 0.15)
    while start_s < duration_s - 0.2:
        event = _gongs(ring_s, low_hz, generator) if mechanical else _warble(ring_s, low_hz, generator)
        place(line, level(event), start_s)
        start_s += ring_s + pause_s
    return line


def _gongs(ring_s: float, low_hz: float, generator: np.random.Generator) -> Signal:
    strikes_hz, tail_s = generator.uniform(19, 25), 0.45
    line = np.zeros(num_samples(ring_s + tail_s))
    gongs = [
        modes(
            tail_s, pitch * np.array([1.0, 2.42, 4.1, 6.1]), [1.0, 0.9, 0.6, 0.3], [0.45, 0.35, 0.25, 0.15], generator
        )
        for pitch in (low_hz, low_hz * generator.uniform(1.12, 1.22))
    ]
    for strike in range(int(ring_s * strikes_hz)):
        place(line, gongs[strike % 2], strike / strikes_hz, generator.uniform(0.85, 1.0))
        place(line, click(0.006, 2_500, 9_000, generator), strike / strikes_hz, 0.3)
    return line


def _warble(ring_s: float, low_hz: float, generator: np.random.Generator) -> Signal:
    samples = num_samples(ring_s)
    switch = (seconds(samples) * generator.uniform(9, 15)) % 1 < 0.5
    sound = harmonics(np.where(switch, low_hz * 1.25, low_hz), samples, 1.0, odd_only=True)
    ramp = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / (0.005 * RATE_HZ))
    return resonate(sound, [(1_000, 900, 1.0), (2_800, 1_500, 0.8)]) * ramp


def glass_breaking(duration_s: float, generator: np.random.Generator) -> Signal:
    """A blow, the pane bursting, and the shards that fall and ring, fewer and fewer."""
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.05, 0.3)
    while start_s < duration_s - 0.4:
        place(line, level(click(0.1, 250, 2_500, generator)), start_s, 0.5)
        burst = band(white(num_samples(0.35), generator), 2_500, 20_000) * decay(num_samples(0.35), 0.35)
        place(line, level(burst), start_s + 0.005, 0.8)
        fall_s = generator.uniform(0.25, 0.5)
        for delay_s in generator.exponential(fall_s, generator.integers(60, 130)):
            pitch = generator.uniform(2_000, 7_000)
            shard = modes(
                0.2, pitch * np.array([1, 1.38, 1.77, 2.3]), [1, 0.8, 0.6, 0.5], generator.uniform(0.04, 0.2), generator
            )
            place(line, level(shard), start_s + delay_s, 0.55 * generator.random() ** 2 * np.exp(-delay_s / 1.2))
        start_s += generator.uniform(1.6, 2.4)
    return line
