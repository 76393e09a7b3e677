"""Scenes made on the fly: dry sounds, room responses and exact rotations -> training examples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from salm.audio.augment import (
    axis_turns,
    change_speed,
    mask_mels,
    quarter_turns,
    recolour,
    shift_level,
    turn_maps,
)
from salm.audio.features import FeatureExtractor
from salm.audio.io import SAMPLE_RATE_HZ
from salm.config import FeatureConfig
from salm.data.scene_mix import SceneMix
from salm.data.sounds import SoundBank, Teacher, root_mean_square
from salm.data.store import Scene, SceneStore
from salm.geometry import azimuth_elevation, foa_rotation, rotation_about, sector_index, unit_vector
from salm.models.audio_encoder import FRAMES_PER_TOKEN
from salm.models.htsat import IMAGE_FRAMES
from salm.scenes.spatialize import add_sensor_noise, convolve
from salm.scenes.srir_bank import SrirBank
from salm.text.captions import has_direction_word, spatial_caption

TURNS, AXIS_TURNS = quarter_turns(), axis_turns()
LEVEL_SHIFT_DB = 6.0
"""Kept scenes are met up to this much louder or softer."""
NUM_TIME_TOKENS = IMAGE_FRAMES // FRAMES_PER_TOKEN
"""Final tokens of a clip along time (`salm.models.htsat.time_tokens`)."""


class Example(NamedTuple):
    """One clip with `sounds` different sounds, one after the other, each from a direction of its own.

    Attributes:
        features: (7, frames, mels); (1, frames, mels) of `SceneMix.omni` and `SceneMix.dry`.
        spans: first and end time token of each sound, (sounds, 2); tokens over a joint belong to none.
        doa: unit vectors (x, y, z), (sounds, 3).
        labels: label numbers, (sounds,); sectors: indices of the horizontal sectors, (sounds,).
        captions, spatial_captions: one of each per sound.
        teacher, tags: the audio teacher's outputs for the dry sounds, (sounds, width) and (sounds, 527).
        heard: the teacher's own log-mel map of the dry clip, (128, frames), of `SceneMix.hints`.
    """

    features: Tensor
    spans: Tensor
    doa: Tensor
    labels: Tensor
    sectors: Tensor
    captions: tuple[str, ...]
    spatial_captions: tuple[str, ...]
    teacher: Tensor
    tags: Tensor
    heard: Tensor | None = None


class PlacedSound(NamedTuple):
    """The field (4, samples) of a sound or W alone (1, samples), its direction (3,), and what was played (samples,)."""

    field: NDArray[np.float32]
    direction: NDArray[np.float64]
    dry: NDArray[np.float32]


class SceneDataset(Dataset[Example]):
    """Endless random scenes: item i depends on (seed, repetition, i) alone, for any i from 0.

    `salm.data.batches.EpochSampler` chooses them.

    Args:
        bank: dry sounds. `rooms`: room responses. `teacher`: its outputs for the same sounds.
        repetition: another number is another order of the same kept scenes, and other new ones.
        mixes: item i is made by `mixes[(i // batch_size) % len(mixes)]`, so that a batch has one number of sounds.
    """

    def __init__(
        self,
        bank: SoundBank,
        rooms: SrirBank,
        teacher: Teacher,
        features: FeatureConfig,
        mixes: Sequence[SceneMix],
        *,
        batch_size: int,
        seed: int,
        repetition: int = 0,
    ) -> None:
        self.labels = bank.labels
        self.bank, self.rooms, self.teacher, self.mixes = bank, rooms, teacher, tuple(mixes)
        self.batch_size, self.seed, self.repetition = batch_size, seed, repetition
        self.extractor = FeatureExtractor(features)
        self.features = features
        self.stores: dict[SceneMix, SceneStore] = {}
        self.captions = [
            [text for text in (*sound.captions, sound.label) if not has_direction_word(text)] or [sound.label]
            for sound in bank.sounds
        ]
        pairs = [(sound.label, sound.source) for sound in bank.sounds]
        counts = Counter(pairs)
        size = np.array([counts[pair] for pair in pairs], dtype=float)
        self.weights = {mix: _cumulative(size ** (mix.balance - 1.0)) for mix in set(self.mixes)}

    def __getitem__(self, index: int) -> Example:
        generator = self.generator(index)
        mix = self.mixes[(index // self.batch_size) % len(self.mixes)]
        if mix in self.stores:
            scene = self._vary(self.stores[mix][int(generator.integers(mix.distinct))], mix, generator)
        else:
            scene = self.draw(mix, generator)
        return Example(
            features=mask_mels(scene.features, mix.mask_mels, generator),
            spans=torch.tensor(token_spans(self.joints(mix), self.features.hop_samples)),
            teacher=torch.from_numpy(scene.teacher),
            tags=torch.from_numpy(scene.tags),
            heard=None if scene.heard is None else torch.from_numpy(scene.heard),
            **self.describe(scene.rows, scene.directions, generator),
        )

    def generator(self, index: int) -> np.random.Generator:
        """What item `index` is drawn from."""
        return np.random.default_rng((self.seed, index, *([self.repetition] if self.repetition else [])))

    def describe(
        self, rows: NDArray[np.int64], directions: NDArray[np.float64], generator: np.random.Generator
    ) -> dict[str, Any]:
        """What is true of sounds (rows of the bank) from given directions (sounds, 3), by `Example`'s names."""
        azimuth, elevation = azimuth_elevation(directions)
        captions = tuple(self.captions[row][generator.integers(len(self.captions[row]))] for row in rows.tolist())
        return {
            "doa": torch.from_numpy(directions).float(),
            "labels": torch.from_numpy(self.bank.label_ids[rows]),
            "sectors": torch.from_numpy(sector_index(azimuth)),
            "captions": captions,
            "spatial_captions": tuple(
                spatial_caption(caption, float(a), float(e), generator)
                for caption, a, e in zip(captions, azimuth, elevation, strict=True)
            ),
        }

    def keep_scenes(self, cache: Path, *, num_workers: int, progress: Callable[[int, int], None] | None) -> None:
        """Make the scenes of every mix that keeps some (`SceneMix.distinct`), or find them in `cache`."""
        for mix in dict.fromkeys(self.mixes):
            if mix.distinct:
                names = hashlib.sha256("\n".join(str(sound.path) for sound in self.bank.sounds).encode()).hexdigest()
                heard = self.teacher.model is not None
                recipe = f"{mix.recipe()} {self.seed} {names} {self.rooms.offsets.sum()} {self.features} {heard}"
                self.stores[mix] = SceneStore.create_or_resume(
                    cache, recipe, _Scenes(self, mix), mix.distinct, num_workers=num_workers, progress=progress
                )

    def draw(self, mix: SceneMix, generator: np.random.Generator) -> Scene:
        """A new scene: the maps of one clip, its sounds and their directions."""
        rows = self.choose(mix, mix.num_sounds, generator)
        joints = self.joints(mix)
        foa = np.empty((1 if mix.w_alone else 4, joints[-1]), dtype=np.float32)
        directions = np.empty((mix.num_sounds, 3))
        teacher, tags = self.teacher.embeddings[rows], self.teacher.tags[rows]
        dry = []
        for number, row in enumerate(rows.tolist()):
            placed = self._place(row, joints[number + 1] - joints[number], mix, generator)
            foa[:, joints[number] : joints[number + 1]], directions[number] = placed.field, placed.direction
            dry.append(placed.dry)
        if self.teacher.model is not None:
            shortest = int(np.diff(joints).min())
            teacher, tags = self.teacher.listen(np.stack([sound[:shortest] for sound in dry]))
        heard = self.teacher.log_mel(dry[0]) if mix.hints and self.teacher.model is not None else None
        return Scene(self.extractor(torch.from_numpy(foa)[None])[0], rows, directions, teacher, tags, heard)

    def choose(self, mix: SceneMix, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Random rows of the bank, balanced as the mix wants it."""
        return np.searchsorted(self.weights[mix], generator.random(count))

    def joints(self, mix: SceneMix) -> NDArray[np.int64]:
        """First sample of each sound in a clip, and the clip's end."""
        return np.linspace(0, self.features.clip_samples, mix.num_sounds + 1).round().astype(np.int64)

    def _vary(self, scene: Scene, mix: SceneMix, generator: np.random.Generator) -> Scene:
        turns = AXIS_TURNS if generator.random() < mix.any_axis else TURNS
        turn = turns[int(generator.integers(len(turns)))]
        features = shift_level(turn_maps(scene.features, turn), generator.uniform(-LEVEL_SHIFT_DB, LEVEL_SHIFT_DB))
        return scene._replace(features=features, directions=scene.directions @ turn.T)

    def _place(self, row: int, length: int, mix: SceneMix, generator: np.random.Generator) -> PlacedSound:
        """One sound in a random room, turned at random, perhaps beside a fainter one."""
        place = int(generator.integers(len(self.rooms)))
        turn = random_tilt(mix.tilt_deg, generator) @ random_symmetry(generator)
        field, dry = self._hear(row, place, turn, length, mix, generator)
        if generator.random() < mix.distractor:
            others = np.setdiff1d(np.flatnonzero(self.rooms.room_index == self.rooms.room_index[place]), place)
            other = int(generator.choice(others)) if len(others) else place
            row = int(self.choose(mix, 1, generator)[0])
            gain = 10 ** (-generator.uniform(*mix.distractor_db) / 20)
            other_field, other_dry = self._hear(row, other, turn, length, mix, generator)
            field, dry = field + gain * other_field, dry + gain * other_dry
        field *= 10 ** (generator.uniform(*mix.level_dbfs) / 20)
        field = add_sensor_noise(field, generator.uniform(*mix.snr_db), generator)
        direction = turn @ unit_vector(self.rooms.azimuth_rad[place], self.rooms.elevation_rad[place])
        return PlacedSound(field, direction, dry)

    def _hear(
        self,
        row: int,
        place: int,
        turn: NDArray[np.float64],
        length: int,
        mix: SceneMix,
        generator: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The field (4 or 1, length) of one sound from one place, and the dry sound (length,).

        The root mean square of W is 1, and so is that of the dry sound.
        """
        dry = change_speed(self.bank[row], generator.uniform(*mix.speed), SAMPLE_RATE_HZ)
        dry = recolour(excerpt(dry, length, generator), mix.colour_db, SAMPLE_RATE_HZ, generator)
        if mix.dry:
            field = dry[None].astype(np.float32)
        else:
            response = self.rooms[place].response
            heard = response[:1] if mix.omni else (foa_rotation(turn) @ response).astype(np.float32)
            field = convolve(dry, heard)[:, :length]
        return field / root_mean_square(field[0]), dry / root_mean_square(dry)


class _Scenes(Dataset[Scene]):
    """The scenes of one mix that are kept: scene i depends on the dataset's seed and i alone."""

    def __init__(self, dataset: SceneDataset, mix: SceneMix) -> None:
        self.dataset, self.mix = dataset, mix

    def __len__(self) -> int:
        return self.mix.distinct

    def __getitem__(self, number: int) -> Scene:
        generator = np.random.default_rng(np.random.SeedSequence(self.dataset.seed, spawn_key=(number,)))
        return self.dataset.draw(self.mix, generator)


def excerpt(dry: NDArray[np.float32], length: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """`length` samples of a sound: a random piece of a longer one; a shorter one repeated, with random gaps.

    Of three random pieces the loudest is taken: a pause in a long recording teaches nothing.
    """
    if len(dry) >= length:
        starts = generator.integers(len(dry) - length + 1, size=3)
        start = max(starts.tolist(), key=lambda first: float(np.square(dry[first : first + length]).sum()))
        return dry[start : start + length]
    out = np.zeros(length, dtype=np.float32)
    position = int(generator.integers(max(1, (length - len(dry)) // 4)))
    gap = int(generator.integers(1, max(2, len(dry) // 2))) if generator.random() < 0.5 else 0
    while position < length:
        piece = dry[: length - position]
        out[position : position + len(piece)] = piece
        position += len(dry) + gap
    return out


def random_symmetry(generator: np.random.Generator) -> NDArray[np.float64]:
    """A random turn about the vertical axis, with or without mirroring left-right and up-down, (3, 3)."""
    mirror = np.diag([1.0, *generator.choice([-1.0, 1.0], size=2)])
    return rotation_about((0.0, 0.0, 1.0), generator.uniform(-np.pi, np.pi)) @ mirror


def random_tilt(deviation_deg: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """A turn about a random horizontal axis, by a normally distributed angle, (3, 3)."""
    if not deviation_deg:
        return np.eye(3)
    axis = generator.uniform(0, np.pi)
    return rotation_about((np.cos(axis), np.sin(axis), 0.0), np.deg2rad(generator.normal(0, deviation_deg)))


def token_spans(joints: NDArray[np.int64], hop_samples: int) -> list[tuple[int, int]]:
    """Time tokens (first, end) that lie wholly between two joints; the last one may be partly padding."""
    samples_per_token = FRAMES_PER_TOKEN * hop_samples
    spans = []
    for start, end in pairwise(joints):
        last = NUM_TIME_TOKENS if end == joints[-1] else int(end // samples_per_token)
        spans.append((int(-(-start // samples_per_token)), last))
    return spans


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(weights)
    return total / total[-1]
