"""Dry sounds -> a folder of FOA scenes with its manifest: reproducible, resumable.

Folder: `recipe.json` (everything that determines the scenes), `scenes.jsonl` (see `salm.manifest`), `foa/*.flac`.
Scene i depends on the recipe and i alone, so a resumed run gives the same bytes as an uninterrupted one.

The rooms are simulated, or those of a bank of responses, such as measured ones. Scenes of a bank have no `room`: a bank
of measured responses does not know the walls of its rooms.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from salm.audio.io import read_mono
from salm.errors import AudioFormatError, ManifestError, SceneError
from salm.manifest import DrySound, Scene, SceneRoom, SceneSource, read_scenes, scene_to_json, write_scenes
from salm.scenes.rooms import RECEIVER_CHOICES, sample_positions, sample_room
from salm.scenes.spatialize import add_sensor_noise, fit_duration, normalise_level, spatialize
from salm.scenes.srir import Srir, simulate_srir
from salm.scenes.srir_bank import SrirBank
from salm.text.captions import spatial_caption

RECIPE_VERSION = 1
SUBTYPES = {16: "PCM_16", 24: "PCM_24"}
SLUG_CHARACTERS = 60
"""Of a label in a file name: a label may be a whole caption."""


def simulate_dataset(
    dry_sounds: Sequence[DrySound],
    out_dir: str | Path,
    *,
    seed: int,
    positions_per_sound: int = 3,
    num_scenes: int | None = None,
    duration_s: float = 10.0,
    rt60_range_s: tuple[float, float] = (0.1, 0.8),
    snr_db_range: tuple[float, float] = (15.0, 40.0),
    level_dbfs_range: tuple[float, float] = (-35.0, -20.0),
    receiver: str = "centre",
    sample_rate: int = 24000,
    bits: int = 16,
    split: str = "test",
    srirs: SrirBank | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scene]:
    """Place every dry sound in a room of its own at several positions and write the scenes.

    Scenes go through all sounds once per position, so that any number of them covers as many sounds as it can. With
    more scenes than sounds times positions, the sounds meet further rooms. One run at a time writes a folder. An
    interrupted run (Ctrl-C as well) is continued by the same call.

    Args:
        num_scenes: in all; by default one for each sound and position.
        snr_db_range, level_dbfs_range: uniform; sensor noise against W's power, and RMS of W with its noise.
        receiver: "centre" of the room or "anywhere" in it.
        bits: of the FLAC files, 16 or 24.
        srirs: take rooms and positions at random from these responses instead of simulating them; `rt60_range_s` and
            `receiver` then have no effect. Positions repeat only in a room that has too few.
        progress: called with the number of finished scenes and of all.

    Returns:
        All scenes of the folder, in order.

    Raises:
        SceneError: a value is out of range, or the folder holds scenes of another recipe.
        AudioFormatError: a dry sound cannot be read, or is silent or not finite.
    """
    if not dry_sounds:
        raise SceneError("no dry sounds to place; expected at least one row of a dry-sound manifest")
    ranges = (rt60_range_s, snr_db_range, level_dbfs_range)
    if any(len(pair) != 2 or not -math.inf < pair[0] <= pair[1] < math.inf for pair in ranges):
        raise SceneError(f"expected ranges (low, high) for RT60, SNR and level, got {ranges}")
    total = len(dry_sounds) * positions_per_sound if num_scenes is None else num_scenes
    if min(positions_per_sound, total, sample_rate) < 1 or duration_s <= 0 or bits not in SUBTYPES or not split.strip():
        raise SceneError(
            "expected positive positions_per_sound, num_scenes, duration_s, sample_rate, bits 16 or 24, and a split; "
            f"got {positions_per_sound}, {total}, {duration_s}, {sample_rate}, {bits}, {split!r}"
        )
    if receiver not in RECEIVER_CHOICES:
        raise SceneError(f"receiver is one of {', '.join(RECEIVER_CHOICES)}; got {receiver!r}")
    if srirs is not None and srirs.sample_rate != sample_rate:
        raise SceneError(f"the room responses are of {srirs.sample_rate} Hz, expected {sample_rate} Hz; resample them")
    recipe = _Recipe(
        tuple(dry_sounds), seed, positions_per_sound, duration_s, rt60_range_s, snr_db_range, level_dbfs_range,
        receiver, sample_rate, bits, split, srirs,
    )  # fmt: skip
    return _write(recipe, total, Path(out_dir), progress)


@dataclass(frozen=True)
class _Recipe:
    """What determines every scene; the number of scenes does not, so a folder can grow."""

    sounds: tuple[DrySound, ...]
    seed: int
    positions_per_sound: int
    duration_s: float
    rt60_range_s: tuple[float, float]
    snr_db_range: tuple[float, float]
    level_dbfs_range: tuple[float, float]
    receiver: str
    sample_rate: int
    bits: int
    split: str
    srirs: SrirBank | None

    @property
    def sounds_root(self) -> Path:
        return Path(os.path.commonpath([sound.path.absolute().parent for sound in self.sounds]))

    def name(self, sound: DrySound) -> str:
        return sound.path.absolute().relative_to(self.sounds_root).as_posix()

    def document(self) -> dict[str, Any]:
        """The recipe as JSON values; of the dry sounds (names, captions, contents) and of a bank a digest."""
        digest = hashlib.sha256()
        for sound in self.sounds:
            _require_file(sound.path)
            row = [self.name(sound), sound.label, sound.captions, hashlib.sha256(sound.path.read_bytes()).hexdigest()]
            digest.update(json.dumps(row).encode())
        values = {name: value for name, value in self.__dict__.items() if name not in ("sounds", "srirs")}
        if self.srirs is not None:
            values = {name: value for name, value in values.items() if name not in ("rt60_range_s", "receiver")}
            values["srirs_sha256"] = _bank_digest(self.srirs)
        values |= {"version": RECIPE_VERSION, "num_sounds": len(self.sounds), "sounds_sha256": digest.hexdigest()}
        return dict(json.loads(json.dumps(values)))

    def scene(self, index: int, folder: Path) -> tuple[Scene, NDArray[np.float32]]:
        """Scene `index` and its samples (4, samples)."""
        visit, slot = divmod(index, len(self.sounds))
        sound = self.sounds[slot]
        turn, position = divmod(visit, self.positions_per_sound)
        generator = _generator(self.seed, 1, index)
        srir = self._srir(slot, turn, position, generator)
        samples = round(self.duration_s * self.sample_rate)
        dry = _read_dry(sound.path, self.sample_rate)
        snr_db = round(generator.uniform(*self.snr_db_range), 2)
        foa = add_sensor_noise(spatialize(fit_duration(dry, samples), srir.response), snr_db, generator)
        foa = normalise_level(foa, generator.uniform(*self.level_dbfs_range))
        captions = tuple(spatial_caption(c, srir.azimuth_rad, srir.elevation_rad, generator) for c in sound.captions)
        heard = len(dry) * (samples // len(dry)) if len(dry) < samples else samples
        slug = re.sub(r"[^a-z0-9]+", "_", sound.label.lower()).strip("_")[:SLUG_CHARACTERS]
        azimuth_deg = round(math.degrees(srir.azimuth_rad), 4)
        source = SceneSource(
            label=sound.label,
            azimuth_deg=180.0 if azimuth_deg <= -180.0 else azimuth_deg,
            elevation_deg=round(math.degrees(srir.elevation_rad), 4),
            distance_m=round(srir.distance_m, 4),
            start_s=0.0,
            end_s=heard / self.sample_rate,
            path=self.name(sound),
        )
        room = None
        if self.srirs is None:
            absorption = tuple(tuple(round(value, 4) for value in wall) for wall in srir.room.absorption)
            room = SceneRoom(srir.room.dimensions_m, absorption, round(srir.rt60_s, 4))
        path = folder / "foa" / f"{index:06d}_{slug}.flac"
        scene = Scene(
            path,
            sound.captions,
            captions,
            (source,),
            room,
            self.seed,
            self.split,
            snr_db,
            self.duration_s,
            self.sample_rate,
        )
        return scene, foa

    def _srir(self, slot: int, turn: int, position: int, generator: np.random.Generator) -> Srir:
        """The response of a sound's position: all positions of one turn share the room and the receiver."""
        shared = _generator(self.seed, 0, slot, turn)
        if self.srirs is not None:
            members = np.flatnonzero(self.srirs.room_index == shared.integers(len(self.srirs.rooms)))
            repeat = len(members) < self.positions_per_sound
            return self.srirs[int(shared.choice(members, self.positions_per_sound, replace=repeat)[position])]
        room = sample_room(shared, self.rt60_range_s)
        place = sample_positions(room, shared, self.positions_per_sound, self.receiver)[position]
        return simulate_srir(room, place.source_m, place.receiver_m, self.sample_rate, generator=generator)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _bank_digest(srirs: SrirBank) -> str:
    digest = hashlib.sha256(json.dumps([srirs.sample_rate, srirs.samples.dtype.name]).encode())
    for array in (*srirs.samples, srirs.offsets, srirs.azimuth_rad, srirs.elevation_rad, srirs.distance_m,
                  srirs.room_index):  # fmt: skip
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(recipe: _Recipe, total: int, folder: Path, progress: Callable[[int, int], None] | None) -> list[Scene]:
    (folder / "foa").mkdir(parents=True, exist_ok=True)
    _claim(recipe, folder)
    for left_over in (folder / "foa").glob("*.partial"):
        left_over.unlink()
    manifest = folder / "scenes.jsonl"
    finished = _finished(manifest)
    write_scenes(manifest, [finished[index] for index in sorted(finished)])
    with manifest.open("a", encoding="utf-8") as rows:
        for index in range(total):
            if index not in finished:
                scene, foa = recipe.scene(index, folder)
                partial = scene.path.with_name(scene.path.name + ".partial")
                soundfile.write(partial, foa.T, recipe.sample_rate, format="FLAC", subtype=SUBTYPES[recipe.bits])
                partial.replace(scene.path)
                rows.write(scene_to_json(scene, folder) + "\n")
                rows.flush()
                finished[index] = scene
            if progress is not None:
                progress(index + 1, total)
    scenes = [finished[index] for index in sorted(finished)]
    write_scenes(manifest, scenes)
    return scenes


