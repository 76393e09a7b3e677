"""Shoebox rooms: sizes, frequency-dependent absorption, reverberation times, and places in them.

A room occupies [0, length] x [0, width] x [0, height] metres along x (front), y (left), z (up); a receiver always looks
along +x, so the azimuth and elevation of a source follow `salm.geometry`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from salm.errors import SceneError
from salm.geometry import unit_vector, wrap_angle

OCTAVE_BANDS_HZ = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
WALLS = ("x=0", "x=length", "y=0", "y=width", "floor", "ceiling")
SPEED_OF_SOUND_M_S = 343.0
AIR_ATTENUATION_DB_M = (0.00044, 0.00131, 0.00273, 0.00466, 0.00989, 0.0297, 0.105)
"""Attenuation of air per octave band at 20 degrees C and 50 % humidity. Source: ISO 9613-1:1993."""

RECEIVER_CHOICES = ("centre", "anywhere")
WALL_CLEARANCE_M = 0.3
MIN_SOURCE_DISTANCE_M = 0.7
_MAX_ELEVATION_RAD, _ELEVATION_SPREAD_RAD = math.radians(45.0), math.radians(18.0)
_MAX_MEAN_ABSORPTION, _ABSORPTION_RANGE = 0.9, (0.01, 0.98)
WALL_SPREAD = 0.35
"""How much walls differ: standard deviation of the logarithm of what each absorbs. Carpet and concrete: about 1."""

_INDEX = np.arange(64) + 0.5
DECAY_DIRECTIONS: NDArray[np.float64] = unit_vector(
    _INDEX * math.pi * (math.sqrt(5.0) - 1.0) % (math.pi / 2), np.arcsin(_INDEX / _INDEX.size)
)
"""Directions (64, 3) spread evenly over one octant: by symmetry enough for averages over all directions."""
_SABINE_S_M = 24 * math.log(10.0) / SPEED_OF_SOUND_M_S  # 0.161 s/m


@dataclass(frozen=True)
class Room:
    """A shoebox room.

    Args:
        dimensions_m: length (x), width (y), height (z).
        absorption: energy absorption in (0, 1] of each wall (order of `WALLS`) in each of `OCTAVE_BANDS_HZ`.

    Raises:
        SceneError: a dimension is not positive, or an absorption is not in (0, 1].
    """

    dimensions_m: tuple[float, float, float]
    absorption: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.dimensions_m) != 3 or not all(0 < size < math.inf for size in self.dimensions_m):
            raise SceneError(f"expected room dimensions (length, width, height) in metres > 0, got {self.dimensions_m}")
        table = np.asarray(self.absorption, float)
        if table.shape != (len(WALLS), len(OCTAVE_BANDS_HZ)) or not np.all((table > 0) & (table <= 1)):
            raise SceneError(
                f"expected absorption in (0, 1] for {len(WALLS)} walls and {len(OCTAVE_BANDS_HZ)} octave bands, "
                f"got an array {table.shape} in [{table.min():.3g}, {table.max():.3g}]"
            )

    @classmethod
    def uniform(cls, dimensions_m: tuple[float, float, float], absorption: float) -> "Room":
        """A room whose walls all absorb the same share of the energy in every band."""
        return cls(dimensions_m, ((absorption,) * len(OCTAVE_BANDS_HZ),) * len(WALLS))

    @property
    def volume_m3(self) -> float:
        return math.prod(self.dimensions_m)

    @property
    def wall_areas_m2(self) -> NDArray[np.float64]:
        """Areas in the order of `WALLS`, (6,)."""
        length, width, height = self.dimensions_m
        return np.repeat([width * height, length * height, length * width], 2)

    @cached_property
    def decay_rates(self) -> NDArray[np.float64]:
        """Loss of energy per second (neper) of a late ray in each octave band and direction, (7, directions).

        Directions are `DECAY_DIRECTIONS`. A ray along u meets the two walls across axis i ``c |u_i| / size_i`` times a
        second. The energy of a shoebox's images at time t is the mean of ``exp(-rate t)`` over all directions: slower
        than Eyring's single exponential. Source: Lehmann & Johansson 2008, with air added.
        """
        loss = -np.log(np.maximum(1.0 - np.asarray(self.absorption), 1e-9))  # (6 walls, bands)
        per_axis = loss.reshape(3, 2, -1).mean(axis=1) / np.asarray(self.dimensions_m)[:, None]
        air = np.asarray(AIR_ATTENUATION_DB_M) * math.log(10.0) / 10.0
        return SPEED_OF_SOUND_M_S * (np.abs(DECAY_DIRECTIONS) @ per_axis + air).T

    @cached_property
    def band_rt60_s(self) -> NDArray[np.float64]:
        """Reverberation time of each octave band, (7,): T20 of the room's energy decay (ISO 3382-1)."""
        rates = self.decay_rates
        time_s = np.linspace(0.0, 1.0, 64)[:, None] * (3.0 * math.log(10.0) / rates.min(axis=1))
        remaining = np.mean(np.exp(-rates * time_s[..., None]) / rates, axis=-1)
        level_db = 10 * np.log10(remaining / remaining[0])
        points = [
            [np.interp(-x, -level, t) for x in (-5.0, -25.0)] for level, t in zip(level_db.T, time_s.T, strict=True)
        ]
        return 3.0 * np.diff(points, axis=1)[:, 0]

    @property
    def rt60_s(self) -> float:
        """Reverberation time at mid frequencies: mean of the 500 Hz and 1 kHz bands."""
        return float(self.band_rt60_s[2:4].mean())


@dataclass(frozen=True)
class Placement:
    """A source as the receiver sees it."""

    receiver_m: tuple[float, float, float]
    source_m: tuple[float, float, float]


