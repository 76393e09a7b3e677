"""Everyday sounds made in code, for `salm demo`, for tests and as variety in training; no recording is needed.

Each kind is a physical or perceptual model (a voice through a throat, a struck body, showers of drops) that the seed
varies in pitch, rate, timbre and count. Labels are those of the training sounds.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from salm.audio.containers import MIN_SAMPLE_RATE_HZ
from salm.audio.io import SAMPLE_RATE_HZ
from salm.errors import SceneError
from salm.scenes.everyday import animals, bells, machines, nature, people
from salm.scenes.everyday.captions import EVERYDAY_CAPTIONS
from salm.scenes.everyday.synthesis import RATE_HZ, Signal, echo, level, num_samples, shaped_noise

__all__ = ["EVERYDAY_CAPTIONS", "EVERYDAY_KINDS", "everyday_sound"]

FADE_S = 0.005
ECHO_S = 0.35
HUSH = [(60.0, 6.0), (300.0, 0.0), (3_000.0, -12.0), (10_000.0, -24.0)]
MIN_DURATION_S, MAX_DURATION_S = 2.0, 60.0


@dataclass(frozen=True)
class _Recipe:
    """How a kind is made: its synthesis and usual duration in s, and how the place where it is heard adds to it.

    `echo_db` is the energy of a short diffuse tail, None where the synthesis has its own; `hush_db` is the background.
    """

    make: Callable[[float, np.random.Generator], Signal]
    duration_s: tuple[float, float]
    echo_db: float | None = None
    hush_db: float = -60.0


_RECIPES: dict[str, _Recipe] = {
    "dog barking": _Recipe(animals.dog_barking, (2.5, 4.0)),
    "cat meowing": _Recipe(animals.cat_meowing, (2.5, 4.0), hush_db=-35.0),
    "siren": _Recipe(machines.siren, (4.0, 6.0), -10.0),
    "church bells": _Recipe(bells.church_bells, (4.0, 6.0), hush_db=-50.0),
    "doorbell": _Recipe(bells.doorbell, (2.5, 4.0), -10.0),
    "telephone ringing": _Recipe(bells.telephone_ringing, (3.0, 5.0), -10.0),
    "rain falling": _Recipe(nature.rain_falling, (4.0, 6.0)),
    "thunderstorm": _Recipe(nature.thunderstorm, (4.0, 6.0)),
    "sea waves": _Recipe(nature.sea_waves, (5.0, 6.0)),
    "wind blowing": _Recipe(nature.wind_blowing, (4.0, 6.0)),
    "footsteps": _Recipe(people.footsteps, (3.0, 5.0), hush_db=-30.0),
    "door knock": _Recipe(people.door_knock, (2.0, 3.5), hush_db=-60.0),
    "clock ticking": _Recipe(machines.clock_ticking, (4.0, 6.0), hush_db=-40.0),
    "engine idling": _Recipe(machines.engine_idling, (4.0, 6.0)),
    "car horn": _Recipe(machines.car_horn, (2.0, 4.0), -14.0),
    "helicopter": _Recipe(machines.helicopter, (4.0, 6.0), -14.0),
    "fire crackling": _Recipe(nature.fire_crackling, (4.0, 6.0)),
    "frogs croaking": _Recipe(animals.frogs_croaking, (3.0, 5.0)),
    "crickets chirping": _Recipe(animals.crickets_chirping, (3.0, 5.0), -20.0, -50.0),
    "birds chirping": _Recipe(animals.birds_chirping, (3.0, 5.0), -10.0),
    "rooster crowing": _Recipe(animals.rooster_crowing, (2.5, 4.5), hush_db=-35.0),
    "baby crying": _Recipe(people.baby_crying, (3.5, 5.5), -10.0),
    "applause": _Recipe(people.applause, (4.0, 6.0), hush_db=-45.0),
    "keyboard typing": _Recipe(people.keyboard_typing, (3.0, 5.0), hush_db=-42.0),
    "glass breaking": _Recipe(bells.glass_breaking, (2.0, 3.0)),
}
EVERYDAY_KINDS: tuple[str, ...] = tuple(_RECIPES)
"""What `everyday_sound` can make."""


def everyday_sound(
    kind: str, seed: int, sample_rate: int = SAMPLE_RATE_HZ, *, duration_s: float | None = None
) -> NDArray[np.float32]:
    """Make a dry mono sound, (samples,), with a peak between -3 and -1 dBFS; the same arguments give the same samples.

    Args:
        kind: one of `EVERYDAY_KINDS`.
        seed: not negative; varies pitch, rate, timbre, count, and the length where none is given.
        sample_rate: of the result, in Hz.
        duration_s: from 2 to 60 s; without it, 2 to 6 s as suits the kind.

    Raises:
        SceneError: an unknown kind, a negative seed, or a duration or rate out of range.
    """
    if kind not in _RECIPES:
        raise SceneError(f"unknown everyday sound {kind!r}; expected one of {', '.join(EVERYDAY_KINDS)}")
    if seed < 0:
        raise SceneError(f"expected a seed of 0 or more, got {seed}")
    if duration_s is not None and not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise SceneError(f"expected a duration of {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s, got {duration_s}")
    if sample_rate < MIN_SAMPLE_RATE_HZ:
        raise SceneError(f"expected a sample rate of at least {MIN_SAMPLE_RATE_HZ} Hz, got {sample_rate}")
    recipe = _RECIPES[kind]
    generator = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    usual_s, peak_db = generator.uniform(*recipe.duration_s), generator.uniform(-3.0, -1.0)
    sound = level(recipe.make(usual_s if duration_s is None else duration_s, generator))
    if recipe.echo_db is not None:
        sound = level(echo(sound, ECHO_S, recipe.echo_db, generator))
    sound += 10 ** (recipe.hush_db / 20) * shaped_noise(len(sound), HUSH, generator)
    sound -= sound.mean()
    fade = np.minimum(np.arange(len(sound)) / num_samples(FADE_S), 1.0)
    sound *= fade * fade[::-1]
    if sample_rate != RATE_HZ:
        sound = soxr.resample(sound, RATE_HZ, sample_rate)
    return (level(sound) * 10 ** (peak_db / 20)).astype(np.float32)