def _claim(recipe: _Recipe, folder: Path) -> None:
    """Write the recipe into a new folder; refuse one that was made with another."""
    path, document = folder / "recipe.json", recipe.document()
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SceneError(f"{path}: cannot be read ({error}); choose another folder or remove this one") from error
        stored = stored if isinstance(stored, dict) else {}
        differing = sorted(key for key in document | stored if document.get(key) != stored.get(key))
        if differing:
            raise SceneError(
                f"{folder}: holds scenes of another recipe (other {', '.join(differing)}); choose another folder"
            )
        return
    if any((folder / "foa").iterdir()) or (folder / "scenes.jsonl").exists():
        raise SceneError(f"{folder}: holds scenes without a recipe.json; choose another folder")
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _finished(manifest: Path) -> dict[int, Scene]:
    """Scenes with a whole row and an audio file, by index; a row cut off by an interruption is not whole."""
    if not manifest.exists():
        return {}
    text = manifest.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        cut = text.rpartition("\n")
        partial = manifest.with_name(manifest.name + ".partial")
        partial.write_text(cut[0] + cut[1], encoding="utf-8")
        partial.replace(manifest)
    finished: dict[int, Scene] = {}
    for line, scene in enumerate(read_scenes(manifest), start=1):
        number = scene.path.name.partition("_")[0]
        if not number.isdecimal():
            raise ManifestError(
                f"{manifest}:{line}: {scene.path.name} was not written by simulate_dataset; remove the row"
            )
        if scene.path.is_file():
            finished[int(number)] = scene
    return finished


@lru_cache(maxsize=4)
def _read_dry(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """A dry sound as mono float32 (samples,) at `sample_rate`; several channels are averaged."""
    mono = read_mono(path, sample_rate)
    if not mono.any():
        raise AudioFormatError(f"{path}: expected a sound, got digital silence; remove its row from the manifest")
    mono.setflags(write=False)
    return mono


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise AudioFormatError(f"{path}: no such dry sound; mend the path in the manifest or remove the row")
