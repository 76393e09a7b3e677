"""Machines: engines and rotors, horns and sirens, clocks."""

import numpy as np

from salm.scenes.everyday.synthesis import (
    RATE_HZ,
    Signal,
    band,
    body,
    click,
    curve,
    harmonics,
    level,
    num_samples,
    place,
    resonate,
    seconds,
    shaped_noise,
    wander,
    white,
)

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
    """A combustion engine: cylinders of unequal strength through the exhaust, over the rattle of the valves."""
    samples = num_samples(duration_s)
    firing_hz, cylinders = generator.uniform(22, 34), int(generator.choice([4, 4, 6]))
    phase = np.cumsum(firing_hz * (1 + 0.02 * wander(samples, 4.0, generator))) / RATE_HZ
    strength = generator.uniform(0.8, 1.15, cylinders)[np.floor(phase).astype(int) % cylinders]
    stroke = phase % 1
    burst = (0.5 + 0.5 * np.cos(2 * np.pi * (stroke - 0.15))) ** 2 * strength
    hum = harmonics(firing_hz * (1 + 0.02 * wander(samples, 4.0, generator)), samples, 0.9)
    exhaust_hz = generator.uniform(60, 110)
    exhaust = [(exhaust_hz, 40, 1.0), (2.1 * exhaust_hz, 60, 0.6), (4.3 * exhaust_hz, 120, 0.3)]
    rumble = level(resonate(hum * (0.6 + 0.4 * burst), exhaust))
    roar = shaped_noise(samples, [(40, 6), (120, 4), (400, -4), (1_500, -10), (8_000, -32)], generator)
    rattle = band(white(samples, generator), 1_200, 4_500) * (0.3 + burst)
    return 0.8 * rumble + 0.13 * roar * (0.5 + burst) + 0.05 * rattle


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
    """Tick and tock: the escapement strikes twice a period, each time a little differently, in a wooden case."""
    beats_hz = float(generator.choice([1.0, 2.0, 2.0, 4.0])) * generator.uniform(0.97, 1.03)
    case_hz, seeds = generator.uniform(350, 600), generator.integers(2**31, size=2)
    line = np.zeros(num_samples(duration_s))
    start_s, tock = generator.uniform(0.05, 0.5 / beats_hz), 0
    while start_s < duration_s:
        pitch = (1.0, 0.85)[tock]
        # One clock: every tick strikes the same modes.
        ring = body(0.06, (1_200 * pitch, 7_500), 30, 0.05, np.random.default_rng(seeds[tock]))
        case = body(0.08, (case_hz * pitch, 2_500), 20, 0.06, np.random.default_rng(seeds[tock] + 1))
        for delay_s, gain in ((0.0, 0.3), (0.012, 1.0), (0.022, 0.4)):
            place(line, level(ring), start_s + delay_s, gain * generator.uniform(0.9, 1.0))
            place(line, level(case), start_s + delay_s, 0.6 * gain)
            place(line, level(click(0.006, 2_000, 9_000, generator)), start_s + delay_s, 0.3 * gain)
        start_s += (1.0, 1.04)[tock] / beats_hz
        tock = 1 - tock
    return line
