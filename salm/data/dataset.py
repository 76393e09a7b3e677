"""Scenes made on the fly: dry sounds, room responses and exact rotations -> training examples."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from salm.audio.features import FeatureExtractor
from salm.config import FeatureConfig
from salm.data.sounds import SoundBank, Teacher
from salm.errors import ConfigError
from salm.geometry import azimuth_elevation, foa_rotation, rotation_about, sector_index, unit_vector
from salm.models.htsat import IMAGE_FRAMES
from salm.scenes.spatialize import add_sensor_noise, spatialize
from salm.scenes.srir_bank import SrirBank
from salm.text.captions import has_direction_word, spatial_caption

NUM_TIME_TOKENS = 32
"""Final tokens of a clip along time (`salm.models.htsat.time_tokens`)."""


class Example(NamedTuple):
    """One clip with `sounds` different sounds, one after the other, each from a direction of its own.

    Attributes:
        features: (7, frames, mels).
        spans: first and end time token of each sound, (sounds, 2); tokens over a joint belong to none.
        doa: unit vectors (x, y, z), (sounds, 3).
        labels: label numbers, (sounds,); sectors: indices of the horizontal sectors, (sounds,).
        captions, spatial_captions: one of each per sound.
        teacher, tags: the audio teacher's outputs for the dry sounds, (sounds, width) and (sounds, 527).
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


@dataclass(frozen=True)
class SceneMix:
    """How training scenes vary.

    Attributes:
        num_sounds: sounds joined in a clip; more than one teaches more per clip (each has its own pooled vector).
        snr_db: sensor noise, lowest and highest ratio of the scene to the noise.
        level_dbfs: root-mean-square level of W, lowest and highest.
        mask_mels: widest band of mels that is set to the band's mean; 0 for none.
        balance: 0 draws every pair of label and source equally often, 1 every sound, 0.5 in between.
    """

    num_sounds: int = 3
    snr_db: tuple[float, float] = (10.0, 40.0)
    level_dbfs: tuple[float, float] = (-45.0, -12.0)
    mask_mels: int = 8
    balance: float = 0.5

    def __post_init__(self) -> None:
        if self.num_sounds < 1:
            raise ConfigError(f"scenes.num_sounds: expected at least 1, got {self.num_sounds}")


