"""The dry-sound manifest (CSV) and the scene manifest (JSONL): read and written here alone.

Dry sounds: ``path,label,caption,group,source,licence,duration_s``, one clip a row. `path` is relative to the folder of
the manifest; several captions are separated by `` | ``; all clips of one `group` (one original recording) belong to one
split.

Scenes: one JSON object a line with the fields of `Scene`. `path` is relative to the folder of the manifest; a source's
`path` only tells which dry sound it was, relative to the folder of the dry sounds. Angles are in degrees (azimuth
counter-clockwise from the front), times in seconds.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from salm.errors import ManifestError

DRY_COLUMNS = ("path", "label", "caption", "group", "source", "licence", "duration_s")
CAPTION_SEPARATOR = " | "
Row = TypeVar("Row")


@dataclass(frozen=True)
class DrySound:
    """One dry (anechoic or nearly so) mono recording."""

    path: Path
    label: str
    captions: tuple[str, ...]
    group: str
    source: str
    licence: str
    duration_s: float

    def __post_init__(self) -> None:
        _check(bool(str(self.path)) and self.path != Path(), "path is empty")
        _check(bool(self.label.strip()), "label is empty")
        _check(bool(self.captions) and all(caption.strip() for caption in self.captions), "caption is empty")
        _check(not any(CAPTION_SEPARATOR in caption for caption in self.captions), "a caption contains ' | '")
        _check(bool(self.group.strip()), "group is empty; give clips of one recording the same group, others their own")
        _check_number("duration_s", self.duration_s, 0.0, math.inf, open_low=True)


@dataclass(frozen=True)
class SceneSource:
    """One sound in a scene: what it is, where it is, and when."""

    label: str
    azimuth_deg: float
    elevation_deg: float
    distance_m: float
    start_s: float
    end_s: float
    path: str

    def __post_init__(self) -> None:
        _check(bool(self.label.strip()), "a source's label is empty")
        _check_number("azimuth_deg", self.azimuth_deg, -180.0, 180.0, open_low=True)
        _check_number("elevation_deg", self.elevation_deg, -90.0, 90.0)
        _check_number("distance_m", self.distance_m, 0.0, math.inf, open_low=True)
        _check_number("start_s", self.start_s, 0.0, math.inf)
        _check_number("end_s", self.end_s, self.start_s, math.inf, open_low=True)


@dataclass(frozen=True)
class SceneRoom:
    """The room of a scene: size, absorption of its six walls per octave band, and reverberation time."""

    dimensions_m: tuple[float, float, float]
    absorption: tuple[tuple[float, ...], ...]
    rt60_s: float

    def __post_init__(self) -> None:
        _check(len(self.dimensions_m) == 3, f"room has {len(self.dimensions_m)} dimensions_m, expected 3")
        for size in self.dimensions_m:
            _check_number("room's dimensions_m", size, 0.0, math.inf, open_low=True)
        for value in (value for wall in self.absorption for value in wall):
            _check_number("room's absorption", value, 0.0, 1.0)
        _check_number("room's rt60_s", self.rt60_s, 0.0, math.inf)


@dataclass(frozen=True)
class Scene:
    """One FOA clip (W, Y, Z, X; AmbiX) and everything known about it.

    Args:
        captions: what is heard, without directions.
        spatial_captions: the same with the direction.
        room: None for a recording whose room is not known; so are `seed` and `snr_db`.
    """

    path: Path
    captions: tuple[str, ...]
    spatial_captions: tuple[str, ...]
    sources: tuple[SceneSource, ...]
    room: SceneRoom | None
    seed: int | None
    split: str
    snr_db: float | None
    duration_s: float
    sample_rate: int

    def __post_init__(self) -> None:
        _check(bool(str(self.path)) and self.path != Path(), "path is empty")
        _check(bool(self.captions) and all(caption.strip() for caption in self.captions), "captions are empty")
        _check(all(caption.strip() for caption in self.spatial_captions), "a spatial caption is empty")
        _check(bool(self.sources), "sources are empty; expected at least one")
        _check(bool(self.split.strip()), "split is empty")
        _check_number("duration_s", self.duration_s, 0.0, math.inf, open_low=True)
        _check_number("sample_rate", self.sample_rate, 1, math.inf)
        if self.snr_db is not None:
            _check_number("snr_db", self.snr_db, -math.inf, math.inf)


def read_dry_sounds(path: str | Path, *, check_files: bool = False) -> list[DrySound]:
    """The rows of a dry-sound manifest; paths are made absolute or relative to the current folder as `path` is.

    Args:
        check_files: also look that every file exists.

    Raises:
        ManifestError: with file and line: no such manifest, other columns, an invalid value, a path given twice.
    """
    path = Path(path)
    text = _read_text(path, "a CSV with the columns " + ",".join(DRY_COLUMNS))
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(rows, [])
    missing, unknown = set(DRY_COLUMNS) - set(header), set(header) - set(DRY_COLUMNS)
    if missing or unknown or len(header) != len(DRY_COLUMNS):
        problem = "; ".join(
            f"{kind} {', '.join(sorted(names))}"
            for kind, names in (("missing", missing), ("unknown", unknown))
            if names
        )
        raise ManifestError(f"{path}:1: expected the columns {','.join(DRY_COLUMNS)}: {problem or 'one stands twice'}")
    sounds: list[DrySound] = []
    seen: dict[Path, int] = {}
    try:
        for row in rows:
            sound = _located(path, rows.line_num, lambda: _dry_sound(path.parent, header, row))  # noqa: B023
            if sound.path in seen:
                raise ManifestError(
                    f"{path}:{rows.line_num}: {sound.path} is also in line {seen[sound.path]}; keep one"
                )
            if check_files and not sound.path.is_file():
                raise ManifestError(f"{path}:{rows.line_num}: no file {sound.path}; mend the path or remove the row")
            seen[sound.path] = rows.line_num
            sounds.append(sound)
    except csv.Error as error:
        raise ManifestError(f"{path}:{rows.line_num}: not valid CSV ({error}); check the quotes") from error
    if not sounds:
        raise ManifestError(f"{path}: no sounds under the header; add one row per clip")
    return sounds


def write_dry_sounds(path: str | Path, sounds: Iterable[DrySound]) -> None:
    """Write a dry-sound manifest whose paths are relative to its folder."""
    path = Path(path)
    lines = [
        (_relative(sound.path, path.parent), sound.label, CAPTION_SEPARATOR.join(sound.captions), sound.group,
         sound.source, sound.licence, f"{sound.duration_s:g}")
        for sound in sounds
    ]  # fmt: skip
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([DRY_COLUMNS, *lines])
    temporary.replace(path)


def read_scenes(path: str | Path, *, check_files: bool = False) -> list[Scene]:
    """The rows of a scene manifest; a scene's `path` is joined with the manifest's folder.

    Raises:
        ManifestError: with file and line: no such manifest, not JSON, unknown or missing keys, an invalid value.
    """
    path = Path(path)
    scenes: list[Scene] = []
    for number, line in enumerate(_read_text(path, "a JSONL file with one scene a line").split("\n"), start=1):
        if not line.strip():
            continue
        scene = _located(path, number, lambda: scene_from_json(line, path.parent))  # noqa: B023
        if check_files and not scene.path.is_file():
            raise ManifestError(f"{path}:{number}: no file {scene.path}; simulate it again or remove the row")
        scenes.append(scene)
    return scenes


def write_scenes(path: str | Path, scenes: Iterable[Scene]) -> None:
    """Write a scene manifest at once; a half-written file never takes the name."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    text = "".join(scene_to_json(scene, path.parent) + "\n" for scene in scenes)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def scene_to_json(scene: Scene, folder: Path) -> str:
    """A scene as one line of JSON, its path relative to `folder`."""
    return json.dumps(asdict(scene) | {"path": _relative(scene.path, folder)}, ensure_ascii=False)


