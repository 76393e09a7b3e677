"""Dry sounds decoded once and kept in memory, with what an audio teacher said of each."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salm.audio.io import SAMPLE_RATE_HZ, read_mono
from salm.errors import ManifestError
from salm.manifest import DrySound

FULL_SCALE = 32767.0


@dataclass(frozen=True)
class Teacher:
    """An audio teacher's outputs, row by row those of the sounds.

    Attributes:
        embeddings: standardised to zero mean and unit variance per dimension, (sounds, width).
        tags: probabilities of the AudioSet classes, (sounds, 527).
    """

    embeddings: NDArray[np.float32]
    tags: NDArray[np.float32]

    @classmethod
    def silent(cls, num_sounds: int) -> "Teacher":
        """A teacher that says nothing, for training without one."""
        return cls(np.zeros((num_sounds, 0), np.float32), np.zeros((num_sounds, 0), np.float32))


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
        digest = hashlib.sha256("\n".join(str(sound.path) for sound in sounds).encode()).hexdigest()[:16]
        stored = cache / f"sounds-{digest}.npz"
        if not stored.is_file():
            pieces = []
            for number, sound in enumerate(sounds):
                samples = read_mono(sound.path, SAMPLE_RATE_HZ)
                peak = max(float(np.abs(samples).max()), 1e-6)
                pieces.append(np.round(samples * (FULL_SCALE * min(0.99 / peak, 1e3))).astype(np.int16))
                if progress is not None:
                    progress(number + 1, len(sounds))
            cache.mkdir(parents=True, exist_ok=True)
            temporary = stored.with_suffix(f".{os.getpid()}.npz")
            np.savez(temporary, samples=np.concatenate(pieces), ends=np.cumsum([len(piece) for piece in pieces]))
            os.replace(temporary, stored)
        with np.load(stored) as arrays:
            return cls(arrays["samples"], arrays["ends"], sounds)


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
    embeddings = (embeddings - embeddings.mean(axis=0)) / (embeddings.std(axis=0) + 1e-6)
    return Teacher(embeddings[wanted], 1.0 / (1.0 + np.exp(-logits[wanted])))
