"""The spatial convention of SALM. Every module takes axes, signs, channel order and words from here.

Sound field: first-order Ambisonics (FOA), channels in ACN order **W, Y, Z, X** with SN3D gains (AmbiX; Nachbar et
al. 2011). A plane wave s from azimuth a and elevation e is ``[s, s sin(a) cos(e), s sin(e), s cos(a) cos(e)]``.

Axes: x front, y left, z up. Azimuth is counter-clockwise from the front, in (-pi, pi], +pi/2 = left. Elevation is up
from the horizon, in [-pi/2, pi/2]. Unit vectors are (x, y, z).

Words: north = front, west = left, south = behind, east = right. Each of the eight words names the 45 degree sector
centred on it; `SECTORS[i]` is centred on azimuth ``45 i`` degrees (so northwest is ``SECTORS[1]``, +45 degrees).

Units: radians and unit vectors in code; degrees only where a name ends in ``_deg``.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salm.errors import DirectionError

CHANNELS = ("W", "Y", "Z", "X")
"""Names of the FOA channels in storage order."""

Convention = str
CONVENTIONS: tuple[Convention, ...] = ("ambix", "fuma")
"""Channel conventions that a file may be declared to have; `"fuma"` is converted on reading."""


@dataclass(frozen=True)
class Sector:
    """One of the eight 45 degree sectors of the horizon."""

    index: int
    compass: str
    body: str

    @property
    def azimuth_deg(self) -> float:
        """Centre of the sector in degrees, in (-180, 180]."""
        return 45.0 * self.index if self.index <= 4 else 45.0 * self.index - 360.0

    @property
    def azimuth_rad(self) -> float:
        """Centre of the sector in radians, in (-pi, pi]."""
        return math.radians(self.azimuth_deg)


SECTORS: tuple[Sector, ...] = (
    Sector(0, "north", "front"),
    Sector(1, "northwest", "front-left"),
    Sector(2, "west", "left"),
    Sector(3, "southwest", "back-left"),
    Sector(4, "south", "back"),
    Sector(5, "southeast", "back-right"),
    Sector(6, "east", "right"),
    Sector(7, "northeast", "front-right"),
)
SECTOR_WIDTH_RAD = math.pi / 4


def unit_vector(azimuth_rad: ArrayLike, elevation_rad: ArrayLike) -> NDArray[np.float64]:
    """Direction (x, y, z) of the given angles; shape (..., 3)."""
    azimuth, elevation = np.broadcast_arrays(np.asarray(azimuth_rad, float), np.asarray(elevation_rad, float))
    horizontal = np.cos(elevation)
    return np.stack([np.cos(azimuth) * horizontal, np.sin(azimuth) * horizontal, np.sin(elevation)], axis=-1)


def azimuth_elevation(vector: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth in (-pi, pi] and elevation of vectors (..., 3) of any positive length, in radians.

    Raises:
        DirectionError: a vector is zero or not finite, so it points nowhere.
    """
    vectors = np.asarray(vector, float)
    norm = np.linalg.norm(vectors, axis=-1)
    if not np.all(np.isfinite(norm)) or np.any(norm == 0):
        raise DirectionError("expected finite direction vectors of positive length, got a zero or non-finite one")
    azimuth = np.arctan2(vectors[..., 1], vectors[..., 0])
    azimuth = np.where(azimuth <= -math.pi, math.pi, azimuth)
    return azimuth, np.arcsin(np.clip(vectors[..., 2] / norm, -1.0, 1.0))


def wrap_angle(angle_rad: ArrayLike) -> NDArray[np.float64]:
    """The same angle in (-pi, pi]."""
    wrapped = math.pi - np.mod(math.pi - np.asarray(angle_rad, float), 2 * math.pi)
    # np.mod rounds up to 2 pi itself for an angle a rounding error beyond pi.
    return np.where(wrapped <= -math.pi, math.pi, wrapped)


def foa_gains(azimuth_rad: ArrayLike, elevation_rad: ArrayLike) -> NDArray[np.float64]:
    """Gains (..., 4) of a plane wave in W, Y, Z, X (ACN order, SN3D)."""
    x, y, z = np.moveaxis(unit_vector(azimuth_rad, elevation_rad), -1, 0)
    return np.stack([np.ones_like(x), y, z, x], axis=-1)


