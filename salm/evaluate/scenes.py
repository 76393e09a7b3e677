"""A scene manifest as a gallery: every scene embedded once, and kept for the next evaluation of the same model."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from salm.errors import ManifestError
from salm.geometry import sector_index, unit_vector
from salm.manifest import Scene, read_scenes
from salm.models.salm import AudioParts
from salm.progress import Progress

MANIFEST_NAME = "scenes.jsonl"
CACHE_NAME = ".salm-eval"
EMBEDDINGS = ("semantic", "spatial", "joint")
_BATCH = 32


class Model(Protocol):
    """What an evaluation needs of a model; `salm.load` gives one."""

    @property
    def model_id(self) -> str:
        """Name and fingerprint."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """L2-normalised embeddings (texts, width)."""

    def encode_audio_parts(self, audio: Sequence[Path]) -> Any:
        """Unnormalised `semantic`, `spatial`, `joint` (files, width) and `doa` (files, 3)."""

    def edit_direction(self, parts: AudioParts, direction: str, *, normalize_embeddings: bool = True) -> Any:
        """Joint embeddings (files, width) of the same sounds from a direction."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Scenes and what a model makes of them, row by row; embeddings (scenes, width) are not normalised.

    Attributes:
        doa: (scenes, 3), unit vectors of the model's localisation.
        manifest_sha256: of the manifest's bytes.
    """

    scenes: tuple[Scene, ...]
    semantic: NDArray[np.float32]
    spatial: NDArray[np.float32]
    joint: NDArray[np.float32]
    doa: NDArray[np.float32]
    model_id: str
    manifest: Path
    manifest_sha256: str

    def embedding(self, name: str) -> NDArray[np.float32]:
        """The L2-normalised embeddings called "semantic", "spatial" or "joint"."""
        if name not in EMBEDDINGS:
            raise ValueError(f"unknown embedding {name!r}; expected one of {', '.join(EMBEDDINGS)}")
        return normalised(getattr(self, name))

    def parts(self) -> AudioParts:
        """The unnormalised parts of all scenes, as a model's `edit_direction` takes them."""
        return AudioParts(*(torch.from_numpy(getattr(self, name)) for name in (*EMBEDDINGS, "doa")))


def load_gallery(scenes: str | Path, model: Model, *, cache: bool = True, progress: Progress | None = None) -> Gallery:
    """Embed all scenes of a manifest, or read what an earlier call left in `.salm-eval` beside it.

    What is kept is found again by the model, the manifest and the sizes and times of the audio files, so a changed one
    of these is never answered from it.

    Args:
        scenes: a scene manifest, or a folder with a `scenes.jsonl`.
        cache: read and write `.salm-eval`.
        progress: called with the number of embedded scenes and of all.

    Raises:
        ManifestError: the manifest is missing, empty or invalid, or a file of it is missing.
        AudioFormatError: a scene cannot be read.
    """
    manifest = find_manifest(scenes)
    rows = tuple(read_scenes(manifest, check_files=True))
    if not rows:
        raise ManifestError(f"{manifest}: no scenes; write some with: salm simulate")
    arrays = kept_arrays(
        manifest, rows, model.model_id, lambda: _embed(rows, model, progress), enabled=cache,
        names=(*EMBEDDINGS, "doa"),
    )  # fmt: skip
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return Gallery(rows, **arrays, model_id=model.model_id, manifest=manifest, manifest_sha256=digest)


def find_manifest(scenes: str | Path) -> Path:
    """The manifest itself, or the `scenes.jsonl` of a folder."""
    path = Path(scenes)
    return path / MANIFEST_NAME if path.is_dir() else path


def kept_arrays(
    manifest: Path,
    scenes: Sequence[Scene],
    maker: str,
    make: Callable[[], dict[str, NDArray]],
    *,
    names: Sequence[str],
    enabled: bool = True,
) -> dict[str, NDArray]:
    """Arrays with one row per scene, from `.salm-eval` if they are there, else made and left there.

    Args:
        maker: what makes them; part of the name under which they are kept.
        names: of the arrays that `make` returns.
    """
    if not enabled:
        return make()
    digest = hashlib.sha256(f"{maker}\n".encode() + manifest.read_bytes())
    for scene in scenes:
        status = scene.path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    path = manifest.parent / CACHE_NAME / f"{maker.partition(':')[0].replace('/', '_')}-{digest.hexdigest()[:16]}.npz"
    kept = _read_kept(path, names, len(scenes))
    if kept is not None:
        return kept
    arrays = make()
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError as error:
        warnings.warn(f"{path}: cannot be written ({error.strerror}); the next evaluation embeds again", stacklevel=2)
    return arrays


