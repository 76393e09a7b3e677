"""Rendered scenes packed into tar files: hundreds of hours that are read shard by shard, in order on the disk.

Folder: `shard-000000.tar`, ... of `<number>.flac` (or the scene's own format) and `<number>.json` (its manifest row)
per scene, the layout of WebDataset; `shards.json` says where each scene lies and which labels there are. `shards.json`
is written last: a folder without it is not complete, and packing again goes on where it stopped.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from salm.audio.augment import mask_mels, quarter_turns, turn_maps
from salm.audio.features import FeatureExtractor
from salm.audio.io import SAMPLE_RATE_HZ, fit_window
from salm.config import FeatureConfig
from salm.data.dataset import NUM_TIME_TOKENS, Example
from salm.errors import ManifestError
from salm.geometry import azimuth_elevation, sector_index, unit_vector
from salm.manifest import Scene, scene_from_json, scene_to_json
from salm.text.captions import spatial_caption

INDEX_NAME = "shards.json"
FORMAT_VERSION = 1
TURNS = quarter_turns()
SHARDS_MIXED = 4
"""Shards whose scenes are shuffled together: a compromise between mixing and reading in order."""
Item = TypeVar("Item")


def interleave(sets: Sequence[Sequence[Item]]) -> list[Item]:
    """The items of several sets, each set in its order and spread evenly over the whole.

    Packed so, every shard has its share of every data set.
    """
    places = [((position + 0.5) / len(items), number, item) for number, items in enumerate(sets)
              for position, item in enumerate(items)]  # fmt: skip
    return [item for _, _, item in sorted(places, key=lambda place: place[:2])]


def pack_scenes(
    scenes: Sequence[Scene],
    out: str | Path,
    *,
    scenes_per_shard: int = 1_000,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pack scenes of a manifest into tar shards; an interrupted packing is continued by the same call.

    Args:
        scenes: each with one source and at least one spatial caption.
        out: folder for the shards.
        scenes_per_shard: about 1 GB per 1,000 scenes of 10 s in 16-bit FLAC.

    Returns:
        The folder's `shards.json`.

    Raises:
        ManifestError: no scenes, a scene that cannot be trained on or comes twice, or a folder that holds other shards.
    """
    out = Path(out)
    if not scenes or scenes_per_shard < 1:
        raise ManifestError(f"expected at least one scene and one scene per shard, got {len(scenes)}")
    seen: set[Path] = set()
    for scene in scenes:
        if scene.path in seen:
            raise ManifestError(f"{scene.path}: this scene comes twice; name each manifest once")
        seen.add(scene.path)
        if len(scene.sources) != 1 or not scene.spatial_captions or scene.sample_rate != SAMPLE_RATE_HZ:
            raise ManifestError(
                f"{scene.path}: expected one source, a spatial caption and {SAMPLE_RATE_HZ} Hz, got "
                f"{len(scene.sources)}, {len(scene.spatial_captions)} and {scene.sample_rate} Hz; leave the scene out "
                "of the manifest"
            )
    out.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(_row(scene, number), sort_keys=True) for number, scene in enumerate(scenes)]
    starts = range(0, len(scenes), scenes_per_shard)
    places: list[list[list[int]]] = []
    for shard, start in enumerate(starts):
        path = out / shard_name(shard)
        stop = min(start + scenes_per_shard, len(scenes))
        if not path.is_file():
            _write_shard(path, scenes[start:stop], rows[start:stop], start)
        places.append(_read_places(path, rows[start:stop], start))
        if progress is not None:
            progress(stop, len(scenes))
    index = {
        "format_version": FORMAT_VERSION,
        "labels": sorted({scene.sources[0].label for scene in scenes}),
        "scenes": [{"shard": shard, "places": place} for shard, shards in enumerate(places) for place in shards],
    }
    partial = out / f"{INDEX_NAME}.partial"
    partial.write_text(json.dumps(index), encoding="utf-8")
    partial.replace(out / INDEX_NAME)
    return out / INDEX_NAME


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"


