"""The scenes of `salm demo`: everyday sounds made in code, or a folder of recordings, in rooms at known directions.

Folder: `recipe.json` (what determines the scenes), `scenes.jsonl` (see `salm.manifest`), `foa/*.flac`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import salm
from salm.audio.io import SAMPLE_RATE_HZ, read_mono, write_foa
from salm.errors import AudioFormatError, SceneError
from salm.geometry import SECTORS, unit_vector
from salm.manifest import Scene, SceneRoom, SceneSource, read_scenes, write_scenes
from salm.progress import Progress
from salm.scenes.everyday import EVERYDAY_CAPTIONS, EVERYDAY_KINDS, everyday_sound
from salm.scenes.rooms import WALL_CLEARANCE_M, Room, sample_room
from salm.scenes.spatialize import add_sensor_noise, fit_duration, normalise_level, spatialize
from salm.scenes.srir import Srir, simulate_srir
from salm.text.captions import spatial_caption

RECIPE_VERSION = 1
SEED = 7
TAKES = 2
SCENE_S = 10.0
RT60_RANGE_S = (0.15, 0.45)
MIN_DISTANCE_M = 1.0
MAX_AZIMUTH_JITTER_DEG, MAX_ELEVATION_DEG = 12.0, 12.0
NORTHWEST = 1
MAX_RECORDINGS = 100


@dataclass(frozen=True)
class DemoSound:
    """A dry sound of the demo, not yet read.

    Args:
        take: its number among the sounds of one label.
        identity: what it is, to the bit.
    """

    label: str
    caption: str
    take: int
    identity: str
    read: Callable[[], NDArray[np.float32]]


def everyday_sounds(takes: int = TAKES) -> list[DemoSound]:
    """All everyday kinds, `takes` times each; the dog first, so that the first scene is a dog in the northwest."""
    kinds = sorted(EVERYDAY_KINDS, key=lambda kind: ("dog" not in kind, kind))
    return [
        DemoSound(kind, EVERYDAY_CAPTIONS[kind][0], take, f"{kind}/{take}", partial(everyday_sound, kind, SEED + take))
        for kind in kinds
        for take in range(takes)
    ]


def recorded_sounds(files: Sequence[Path], root: Path) -> list[DemoSound]:
    """Recordings by label: the name of their folder, or, directly in `root`, the name of the file.

    With more than `MAX_RECORDINGS`, every n-th is taken.

    Raises:
        AudioFormatError: no recordings.
    """
    if not files:
        raise AudioFormatError(f"{root}: no sounds in it; expected wav, flac, ogg or mp3 files")
    step = math.ceil(len(files) / MAX_RECORDINGS)
    by_label: dict[str, list[Path]] = {}
    for file in files[::step]:
        by_label.setdefault(_words(file.stem if file.parent == root else file.parent.name), []).append(file)
    labels = sorted(by_label, key=lambda label: ("dog" not in label, label))
    return [
        DemoSound(label, label, take, _identity(file), partial(read_mono, file))
        for label in labels
        for take, file in enumerate(by_label[label])
    ]


def write_demo_scenes(folder: Path, sounds: Sequence[DemoSound], progress: Progress | None = None) -> list[Scene]:
    """Place each sound in a room of its own and write the scenes; a folder that has them already stays as it is.

    Take 0 of the first label is in the northwest, and so are some of the others; the takes of one label are in
    different directions.

    Raises:
        SceneError: the folder holds something else.
        AudioFormatError: a sound cannot be read, or is silent.
    """
    versions = {"version": RECIPE_VERSION, "salm": salm.__version__}
    recipe = {"made_by": "salm demo"} | versions | {"sounds": [sound.identity for sound in sounds]}
    finished = _finished(folder, recipe)
    if finished is not None:
        return finished
    _clear(folder)
    (folder / "foa").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(sound.label for sound in sounds))}
    scenes: list[Scene] = []
    for number, sound in enumerate(sounds):
        path = folder / "foa" / f"{number:03d}_{_slug(sound.label)}.flac"
        scenes.append(_write_scene(path, sound, number, sector_of_take(numbers[sound.label], sound.take)))
        if progress is not None:
            progress(number + 1, len(sounds))
    write_scenes(folder / "scenes.jsonl", scenes)
    return scenes


def sector_of_take(label_number: int, take: int) -> int:
    """Index into `SECTORS`: northwest for label 0, take 0; takes 0 and 1 of a label are opposite each other."""
    return (NORTHWEST + 3 * label_number + 4 * take + take // 2) % len(SECTORS)


def _write_scene(path: Path, sound: DemoSound, number: int, sector: int) -> Scene:
    generator = np.random.default_rng([SEED, number])
    azimuth_deg = SECTORS[sector].azimuth_deg + generator.uniform(-MAX_AZIMUTH_JITTER_DEG, MAX_AZIMUTH_JITTER_DEG)
    elevation_deg = generator.uniform(-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG)
    srir = _response(math.radians(azimuth_deg), math.radians(elevation_deg), generator)
    dry = sound.read()
    if not dry.any():
        raise AudioFormatError(f"{sound.identity}: silent; expected a sound")
    snr_db = round(generator.uniform(25.0, 40.0), 2)
    foa = spatialize(fit_duration(dry, round(SCENE_S * SAMPLE_RATE_HZ)), srir.response)
    write_foa(path, normalise_level(add_sensor_noise(foa, snr_db, generator), generator.uniform(-32.0, -24.0)))
    source = SceneSource(
        label=sound.label,
        azimuth_deg=max(round(math.degrees(srir.azimuth_rad), 2), -179.99),  # -180 would be out of its range
        elevation_deg=round(math.degrees(srir.elevation_rad), 2),
        distance_m=round(srir.distance_m, 2),
        start_s=0.0,
        end_s=SCENE_S,
        path=sound.identity,
    )
    absorption = tuple(tuple(round(value, 4) for value in wall) for wall in srir.room.absorption)
    return Scene(
        path=path,
        captions=(sound.caption,),
        spatial_captions=(spatial_caption(sound.caption, srir.azimuth_rad, srir.elevation_rad, generator),),
        sources=(source,),
        room=SceneRoom(srir.room.dimensions_m, absorption, round(srir.rt60_s, 3)),
        seed=SEED,
        split="demo",
        snr_db=snr_db,
        duration_s=SCENE_S,
        sample_rate=SAMPLE_RATE_HZ,
    )


def _response(azimuth_rad: float, elevation_rad: float, generator: np.random.Generator) -> Srir:
    """The response of a random room to a source in this direction, seen from the room's centre."""
    direction = unit_vector(azimuth_rad, elevation_rad)
    while True:
        room: Room = sample_room(generator, RT60_RANGE_S)
        centre = np.asarray(room.dimensions_m) / 2
        farthest = float(np.min((centre - WALL_CLEARANCE_M) / np.maximum(np.abs(direction), 1e-9)))
        if farthest > MIN_DISTANCE_M:
            break
    source = centre + direction * generator.uniform(MIN_DISTANCE_M, farthest)
    receiver_m, source_m = (tuple(float(value) for value in place) for place in (centre, source))
    return simulate_srir(room, source_m, receiver_m, SAMPLE_RATE_HZ, generator=generator)  # type: ignore[arg-type]


def _finished(folder: Path, recipe: dict[str, object]) -> list[Scene] | None:
    """The scenes of a folder, if it holds all of this recipe."""
    try:
        stored = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stored != recipe or not (folder / "scenes.jsonl").is_file():
        return None
    scenes = read_scenes(folder / "scenes.jsonl")
    return scenes if all(scene.path.is_file() for scene in scenes) else None


def _clear(folder: Path) -> None:
    """Remove the scenes of another demo; refuse a folder that holds anything else."""
    recipe = folder / "recipe.json"
    if folder.is_dir() and any(folder.iterdir()) and not (recipe.is_file() and "salm demo" in recipe.read_text()):
        raise SceneError(f"{folder}: not empty, and not made by salm demo; choose another folder with --out")
    (folder / "scenes.jsonl").unlink(missing_ok=True)
    for path in (folder / "foa").glob("*.flac"):
        path.unlink()


def _identity(file: Path) -> str:
    """Name and content of a recording."""
    with file.open("rb") as opened:
        return f"{file.name} sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"


def _words(name: str) -> str:
    """A file name as words: "Dog_bark-2" -> "dog bark"."""
    return " ".join(re.sub(r"[\W_]+|\d+", " ", name.lower()).split()) or name


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_") or "sound"