def sample_room(
    generator: np.random.Generator, rt60_range_s: tuple[float, float] = (0.1, 0.8), wall_spread: float = WALL_SPREAD
) -> Room:
    """A random room between a small office (3 x 3 x 2.4 m) and a hall (15 x 12 x 6 m).

    The mid-frequency reverberation time is uniform in the range; sizes that would need a mean absorption above 0.9 for
    it are drawn again. Reverberation shortens with frequency; the six walls differ from each other (`WALL_SPREAD`).

    Raises:
        SceneError: the range is not 0.05 <= shortest <= longest <= 5 seconds, or the spread is negative.
    """
    if not 0.0 <= wall_spread < math.inf:
        raise SceneError(f"expected a spread between walls of at least 0, got {wall_spread}")
    shortest, longest = rt60_range_s
    if not 0.05 <= shortest <= longest <= 5.0:
        raise SceneError(f"expected an RT60 range with 0.05 <= shortest <= longest <= 5 s, got {rt60_range_s}")
    rt60_s = generator.uniform(shortest, longest)
    for _ in range(1000):
        dimensions = _sample_dimensions(generator)
        absorption = _sample_absorption(dimensions, rt60_s, generator, wall_spread)
        if absorption is not None:
            return Room(dimensions, absorption)
    raise SceneError(f"no room of 3 to 15 m reaches RT60 {rt60_s:.2f} s; widen `rt60_range_s`, got {rt60_range_s}")


def sample_positions(
    room: Room, generator: np.random.Generator, count: int = 3, receiver: str = "centre"
) -> list[Placement]:
    """A receiver and `count` sources around it.

    Azimuths are uniform in (-pi, pi]; elevations normal with 18 degrees of spread, cut at 45 degrees; distances uniform
    from 0.7 m to what the room allows, 0.3 m away from the walls.

    Args:
        receiver: "centre" of the room, or "anywhere" at least 1 m from the walls (as near as its size allows).

    Raises:
        SceneError: unknown `receiver`, or the room is too small for a source 0.7 m away in every direction.
    """
    if receiver not in RECEIVER_CHOICES:
        raise SceneError(f"receiver is one of {', '.join(RECEIVER_CHOICES)}; got {receiver!r}")
    size = np.asarray(room.dimensions_m)
    clearance = MIN_SOURCE_DISTANCE_M + WALL_CLEARANCE_M
    if np.any(size[:2] < 2 * clearance) or size[2] <= 2 * WALL_CLEARANCE_M:
        raise SceneError(
            f"room {room.dimensions_m} m is too small: a source needs {2 * clearance} m of length and width"
        )
    place = size / 2
    if receiver == "anywhere":
        margin = np.minimum(clearance, size / 2)
        place = generator.uniform(margin, size - margin)
    return [_sample_source(place, size, generator) for _ in range(count)]


def _sample_source(place: NDArray, size: NDArray, generator: np.random.Generator) -> Placement:
    azimuth = float(wrap_angle(generator.uniform(-math.pi, math.pi)))
    while True:
        elevation = generator.normal(0.0, _ELEVATION_SPREAD_RAD)
        direction = unit_vector(azimuth, elevation)
        room_ahead = np.where(direction > 0, size - WALL_CLEARANCE_M - place, place - WALL_CLEARANCE_M)
        farthest = float(np.min(room_ahead / np.maximum(np.abs(direction), 1e-9)))
        if abs(elevation) <= _MAX_ELEVATION_RAD and farthest >= MIN_SOURCE_DISTANCE_M:
            break
    source = place + direction * generator.uniform(MIN_SOURCE_DISTANCE_M, farthest)
    return Placement(_triple(place), _triple(source))


def _triple(vector: NDArray) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _sample_dimensions(generator: np.random.Generator) -> tuple[float, float, float]:
    length = 3.0 * 5.0 ** generator.uniform()  # 3 to 15 m, log-uniform
    width = float(np.clip(length * generator.uniform(0.55, 1.0), 3.0, 12.0))
    height = float(np.clip(generator.uniform(2.4, 2.4 + 0.3 * width), 2.4, 6.0))
    return (length, width, height) if generator.random() < 0.5 else (width, length, height)


def _sample_absorption(
    dimensions_m: tuple[float, float, float], rt60_s: float, generator: np.random.Generator, wall_spread: float
) -> tuple[tuple[float, ...], ...] | None:
    """Absorption (6, 7) that gives `rt60_s` at mid frequencies within 1 %; None where the walls cannot."""
    octaves = np.log2(np.asarray(OCTAVE_BANDS_HZ) / 1000.0)
    tilt, jitter = generator.uniform(-0.18, -0.04), generator.uniform(-0.08, 0.08, octaves.size)
    shape = np.exp(tilt * octaves + jitter)
    bands_s = rt60_s * shape / shape[2:4].mean()
    walls = np.exp(generator.normal(0.0, wall_spread, (len(WALLS), 1)))
    areas = Room.uniform(dimensions_m, 0.5).wall_areas_m2
    loss = _SABINE_S_M * math.prod(dimensions_m) / areas.sum() / bands_s * walls / walls.mean()
    for _ in range(8):
        absorption = np.clip(1.0 - np.exp(-loss), *_ABSORPTION_RANGE)
        reached = Room(dimensions_m, _nested(absorption)).band_rt60_s
        if np.all(np.abs(reached / bands_s - 1.0) < 0.01):
            return _nested(absorption) if absorption.mean(axis=0).max() <= _MAX_MEAN_ABSORPTION else None
        loss = loss * reached / bands_s
    return None


def _nested(table: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in table)