def encode_plane_wave(signal: ArrayLike, azimuth_rad: float, elevation_rad: float) -> NDArray[np.float64]:
    """Encode a mono signal (samples,) as a plane wave in FOA, (4, samples): W equals `signal`."""
    return foa_gains(azimuth_rad, elevation_rad)[:, None] * np.asarray(signal, float)[None, :]


def angle_between(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Angle in [0, pi] radians between vectors (..., 3); exact near 0 and pi (atan2 of cross and dot product)."""
    a, b = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, axis=-1))


def rotation_about(axis: ArrayLike, angle_rad: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3), right-handed about `axis` (x, y, z); about z it adds `angle_rad` to the azimuth.

    Source: Rodrigues' formula.
    """
    vector = np.asarray(axis, float)
    norm = np.linalg.norm(vector)
    if vector.shape != (3,) or not np.isfinite(norm) or norm == 0:
        raise DirectionError(f"expected a rotation axis (x, y, z) of positive length, got {axis!r}")
    x, y, z = vector / norm
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * (cross @ cross)


def foa_rotation(rotation: ArrayLike) -> NDArray[np.float64]:
    """The (4, 4) matrix that turns an FOA field (W, Y, Z, X) as `rotation` (3, 3) turns its directions.

    ``foa_rotation(R) @ foa`` of a wave from d is the wave from ``R @ d``, for any orthogonal R (reflections too).
    """
    order = [1, 2, 0]  # y, z, x
    matrix = np.eye(4)
    matrix[1:, 1:] = np.asarray(rotation, float)[np.ix_(order, order)]
    return matrix


def fuma_to_ambix(foa: NDArray) -> NDArray:
    """First-order FuMa (W at -3 dB, X, Y, Z), shape (..., 4, samples), to W, Y, Z, X with SN3D gains."""
    return np.stack([foa[..., 0, :] * math.sqrt(2.0), foa[..., 2, :], foa[..., 3, :], foa[..., 1, :]], axis=-2)


def sector_of(azimuth_rad: float) -> Sector:
    """The sector that contains an azimuth; a border belongs to the sector counter-clockwise of it."""
    return SECTORS[int(sector_index(azimuth_rad))]


def sector_index(azimuth_rad: ArrayLike) -> NDArray[np.int64]:
    """Index into `SECTORS` of each azimuth in radians (any range)."""
    turns = np.asarray(azimuth_rad, float) / SECTOR_WIDTH_RAD
    return np.floor(turns + 0.5).astype(np.int64) % len(SECTORS)


def border_distance(azimuth_rad: ArrayLike) -> NDArray[np.float64]:
    """Distance in radians, in [0, pi/8], from each azimuth to the nearest border between two sectors."""
    turns = np.asarray(azimuth_rad, float) / SECTOR_WIDTH_RAD
    return (0.5 - np.abs(turns - np.round(turns))) * SECTOR_WIDTH_RAD


_FRONT, _BACK = r"(?:front|ahead|forward)", r"(?:back|behind|rear)"
_ENDING = r"(?:ern|erly|wards?)?"
# What may stand between "front" and "left" where both are one direction: "in front of me and slightly to the left".
_FILLER = r"me|you|us|my|your|our|the|a|bit|little|slightly|and|but|of|to|on|off|in|at|from|over|side|hand"
_JOIN = rf"(?:[\s,-]+(?:{_FILLER})\b)*[\s,-]+"
_WORDS: tuple[tuple[str, int], ...] = (
    # Compounds first: "north west" must not be read as "north", nor "front left" as "left".
    (r"north[\s-]*west(?:ern|erly)?", 1),
    (r"south[\s-]*west(?:ern|erly)?", 3),
    (r"south[\s-]*east(?:ern|erly)?", 5),
    (r"north[\s-]*east(?:ern|erly)?", 7),
    (rf"\b{_FRONT}{_JOIN}left\b|\bleft{_JOIN}{_FRONT}\b", 1),
    (rf"\b{_BACK}{_JOIN}left\b|\bleft{_JOIN}{_BACK}\b", 3),
    (rf"\b{_BACK}{_JOIN}right\b|\bright{_JOIN}{_BACK}\b", 5),
    (rf"\b{_FRONT}{_JOIN}right\b|\bright{_JOIN}{_FRONT}\b", 7),
    (rf"\bnorth{_ENDING}\b", 0),
    (rf"\bwest{_ENDING}\b", 2),
    (rf"\bsouth{_ENDING}\b", 4),
    (rf"\beast{_ENDING}\b", 6),
    (r"\bleft(?:[\s-]+hand)?\b", 2),
    (r"\bright(?:[\s-]+hand)?\b", 6),
    (rf"\b(?:in\s+front|straight\s+ahead|{_FRONT})\b", 0),
    (rf"\b{_BACK}\b", 4),
)
_COMPILED = tuple((re.compile(pattern), index) for pattern, index in _WORDS)


# "right behind me", "right in front of you": here "right" is no direction ("on the right in front" keeps it).
_RIGHT_ADVERB = re.compile(
    r"(?<!\bthe )(?<!\bmy )(?<!\byour )(?<!\bto )\bright\s+"
    r"(?=(?:in\s+(?:front|back)|behind|ahead|above|below|over|under|beside|next|after|before|now|away)\b)"
)


_LETTERS = {"n": "north", "e": "east", "s": "south", "w": "west"}
_ABBREVIATION = re.compile(r"\b([NS])\.?([EW])\b\.?", re.IGNORECASE)
# Not the keys and strings of music: "in E minor", "on the E string".
_LETTER = re.compile(r"\b((?:from|to|towards?|in)\s+the\s+)([NESW])(?=[.!?]?\s*$|[,;:)]|\s+of\b)")
_CLOCK = re.compile(
    r"\b(?:(?:from|to|towards?|at|in|on)\s+)?(?:(?:the|my|your|our)\s+)?"
    r"(?<![\d.])(1[0-2]|[1-9])(:30)?\s*o['’]?\s?clock\b(?:\s+(?:position|direction))?",
    re.IGNORECASE,
)


def spell_out_directions(text: str) -> str:
    """The text with compass abbreviations and hours of a clock face in words: "from the NW", "at 3 o'clock".

    They become "from the northwest" and "from the east": twelve o'clock is ahead, three is to the right. A single
    letter is one only as a capital between "from the" or the like and the end of a clause.
    """

    def word_of_hour(match: re.Match[str]) -> str:
        hours = int(match[1]) + (0.5 if match[2] else 0.0)
        return f"from the {sector_of(-math.tau * hours / 12).compass}"

    text = _ABBREVIATION.sub(lambda match: _LETTERS[match[1].lower()] + _LETTERS[match[2].lower()], text)
    return _CLOCK.sub(word_of_hour, _LETTER.sub(lambda match: match[1] + _LETTERS[match[2].lower()], text))


def find_sector(text: str) -> Sector | None:
    """The sector that a sentence names with compass or body words, or None; the most specific word wins."""
    lowered = _RIGHT_ADVERB.sub("", spell_out_directions(text).lower())
    for pattern, index in _COMPILED:
        if pattern.search(lowered):
            return SECTORS[index]
    return None


def parse_sector(word: str) -> Sector:
    """The sector of a direction word or phrase ("northwest", "front-left", "behind").

    Raises:
        DirectionError: the text names no horizontal direction.
    """
    sector = find_sector(word)
    if sector is None:
        names = ", ".join(f"{s.compass} ({s.body})" for s in SECTORS)
        raise DirectionError(f"no direction in {word!r}; expected one of {names}")
    return sector


def find_elevation(text: str) -> str | None:
    """`"above"` or `"below"` where a sentence names one, else None."""
    lowered = text.lower()
    if re.search(r"\b(?:above|overhead|over\s+(?:me|you|us)|up\s+high)\b", lowered):
        return "above"
    if re.search(r"\b(?:below|beneath|underneath|under\s+(?:me|you|us)|down\s+low)\b", lowered):
        return "below"
    return None


def direction_prompt(sector: Sector) -> str:
    """The zero-shot prompt of a sector (SALM paper, section on direction editing)."""
    return f"The sound is coming from the {sector.compass}."
