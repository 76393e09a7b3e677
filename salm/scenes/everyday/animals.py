"""Animals: a voice or a whistle with its pitch contour, through a throat that opens and closes."""

import numpy as np

from salm.scenes.everyday.synthesis import (
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
    wander,
    white,
)

_BARK = [
    (175, -30.2),
    (315, -20.0),
    (476, 1.2),
    (700, 0.0),
    (1190, -2.4),
    (1680, -8.4),
    (2240, -16.3),
    (3150, -31.4),
    (6300, -43.5),
]
_MEOW_CLOSED = [(400, -14), (650, -4), (1_200, -8), (2_200, -6), (3_200, -12), (5_000, -26), (9_000, -45)]
_MEOW_OPEN = [(400, -24), (700, -14), (1_300, -2), (2_000, 0), (2_800, -7), (4_000, -14), (6_000, -26), (9_000, -40)]
_MEOW_ROUND = [(400, -10), (700, -4), (1_200, 0), (1_800, -12), (3_000, -26), (5_000, -38), (9_000, -55)]
_CROW = [(500, -20), (720, -5), (1_100, -2), (1_600, 0), (2_200, -8), (3_200, -18), (5_000, -24), (9_000, -38)]


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
    """Meows of 0.6 to 1 s: the mouth opens from "mi" to "a" and closes to "u"."""
    size = generator.uniform(0.9, 1.15)
    pitch_hz = generator.uniform(580, 700) / size
    line = np.zeros(num_samples(duration_s))
    start_s = generator.uniform(0.02, 0.2)
    while start_s < duration_s - 0.5:
        samples = num_samples(generator.uniform(0.6, 1.0))
        contour = curve(samples, [(0, 0.9), (0.12, 1.06), (0.3, 1.08), (0.7, 0.98), (1, 0.82)])
        pitch = pitch_hz * generator.uniform(0.95, 1.05) * contour
        source = voiced(pitch, 0.006, 0.8, generator)
        nasal = [(500 / size, 200, 0.5), (2_600 / size, 300, 0.8), (3_500 / size, 500, 0.4)]
        opened = [
            (1_250 / size, 300, 0.9),
            (2_100 / size, 350, 1.0),
            (3_400 / size, 500, 0.4),
            (5_200 / size, 800, 0.2),
        ]
        rounded = [(650 / size, 200, 0.7), (1_200 / size, 250, 0.5), (2_800 / size, 500, 0.1)]
        sound = morph(
            source + 0.03 * white(samples, generator), [(0, nasal), (0.2, opened), (0.6, opened), (1, rounded)]
        )
        envelope = curve(samples, [(0, 0), (0.06, 0.5), (0.2, 1), (0.5, 0.8), (0.8, 0.3), (1, 0)])
        place(line, level(sound * envelope), start_s, generator.uniform(0.75, 1.0))
        start_s += samples / num_samples(1.0) + generator.uniform(0.3, 0.9)
    return line


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
    """Cock-a-doodle-doo: two short calls, a rough third, then a long clear one that falls at the end."""
    pitch_hz, speed = generator.uniform(720, 860), generator.uniform(0.85, 1.1)
    line = np.zeros(num_samples(duration_s))
    # Start and length in s, pitch at the beginning and the end, roughness, loudness.
    calls = [
        (0.0, 0.28, 0.62, 0.7, 0.6, 0.5),
        (0.36, 0.25, 0.9, 0.95, 0.5, 0.8),
        (0.63, 0.42, 0.95, 1.0, 0.7, 0.9),
        (1.07, 1.0, 1.08, 0.92, 0.05, 1.0),
    ]
    start_s = generator.uniform(0.05, 0.15)
    while start_s < duration_s - 1.0:
        for offset_s, length_s, first, last, roughness, loudness in calls:
            samples = num_samples(length_s * speed * generator.uniform(0.95, 1.05))
            contour = curve(samples, [(0, 0.85 * first), (0.1, first), (0.85, last), (1, 0.7 * last)])
            pitch = pitch_hz * contour
            throat = [(pitch_hz * 2, 350, 1.0), (pitch_hz * 3.2, 500, 0.4), (pitch_hz * 5, 900, 0.25), (900, 400, 0.4)]
            growl = 1 + roughness * tone(pitch / 2, samples) + roughness * 0.8 * wander(samples, 120.0, generator)
            source = voiced(pitch, 0.004 + 0.03 * roughness, 0.7, generator) * growl
            source += (0.05 + 0.4 * roughness) * white(samples, generator)
            envelope = curve(samples, [(0, 0), (0.06, 0.9), (0.5, 1), (0.88, 0.7), (1, 0)])
            place(line, level(resonate(source, throat) * envelope), start_s + offset_s * speed, loudness)
        start_s += 2.2 * speed + generator.uniform(0.4, 1.0)
    return line
