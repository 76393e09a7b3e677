"""Dry sounds decoded once and kept in memory, with what an audio teacher said of each."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from salm.audio.io import SAMPLE_RATE_HZ, read_mono
from salm.data.audio_teacher import AudioTeacher
from salm.errors import ManifestError
from salm.manifest import DrySound
from salm.scenes.everyday import EVERYDAY_CAPTIONS, EVERYDAY_KINDS, everyday_sound

FULL_SCALE = 32767.0
HEARD_DBFS = -20.0
FIRST_TRAINING_SEED = 1_000
"""Synthesised training sounds start here; demos and tests use smaller seeds."""


@dataclass(frozen=True)
class Teacher:
    """An audio teacher's outputs, row by row those of the sounds.

    Attributes:
        embeddings: standardised to zero mean and unit variance per dimension, (sounds, width).
        tags: probabilities of the AudioSet classes, (sounds, 527).
        mean, deviation: of each dimension before it was standardised, over the file, (width,).
        model: the teacher itself, for what it says of sounds as they come into scenes: faster, filtered, mixed.
    """

    embeddings: NDArray[np.float32]
    tags: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    model: AudioTeacher | None = None

    @classmethod
    def silent(cls, num_sounds: int) -> "Teacher":
        """A teacher that says nothing, for training without one."""
        nothing = np.zeros((num_sounds, 0), np.float32)
        return cls(nothing, nothing, np.zeros(0, np.float32), np.zeros(0, np.float32))

    def extended(self, num_sounds: int) -> "Teacher":
        """With as many further rows of NaN: sounds that the teacher has not heard."""
        unheard = [np.full((num_sounds, known.shape[1]), np.nan, np.float32) for known in (self.embeddings, self.tags)]
        embeddings, tags = np.concatenate([self.embeddings, unheard[0]]), np.concatenate([self.tags, unheard[1]])
        return replace(self, embeddings=embeddings, tags=tags)

    def listen(self, dry: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the model says of dry sounds (sounds, samples): standardised embeddings (.., width) and tags (.., 527).

        Whatever its level, a sound is heard at `HEARD_DBFS`.
        """
        assert self.model is not None
        heard = np.stack([_at_heard_level(sound) for sound in dry])
        embeddings, logits = (out.cpu().numpy() for out in self.model(torch.from_numpy(heard)))
        return (embeddings - self.mean) / self.deviation, 1.0 / (1.0 + np.exp(-logits))

    def log_mel(self, dry: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map (128, frames) of a clip (samples,) that the model reads, at `HEARD_DBFS`."""
        assert self.model is not None
        return self.model.log_mel(_at_heard_level(dry)).cpu().numpy()

    def listen_on_device(self, dry: Float[Tensor, "sounds samples"]) -> tuple[Tensor, Tensor, Tensor]:
        """As `listen`, and the maps (sounds, 128, frames) as of `log_mel`, on the device where sounds and model are."""
        assert self.model is not None
        level = dry.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-9)
        log_mels = self.model.log_mels(dry / level * 10 ** (HEARD_DBFS / 20))
        embeddings, logits = self.model.hear(log_mels)
        mean, deviation = (torch.from_numpy(values).to(dry.device) for values in (self.mean, self.deviation))
        return (embeddings - mean) / deviation, logits.sigmoid(), log_mels


class SoundBank:
    """Mono sounds at 24 kHz, 16 bit, one after the other in a single array.

    Args:
        samples: all sounds, concatenated, int16.
        ends: end of each sound in `samples`.
        sounds: their manifest rows.
    """

    def __init__(self, samples: NDArray[np.int16], ends: NDArray[np.int64], sounds: Sequence[DrySound]) -> None:
        self.samples, self.ends, self.sounds = samples, ends, list(sounds)
        self.starts = np.concatenate([[0], ends[:-1]])
        self.labels = sorted({sound.label for sound in sounds})
        numbers = {label: number for number, label in enumerate(self.labels)}
        self.label_ids = np.array([numbers[sound.label] for sound in sounds])

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """Samples of one sound in [-1, 1]."""
        return self.samples[self.starts[row] : self.ends[row]].astype(np.float32) / FULL_SCALE

    @classmethod
    def everyday(
        cls, num_takes: int, *, cache: Path, progress: Callable[[int, int], None] | None = None
    ) -> "SoundBank":
        """`num_takes` synthesised sounds of every kind of `salm.scenes.everyday`, from seeds that no demo uses."""
        kinds = [(kind, FIRST_TRAINING_SEED + take) for kind in EVERYDAY_KINDS for take in range(num_takes)]

        def synthesise() -> Iterator[NDArray[np.float32]]:
            return (everyday_sound(kind, seed) for kind, seed in kinds)

        names = [f"{kind} {seed}" for kind, seed in kinds]
        samples, ends = _cached("everyday", names, synthesise, cache, progress)
        durations = np.diff(ends, prepend=0) / SAMPLE_RATE_HZ
        sounds = [
            DrySound(Path(name), kind, EVERYDAY_CAPTIONS[kind], name, "salm.scenes.everyday", "CC0", float(duration_s))
            for name, (kind, _), duration_s in zip(names, kinds, durations, strict=True)
        ]
        return cls(samples, ends, sounds)

    def __add__(self, other: "SoundBank") -> "SoundBank":
        """The sounds of both, these first."""
        samples = np.concatenate([self.samples, other.samples])
        ends = np.concatenate([self.ends, len(self.samples) + other.ends])
        return SoundBank(samples, ends, [*self.sounds, *other.sounds])

    @classmethod
    def read(
        cls, sounds: Sequence[DrySound], *, cache: Path, progress: Callable[[int, int], None] | None = None
    ) -> "SoundBank":
        """Decode the sounds of a manifest, or map the copy that an earlier run left in `cache`.

        Raises:
            ManifestError: there are no sounds.
            AudioFormatError: a file cannot be read; it names the file.
        """
        if not sounds:
            raise ManifestError("expected at least one dry sound, got an empty manifest")

        def decode() -> Iterator[NDArray[np.float32]]:
            for sound in sounds:
                samples = read_mono(sound.path, SAMPLE_RATE_HZ)
                yield samples * min(0.99 / max(float(np.abs(samples).max()), 1e-6), 1e3)

        return cls(*_cached("sounds", [str(sound.path) for sound in sounds], decode, cache, progress), sounds)


def root_mean_square(samples: NDArray[np.float32]) -> float:
    """Level of a sound, never quite zero, to divide by."""
    return max(float(np.sqrt(np.mean(np.square(samples)))), 1e-9)


def _at_heard_level(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    return sound * np.float32(10 ** (HEARD_DBFS / 20) / root_mean_square(sound))


def _cached(
    kind: str,
    names: Sequence[str],
    make: Callable[[], Iterator[NDArray[np.float32]]],
    cache: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """All sounds as 16 bit samples and their ends, made once and then read from `cache`."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    stored = cache / f"{kind}-{digest}.npz"
    if not stored.is_file():
        pieces = []
        for number, samples in enumerate(make(), start=1):
            pieces.append(np.round(samples * FULL_SCALE).astype(np.int16))
            if progress is not None:
                progress(number, len(names))
        cache.mkdir(parents=True, exist_ok=True)
        temporary = stored.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, samples=np.concatenate(pieces), ends=np.cumsum([len(piece) for piece in pieces]))
        os.replace(temporary, stored)
    with np.load(stored) as arrays:
        return arrays["samples"], arrays["ends"]


def read_teacher(path: str | Path, sounds: Sequence[DrySound]) -> Teacher:
    """Read a teacher's `.npz` (path, embedding, logits; in manifest order) for the given sounds.

    Raises:
        ManifestError: the file is missing, or knows nothing of one of the sounds.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: no such teacher file; expected arrays path, embedding and logits")
    with np.load(path) as arrays:
        rows = {str(name): row for row, name in enumerate(arrays["path"])}
        embeddings = arrays["embedding"].astype(np.float32)
        logits = arrays["logits"].astype(np.float32)
    wanted = []
    for sound in sounds:
        name = "/".join(Path(sound.path).parts[-2:])
        if name not in rows:
            raise ManifestError(
                f"{path}: nothing about {name}; the teacher must have heard every sound of the manifest"
            )
        wanted.append(rows[name])
    mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
    standardised = (embeddings[wanted] - mean) / deviation
    return Teacher(standardised, 1.0 / (1.0 + np.exp(-logits[wanted])), mean, deviation)
