"""Animals: a voice or a whistle with its pitch contour, through a throat that opens and closes."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    RATE_HZ,
    Signal,
    band,
    bend,
    curve,
    echo,
    level,
    num_samples,
    place,
    resonate,
    scaled,
    shaped_noise,
    sing,
    tone,
    white,
)

_BARK = [
    *((175, -30), (315, -20), (476, 1), (700, 0), (1_190, -2.5)),
    *((1_680, -8.5), (2_240, -16), (3_150, -31), (6_300, -44)),
]
_MEOW_CLOSED = [(550, -14), (890, -4), (1_640, -8), (3_000, -10), (4_360, -18), (6_810, -35), (12_260, -57)]
_MEOW_OPEN = [(600, -24), (1_040, -14), (1_940, -3), (2_980, -4), (4_170, -13), (5_960, -22), (8_950, -36)]
_MEOW_ROUND = [(620, -10), (1_090, -4), (1_860, -1), (2_790, -16), (4_660, -33), (7_760, -47)]
_CROW = [(550, -20), (790, -5), (1_210, -2), (1_760, -1), (2_420, -10), (3_520, -22), (5_500, -30), (9_900, -47)]


def dog_barking(duration_s: float, generator: np.random.Generator) -> Signal:
    """Groups of one to three barks of about 0.15 s: the larger the dog, the lower its pitch and throat."""
    size = generator.uniform(0.85, 1.3)
    pitch_hz, length_s = generator.uniform(500, 620) / size, generator.uniform(0.125, 0.18)
    roughness = generator.uniform(0.3, 0.5)
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.02, 0.15)
    while start_s + length_s < duration_s:
        for _ in range(generator.integers(1, 4)):
            bark_s = length_s * generator.uniform(0.9, 1.15)
            bark = _bark(pitch_hz * generator.uniform(0.95, 1.07), bark_s, size, roughness, generator)
            place(line, bark, start_s, generator.uniform(0.75, 1.0))
            start_s += bark_s + generator.uniform(0.1, 0.25)
        start_s += generator.uniform(0.2, 0.6)
    return echo(line, 0.5, -9.0, generator)


def _bark(pitch_hz: float, length_s: float, size: float, roughness: float, generator: np.random.Generator) -> Signal:
    samples = num_samples(length_s)
    pitch = pitch_hz * bend(samples, [(0, 0.58), (0.25, 1.05), (0.5, 1.08), (1, 0.5)])
    throat = [(place_, scaled(_BARK, factor / size)) for place_, factor in ((0.0, 0.66), (0.4, 1.1), (1.0, 0.6))]
    voice = sing(pitch, throat, 0.09, generator)
    subharmonic = 1 + 0.13 * tone(pitch / 2, samples, generator.uniform(0, 2 * np.pi))
    breath = shaped_noise(samples, scaled(_BARK, 1.15 / size), generator) * (0.5 + 0.5 * tone(pitch, samples))
    sound = voice / np.std(voice) * subharmonic + roughness * breath
    envelope_db = curve(samples, [(0, -45), (0.11, -22), (0.28, -6), (0.42, 0), (0.65, -2), (0.8, -10), (1, -28)])
    sound = level(sound * 10 ** (envelope_db / 20) * curve(samples, [(0, 0), (0.03, 1), (0.95, 1), (1, 0)]))
    return level(np.tanh(2.3 * sound))


def cat_meowing(duration_s: float, generator: np.random.Generator) -> Signal:
    """Meows of 0.5 to 0.75 s: the mouth opens from "mi" to "a" and closes to "u"."""
    size = generator.uniform(0.9, 1.12)
    pitch_hz = generator.uniform(575, 660) / size
    stages = [(0.0, _MEOW_CLOSED), (0.28, _MEOW_OPEN), (0.65, _MEOW_OPEN), (1.0, _MEOW_ROUND)]
    mouth = [(fraction, scaled(spectrum, 1 / size)) for fraction, spectrum in stages]
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.02, 0.2)
    while start_s < duration_s - 0.5:
        samples = num_samples(generator.uniform(0.5, 0.75))
        contour = bend(samples, [(0, 0.86), (0.3, 1.06), (0.6, 1.05), (1, 0.93)])
        voice = sing(pitch_hz * generator.uniform(0.95, 1.05) * contour, mouth, 0.015, generator)
        breath = shaped_noise(samples, scaled(_MEOW_OPEN, 0.8 / size), generator)
        envelope_db = curve(samples, [(0, -40), (0.08, -16), (0.3, -3), (0.45, 0), (0.7, -2.5), (0.9, -11), (1, -40)])
        meow = level((voice / np.std(voice) + 0.16 * breath) * 10 ** (envelope_db / 20))
        place(line, level(np.tanh(1.3 * meow)), start_s, generator.uniform(0.75, 1.0))
        start_s += samples / RATE_HZ + generator.uniform(0.3, 0.9)
    return echo(line, 0.42, -14.0, generator)


def frogs_croaking(duration_s: float, generator: np.random.Generator) -> Signal:
    """A few frogs in turn: trains of pulses, each ringing in the vocal sac."""
    line = np.zeros(num_samples(duration_s))
    for _ in range(generator.integers(2, 4)):
        centre_hz, pulses_hz = generator.uniform(550, 1100), generator.uniform(45, 80)
        length_s, pause_s = generator.uniform(0.18, 0.35), generator.uniform(0.35, 0.8)
        start_s, loudness = generator.uniform(0, 0.5), generator.uniform(0.4, 1.0)
        while start_s < duration_s - length_s:
            samples = num_samples(length_s * generator.uniform(0.9, 1.1))
            rate = pulses_hz * curve(samples, [(0, 0.8), (1, 1.25)])
            phase = np.cumsum(rate) / num_samples(1.0)
            pulses = np.diff(np.floor(phase), prepend=0.0) * generator.uniform(0.7, 1.0, samples)
            sac = [(centre_hz, 90, 1.0), (2.1 * centre_hz, 160, 0.7), (3.4 * centre_hz, 300, 0.25)]
            sound = resonate(pulses + 0.003 * white(samples, generator), sac)
            sound *= curve(samples, [(0, 0.1), (0.4, 0.8), (0.85, 1), (1, 0)])
            place(line, level(sound), start_s, loudness * generator.uniform(0.8, 1.0))
            start_s += length_s + pause_s * generator.uniform(0.7, 1.4)
    return line + 0.003 * shaped_noise(len(line), [(100, 0), (4_000, -20)], generator)


def crickets_chirping(duration_s: float, generator: np.random.Generator) -> Signal:
    """Field crickets: chirps of three to five pulses on one pure tone each, over the insects of a meadow."""
    line = np.zeros(num_samples(duration_s))
    for number in range(generator.integers(2, 5)):
        carrier_hz, chirps_hz = generator.uniform(4_000, 5_300), generator.uniform(1.8, 3.5)
        pulses, pulse_s = int(generator.integers(3, 6)), generator.uniform(0.014, 0.02)
        loudness = 1.0 if number == 0 else generator.uniform(0.1, 0.5)
        start_s = generator.uniform(0, 1 / chirps_hz)
        while start_s < duration_s:
            for pulse in range(pulses):
                samples = num_samples(pulse_s)
                frequency = carrier_hz * curve(samples, [(0, 1.02), (1, 0.98)])
                event = tone(frequency, samples) * np.sin(np.pi * np.linspace(0, 1, samples)) ** 0.8
                place(line, event, start_s + 1.7 * pulse * pulse_s, loudness * (0.6 + 0.4 * pulse / pulses))
            start_s += generator.uniform(0.93, 1.07) / chirps_hz
    meadow = band(white(len(line), generator), 4_500, 7_500) * (1 + 0.6 * tone(45.0, len(line)))
    return line + 0.02 * meadow


def birds_chirping(duration_s: float, generator: np.random.Generator) -> Signal:
    """Two or three songbirds: phrases of whistles that sweep, trill and repeat."""
    line = np.zeros(num_samples(duration_s))
    for number in range(generator.integers(2, 4)):
        centre_hz = generator.uniform(2_800, 5_000)
        start_s = generator.uniform(0.0, 0.3 + 0.4 * number)
        loudness = 1.0 if number == 0 else generator.uniform(0.3, 0.8)
        while start_s < duration_s:
            length_s, repeats = generator.uniform(0.05, 0.16), int(generator.integers(2, 7))
            low, high = np.sort(generator.uniform(0.75, 1.35, 2))
            shape = [(0, low), (0.5, high), (1, low)] if generator.random() < 0.5 else [(0, high), (0.3, low), (1, low)]
            for _ in range(repeats):
                samples = num_samples(length_s)
                pitch = centre_hz * curve(samples, shape) * generator.uniform(0.98, 1.02)
                note = tone(pitch * (1 + 0.02 * tone(38.0, samples)), samples) + 0.12 * tone(2 * pitch, samples)
                place(line, note * np.sin(np.pi * np.linspace(0, 1, samples)), start_s, loudness)
                start_s += length_s * generator.uniform(1.25, 1.6)
            start_s += generator.uniform(0.15, 0.7)
    return line + 0.004 * shaped_noise(len(line), [(100, 0), (3_000, -15)], generator)


def rooster_crowing(duration_s: float, generator: np.random.Generator) -> Signal:
    """Cock-a-doodle-doo: three short calls, then a long one that falls."""
    pitch_hz, speed = generator.uniform(825, 965), generator.uniform(0.96, 1.15)
    line = np.zeros(num_samples(duration_s))
    calls = [(0.0, 0.24, 0.97, 1.02), (0.31, 0.16, 0.9, 0.92), (0.52, 0.3, 0.96, 1.0), (0.88, 1.0, 1.04, 0.91)]
    beak = [(0.0, scaled(_CROW, 0.67)), (0.3, _CROW), (1.0, scaled(_CROW, 0.95))]
    start_s = generator.uniform(0.05, 0.2)
    while start_s < duration_s - 1.0:
        for offset_s, length_s, first, last in calls:
            samples = num_samples(length_s * speed * generator.uniform(0.95, 1.05))
            points = [(0, 0.78 * first), (0.12, first), (0.55, first), (0.85, last), (1, 0.8 * last)]
            pitch = pitch_hz * bend(samples, points)
            voice = sing(pitch, beak, 0.048, generator)
            rasp = 1 + 0.11 * tone(pitch / 2, samples)
            breath = shaped_noise(samples, scaled(_CROW, 1.2), generator)
            envelope_db = curve(samples, [(0, -35), (0.06, -4), (0.5, 0), (0.8, -3), (0.93, -12), (1, -40)])
            call = level((voice / np.std(voice) * rasp + 0.21 * breath) * 10 ** (envelope_db / 20))
            place(line, level(np.tanh(3 * call)), start_s + offset_s * speed, 0.75 if offset_s < 0.4 else 1.0)
        start_s += 1.95 * speed + generator.uniform(0.4, 1.0)
    return echo(line, 0.55, -8.0, generator)