def scene_from_json(line: str, folder: Path) -> Scene:
    """The scene of one line of JSON, its path joined with `folder`.

    Raises:
        ManifestError: not JSON, unknown or missing keys, or an invalid value.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"not valid JSON ({error.msg} at column {error.colno}); write one object a line") from error
    row = _keys(row, Scene, "the scene")
    _check(isinstance(row["path"], str) and row["path"] != "", f"path is a file name, got {row['path']!r}")
    _check(isinstance(row["sources"], list), "sources is a list of objects")
    room = row["room"]
    if room is not None:
        room = _keys(room, SceneRoom, "room")
        _check(all(isinstance(room[key], list) for key in ("dimensions_m", "absorption")), "room's values are lists")
        _check(
            all(isinstance(wall, list) for wall in room["absorption"]), "room's absorption is a list of walls' lists"
        )
        room = SceneRoom(tuple(room["dimensions_m"]), tuple(tuple(wall) for wall in room["absorption"]), room["rt60_s"])
    _check(isinstance(row["split"], str), f"split is a word, got {row['split']!r}")
    return Scene(
        **row
        | {
            "path": folder / row["path"],
            "captions": _texts(row["captions"], "captions"),
            "spatial_captions": _texts(row["spatial_captions"], "spatial_captions"),
            "sources": tuple(_source(source) for source in row["sources"]),
            "room": room,
        }
    )


def split_by_group(sounds: Sequence[DrySound], fraction: float, seed: int = 0) -> tuple[list[DrySound], list[DrySound]]:
    """Training and validation sounds, in their order; `fraction` of the groups (rounded, at least one) validate.

    Groups stay whole. The choice depends on the set of groups and the seed, not on the order of the rows.

    Raises:
        ManifestError: `fraction` is not in (0, 1), or there are fewer than two groups.
    """
    groups = sorted({sound.group for sound in sounds})
    if not 0 < fraction < 1 or len(groups) < 2:
        raise ManifestError(f"expected a fraction in (0, 1) and two groups or more, got {fraction} of {len(groups)}")
    count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    chosen = {groups[index] for index in np.random.default_rng(seed).permutation(len(groups))[:count]}
    return [s for s in sounds if s.group not in chosen], [s for s in sounds if s.group in chosen]


def _dry_sound(folder: Path, header: list[str], row: list[str]) -> DrySound:
    _check(len(row) == len(header), f"{len(row)} values for {len(header)} columns; quote values that contain a comma")
    values = dict(zip(header, (value.strip() for value in row), strict=True))
    try:
        duration_s = float(values["duration_s"])
    except ValueError as error:
        raise ManifestError(f"duration_s is {values['duration_s']!r}; expected seconds as a number") from error
    _check(values["path"] != "", "path is empty")
    captions = tuple(caption.strip() for caption in values["caption"].split(CAPTION_SEPARATOR))
    return DrySound(
        folder / values["path"],
        values["label"],
        captions,
        values["group"],
        values["source"],
        values["licence"],
        duration_s,
    )


def _source(row: Any) -> SceneSource:
    row = _keys(row, SceneSource, "a source")
    _check(all(isinstance(row[key], str) for key in ("label", "path")), "a source's label and path are texts")
    return SceneSource(**row)


def _keys(row: Any, kind: type, name: str) -> dict[str, Any]:
    """The JSON object `row`, if it has exactly the fields of `kind`."""
    _check(isinstance(row, dict), f"{name} is {type(row).__name__}, expected an object")
    expected = {field.name for field in fields(kind)}
    missing, unknown = sorted(expected - set(row)), sorted(set(row) - expected)
    _check(not missing, f"{name} lacks {', '.join(missing)}")
    _check(not unknown, f"{name} has unknown keys {', '.join(unknown)}; expected {', '.join(sorted(expected))}")
    return dict(row)


def _texts(values: Any, name: str) -> tuple[str, ...]:
    _check(isinstance(values, list) and all(isinstance(value, str) for value in values), f"{name} is a list of texts")
    return tuple(values)


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise ManifestError(problem)


def _check_number(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = number and (low < value if open_low else low <= value) and value <= high
    _check(inside, f"{name} is {value!r}; expected a number in {'(' if open_low else '['}{low:g}, {high:g}]")


def _located(path: Path, line: int, read: Callable[[], Row]) -> Row:
    """`read()`, whose errors are told with file and line."""
    try:
        return read()
    except ManifestError as error:
        raise ManifestError(f"{path}:{line}: {error}") from error


def _read_text(path: Path, expected: str) -> str:
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; expected {expected}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text ({error}); expected {expected}") from error


def _relative(path: Path, folder: Path) -> str:
    """`path` relative to `folder`, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()