class SceneDataset(Dataset[Example]):
    """Endless random scenes: item i depends on (seed, i) alone, for any i from 0; `EpochSampler` chooses them.

    Args:
        bank: dry sounds. `rooms`: room responses. `teacher`: its outputs for the same sounds.
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
    ) -> None:
        self.bank, self.rooms, self.teacher, self.mixes = bank, rooms, teacher, tuple(mixes)
        self.batch_size, self.seed = batch_size, seed
        self.extractor = FeatureExtractor(features)
        self.features = features
        self.captions = [
            [text for text in (*sound.captions, sound.label) if not has_direction_word(text)] or [sound.label]
            for sound in bank.sounds
        ]
        pairs = [(sound.label, sound.source) for sound in bank.sounds]
        counts = Counter(pairs)
        size = np.array([counts[pair] for pair in pairs], dtype=float)
        self.weights = {mix: _cumulative(size ** (mix.balance - 1.0)) for mix in set(self.mixes)}

    def __getitem__(self, index: int) -> Example:
        generator = np.random.default_rng((self.seed, index))
        mix = self.mixes[(index // self.batch_size) % len(self.mixes)]
        rows = np.searchsorted(self.weights[mix], generator.random(mix.num_sounds)).tolist()
        length = self.features.clip_samples
        joints = np.linspace(0, length, mix.num_sounds + 1).round().astype(int)
        foa = np.empty((4, length), dtype=np.float32)
        directions = np.empty((mix.num_sounds, 3))
        for number, row in enumerate(rows):
            part, directions[number] = self._place(row, joints[number + 1] - joints[number], mix, generator)
            foa[:, joints[number] : joints[number + 1]] = part
        azimuth, elevation = azimuth_elevation(directions)
        captions = tuple(self.captions[row][generator.integers(len(self.captions[row]))] for row in rows)
        return Example(
            features=mask_mels(self.extractor(torch.from_numpy(foa)[None])[0], mix.mask_mels, generator),
            spans=torch.tensor(token_spans(joints, self.features.hop_samples)),
            doa=torch.from_numpy(directions).float(),
            labels=torch.from_numpy(self.bank.label_ids[rows]),
            sectors=torch.from_numpy(sector_index(azimuth)),
            captions=captions,
            spatial_captions=tuple(
                spatial_caption(caption, float(a), float(e), generator)
                for caption, a, e in zip(captions, azimuth, elevation, strict=True)
            ),
            teacher=torch.from_numpy(self.teacher.embeddings[rows]),
            tags=torch.from_numpy(self.teacher.tags[rows]),
        )

    def _place(
        self, row: int, length: int, mix: SceneMix, generator: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """One sound in a random room, turned at random: its field (4, length) and direction."""
        dry = excerpt(self.bank[row], length, generator)
        srir = self.rooms[int(generator.integers(len(self.rooms)))]
        turn = random_symmetry(generator)
        field = spatialize(dry, (foa_rotation(turn) @ srir.response).astype(np.float32))[:, :length]
        level = 10 ** (generator.uniform(*mix.level_dbfs) / 20)
        field = field * (level / max(float(np.sqrt(np.mean(field[0] ** 2))), 1e-9))
        field = add_sensor_noise(field, generator.uniform(*mix.snr_db), generator)
        return field, turn @ unit_vector(srir.azimuth_rad, srir.elevation_rad)


class EpochSampler(Sampler[int]):
    """Item numbers of one epoch after another; Lightning calls `set_epoch`, also when it resumes."""

    def __init__(self, items_per_epoch: int) -> None:
        self.items_per_epoch, self.epoch = items_per_epoch, 0

    def set_epoch(self, epoch: int) -> None:
        """Continue with the items of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.items_per_epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.items_per_epoch
        return iter(range(first, first + self.items_per_epoch))


def collate(examples: Sequence[Example]) -> Example:
    """A batch as one `Example`: tensors stacked, captions in a flat tuple (sound by sound, clip by clip).

    `spans` stays that of the first clip: the clips of a batch have equal joints.
    """
    stacked = {
        name: torch.stack([getattr(example, name) for example in examples])
        for name in ("features", "doa", "labels", "sectors", "teacher", "tags")
    }
    return Example(
        **stacked,
        spans=examples[0].spans,
        captions=tuple(text for example in examples for text in example.captions),
        spatial_captions=tuple(text for example in examples for text in example.spatial_captions),
    )


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


def token_spans(joints: NDArray[np.int64], hop_samples: int) -> list[tuple[int, int]]:
    """Time tokens (first, end) that lie wholly between two joints; the last one may be partly padding."""
    samples_per_token = IMAGE_FRAMES // NUM_TIME_TOKENS * hop_samples
    spans = []
    for start, end in pairwise(joints):
        last = NUM_TIME_TOKENS if end == joints[-1] else int(end // samples_per_token)
        spans.append((int(-(-start // samples_per_token)), last))
    return spans


def mask_mels(
    features: Float[Tensor, "maps frames mels"], widest: int, generator: np.random.Generator
) -> Float[Tensor, "maps frames mels"]:
    """A random band of mels set to each map's mean over that band (SpecAugment, Park et al. 2019, frequency only)."""
    width = int(generator.integers(widest + 1)) if widest else 0
    if not width:
        return features
    first = int(generator.integers(features.shape[-1] - width + 1))
    masked = features.clone()
    masked[..., first : first + width] = features[..., first : first + width].mean(dim=(1, 2), keepdim=True)
    return masked


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(weights)
    return total / total[-1]