def normalised(vectors: NDArray) -> NDArray[np.float32]:
    """Rows (..., width) divided by their length."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def text_embeddings(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """L2-normalised embeddings (texts, width); a text that occurs twice is encoded once."""
    distinct = list(dict.fromkeys(texts))
    row = {text: number for number, text in enumerate(distinct)}
    vectors = normalised(np.asarray(model.encode_text(distinct)))
    return vectors[[row[text] for text in texts]]


def single_source_rows(scenes: Sequence[Scene], manifest: Path) -> NDArray[np.int64]:
    """Rows of the scenes with one source: only those have one label and one direction.

    Raises:
        ManifestError: there is none.
    """
    rows = np.array([row for row, scene in enumerate(scenes) if len(scene.sources) == 1], np.int64)
    if not len(rows):
        raise ManifestError(f"{manifest}: every scene has several sources; this evaluation needs scenes with one")
    return rows


def azimuths_rad(scenes: Sequence[Scene]) -> NDArray[np.float64]:
    """Azimuth of each scene's first source."""
    return np.radians([scene.sources[0].azimuth_deg for scene in scenes])


def directions(scenes: Sequence[Scene]) -> NDArray[np.float64]:
    """Unit vectors (scenes, 3) to each scene's first source."""
    return unit_vector(azimuths_rad(scenes), np.radians([scene.sources[0].elevation_deg for scene in scenes]))


def sectors_by_label(scene: Scene) -> set[tuple[str, int]]:
    """(label, index of the sector) of each source of a scene."""
    return {(source.label, int(sector_index(np.radians(source.azimuth_deg)))) for source in scene.sources}


def read_labels(path: str | Path, scenes: Sequence[Scene]) -> list[str]:
    """The labels of a text file, one a line; empty lines are passed over.

    Raises:
        ManifestError: with file and line: no such file, no labels, a label twice, or one that no scene has.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); expected a text file with one label a line") from error
    known = {source.label for scene in scenes for source in scene.sources}
    labels: list[str] = []
    for number, line in enumerate(lines, start=1):
        label = line.strip()
        if label in labels:
            raise ManifestError(f"{path}:{number}: {label!r} stands there twice; keep one")
        if label and label not in known:
            raise ManifestError(f"{path}:{number}: no scene of {label!r}; remove the line or add scenes of it")
        if label:
            labels.append(label)
    if not labels:
        raise ManifestError(f"{path}: no labels; expected one a line")
    return labels


def frequent_labels(scenes: Sequence[Scene], min_scenes: int) -> list[str]:
    """Labels with at least `min_scenes` scenes, the most frequent first.

    Raises:
        ManifestError: no label has as many.
    """
    counts: dict[str, int] = {}
    for scene in scenes:
        for label in {source.label for source in scene.sources}:
            counts[label] = counts.get(label, 0) + 1
    labels = sorted((label for label, count in counts.items() if count >= min_scenes), key=lambda x: (-counts[x], x))
    if not labels:
        raise ManifestError(
            f"no label has {min_scenes} scenes or more; lower --min-scenes or name labels with --labels"
        )
    return labels


def _embed(scenes: Sequence[Scene], model: Model, progress: Progress | None) -> dict[str, NDArray]:
    pieces: dict[str, list[NDArray]] = {name: [] for name in (*EMBEDDINGS, "doa")}
    for start in range(0, len(scenes), _BATCH):
        batch = [scene.path for scene in scenes[start : start + _BATCH]]
        parts = model.encode_audio_parts(batch)
        for name, collected in pieces.items():
            collected.append(np.asarray(getattr(parts, name), np.float32).reshape(len(batch), -1))
        if progress is not None:
            progress(start + len(batch), len(scenes))
    return {name: np.concatenate(collected) for name, collected in pieces.items()}


def _read_kept(path: Path, names: Sequence[str], count: int) -> dict[str, NDArray] | None:
    """The arrays of a kept file, or None where there is none or it is damaged."""
    try:
        # np.load leaves a damaged file open if it opens it itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile):
        return None
    return arrays if all(len(array) == count for array in arrays.values()) else None