class ShardedScenes(Dataset[Example]):
    """Scenes of packed shards, endless: item i is a scene of pass i // len over all of them.

    Each pass has an order of its own, from the seed: shards in random order, the scenes of a few neighbours shuffled
    together. Every scene comes under a random one of the 16 exact symmetries, with a new spatial caption.

    Args:
        folder: of `pack_scenes`.
        mask_mels: widest band of mels that is masked.
        turn: False leaves the field as it was rendered, with one of the spatial captions that the scene came with: a
            caption of a language model (`salm captions`) is true of that direction alone.
        augment: False gives every scene as it is, with its own first caption, in the order of the shards.

    Raises:
        ManifestError: not such a folder.
    """

    def __init__(
        self,
        folder: str | Path,
        features: FeatureConfig,
        *,
        seed: int = 0,
        mask_mels: int = 8,
        turn: bool = True,
        augment: bool = True,
    ) -> None:
        self.folder, self.seed, self.mask_mels, self.augment = Path(folder), seed, mask_mels, augment
        self.turn = turn and augment
        index = _read_index(self.folder / INDEX_NAME)
        self.labels: list[str] = index["labels"]
        self._label_numbers = {label: number for number, label in enumerate(self.labels)}
        self.places = [(item["shard"], *item["places"]) for item in index["scenes"]]
        self.features, self.extractor = features, FeatureExtractor(features)
        shards = np.array([place[0] for place in self.places])
        self._by_shard = [np.flatnonzero(shards == shard) for shard in range(shards.max() + 1)]
        self._order = lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Example:
        turn, position = divmod(index, len(self))
        number = int(self._order(turn)[position]) if self.augment else position
        generator = np.random.default_rng((self.seed, index))
        scene, samples = self.read(number)
        features = self.extractor(torch.from_numpy(fit_window(samples, self.features.clip_samples))[None])[0]
        source = scene.sources[0]
        direction = unit_vector(np.deg2rad(source.azimuth_deg), np.deg2rad(source.elevation_deg))
        choice = int(generator.integers(len(scene.captions))) if self.augment else 0
        caption, spatial = scene.captions[choice], scene.spatial_captions[choice % len(scene.spatial_captions)]
        if self.turn:
            symmetry = TURNS[int(generator.integers(len(TURNS)))]
            features, direction = turn_maps(features, symmetry), symmetry @ direction
            azimuth, elevation = azimuth_elevation(direction)
            spatial = spatial_caption(caption, float(azimuth), float(elevation), generator)
        if self.augment:
            features = mask_mels(features, self.mask_mels, generator)
        sector = int(sector_index(azimuth_elevation(direction)[0]))
        return Example(
            features=features,
            spans=torch.tensor([[0, NUM_TIME_TOKENS]]),
            doa=torch.from_numpy(direction).float()[None],
            labels=torch.tensor([self._label_numbers[source.label]]),
            sectors=torch.tensor([sector]),
            captions=(caption,),
            spatial_captions=(spatial,),
            teacher=torch.zeros(1, 0),
            tags=torch.zeros(1, 0),
        )

    def read(self, number: int) -> tuple[Scene, NDArray[np.float32]]:
        """A scene's manifest row and its samples (4, samples) at 24 kHz.

        Raises:
            ManifestError: the shard is missing or does not hold what `shards.json` says.
        """
        shard, audio_start, audio_size, row_start, row_size = self.places[number]
        path = self.folder / shard_name(shard)
        try:
            with path.open("rb") as file:
                file.seek(row_start)
                row = file.read(row_size)
                file.seek(audio_start)
                audio = file.read(audio_size)
            scene = scene_from_json(row.decode(), self.folder)
            samples, _ = soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)
        except (OSError, ValueError, ManifestError, soundfile.LibsndfileError) as error:
            raise ManifestError(
                f"{path}: scene {number} is not where {INDEX_NAME} says ({error}); pack again"
            ) from error
        return scene, samples.T

    def _make_order(self, turn: int) -> NDArray[np.int64]:
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(turn,)))
        shards = generator.permutation(len(self._by_shard))
        groups = [shards[first : first + SHARDS_MIXED] for first in range(0, len(shards), SHARDS_MIXED)]
        return np.concatenate([generator.permutation(np.concatenate([self._by_shard[s] for s in g])) for g in groups])


def _row(scene: Scene, number: int) -> dict[str, Any]:
    """A scene's manifest row with its file's name in the shard."""
    inside = replace(scene, path=Path(f"{number:09d}{scene.path.suffix}"))
    return json.loads(scene_to_json(inside, Path()))


def _write_shard(path: Path, scenes: Sequence[Scene], rows: Sequence[str], start: int) -> None:
    partial = path.with_name(path.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (scene, row) in enumerate(zip(scenes, rows, strict=True), start=start):
            for suffix, content in ((scene.path.suffix, scene.path.read_bytes()), (".json", row.encode())):
                member = tarfile.TarInfo(f"{number:09d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    partial.replace(path)


def _read_places(path: Path, rows: Sequence[str], start: int) -> list[list[int]]:
    """Offset and size of each scene's audio and row; the rows must be these."""
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        places = []
        for number, row in enumerate(rows, start=start):
            name = json.loads(row)["path"]
            text = members.get(f"{number:09d}.json")
            stored = tar.extractfile(text) if text is not None else None
            if text is None or stored is None or name not in members or stored.read().decode() != row:
                raise ManifestError(f"{path}: holds other scenes than the manifest; choose another folder")
            audio = members[name]
            places.append([audio.offset_data, audio.size, text.offset_data, text.size])
    return places


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ManifestError(f"{path}: no packed scenes here; make them with: salm pack SCENES --out {path.parent}")
    index = json.loads(path.read_text(encoding="utf-8"))
    if index.get("format_version") != FORMAT_VERSION:
        raise ManifestError(
            f"{path}: format version {index.get('format_version')!r}, this SALM reads {FORMAT_VERSION}; pack again"
        )
    return index
