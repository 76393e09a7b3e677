"""A small gallery of plane waves, and models whose answers are known: one that is perfect, one that guesses."""

import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from salm.evaluate.scenes import load_gallery
from salm.geometry import SECTORS, encode_plane_wave, find_sector, parse_sector, sector_index
from salm.manifest import Scene, SceneRoom, SceneSource, read_scenes, write_scenes
from salm.models.salm import AudioParts

LABELS = ("dog barking", "siren", "church bells", "rain falling", "cat meowing")
RATE = 24_000
OFFSETS_DEG = (-20.0, -10.0, 3.0, 15.0)
"""From the centre of the sector: the first is 2.5 degrees from the border, the others 7.5 or more."""


def planted_vectors(labels, sectors):
    """Rows (512,): a one for the label and a one for the sector, where there is one (-1: none)."""
    vectors = np.zeros((len(labels), 512), np.float32)
    for row, (label, sector) in enumerate(zip(labels, sectors, strict=True)):
        if label >= 0:
            vectors[row, label] = 1.0
        if sector >= 0:
            vectors[row, 256 + sector] = 1.0
    return vectors


class PlantedModel:
    """Reads the truth from the manifest and the words from the sentence."""

    model_id = "planted:0123456789ab"

    def __init__(self, scenes):
        self.truth = {scene.path.resolve(): scene.sources[0] for scene in scenes}
        self.num_encoded = 0

    def encode_text(self, texts):
        labels = [next((i for i, label in enumerate(LABELS) if label in text.lower()), -1) for text in texts]
        found = [find_sector(text) for text in texts]
        vectors = planted_vectors(labels, [sector.index if sector else -1 for sector in found])
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def encode_audio_parts(self, paths):
        self.num_encoded += len(paths)
        sources = [self.truth[path.resolve()] for path in paths]
        labels = [LABELS.index(source.label) for source in sources]
        sectors = sector_index(np.radians([source.azimuth_deg for source in sources]))
        none = [-1] * len(paths)
        semantic, spatial = planted_vectors(labels, none), planted_vectors(none, sectors)
        azimuth, elevation = np.radians([(s.azimuth_deg, s.elevation_deg) for s in sources]).T
        doa = [encode_plane_wave([1.0], a, e)[[3, 1, 2], 0] for a, e in zip(azimuth, elevation, strict=True)]
        arrays = (semantic, spatial, semantic + spatial, np.array(doa, np.float32))
        return AudioParts(*map(torch.from_numpy, arrays))

    def edit_direction(self, parts, direction, *, normalize_embeddings=True):
        vector = torch.from_numpy(planted_vectors([-1], [parse_sector(direction).index]))
        return parts.semantic + parts.spatial.norm(dim=1, keepdim=True) * vector


class GuessingModel(PlantedModel):
    """Random embeddings of the audio, the same in every run."""

    model_id = "guessing:0123456789ab"

    def encode_audio_parts(self, paths):
        seeds = [int(re.search(r"\d+", path.name)[0]) for path in paths]
        semantic, spatial = (
            np.array([np.random.default_rng((kind, seed)).normal(size=512) for seed in seeds], np.float32)
            for kind in (0, 1)
        )
        doa = spatial[:, :3] / np.linalg.norm(spatial[:, :3], axis=1, keepdims=True)
        return AudioParts(*map(torch.from_numpy, (semantic, spatial, semantic + spatial, doa)))


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory):
    """160 short plane waves: five labels in eight sectors at four offsets, with different rooms, distances and SNR."""
    folder = tmp_path_factory.mktemp("scenes")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 20)
    scenes = []
    for number, (label, sector, offset) in enumerate(
        (label, sector, offset) for label in LABELS for sector in SECTORS for offset in OFFSETS_DEG
    ):
        azimuth_deg = sector.azimuth_deg + offset
        azimuth_deg -= 360.0 if azimuth_deg > 180.0 else 0.0
        path = folder / f"{number:03d}.flac"
        foa = encode_plane_wave(noise, np.radians(azimuth_deg), np.radians(10.0))
        soundfile.write(path, foa.T, RATE, subtype="PCM_24")
        place = f"{label} from the {sector.compass}"
        scenes.append(
            Scene(
                path,
                (f"{label.capitalize()} nearby.",),
                (f"{place}.",),
                (SceneSource(label, azimuth_deg, 10.0, 0.5 + number % 5, 0.0, 0.05, f"{label}.wav"),),
                SceneRoom((5.0, 4.0, 3.0), ((0.5,) * 7,) * 6, 0.1 + 0.004 * number),
                1,
                "test",
                10.0 + number % 30,
                0.05,
                RATE,
            )
        )
    write_scenes(folder / "scenes.jsonl", scenes)
    return folder


@pytest.fixture(scope="session")
def scenes(scene_folder):
    return read_scenes(scene_folder / "scenes.jsonl")


@pytest.fixture(scope="session")
def planted(scenes):
    return PlantedModel(scenes)


@pytest.fixture(scope="session")
def guessing(scenes):
    return GuessingModel(scenes)


@pytest.fixture(scope="session")
def planted_gallery(scene_folder, planted):
    return load_gallery(scene_folder, planted, cache=False)


@pytest.fixture(scope="session")
def guessing_gallery(scene_folder, guessing):
    return load_gallery(scene_folder, guessing, cache=False)


@pytest.fixture
def copied(tmp_path, scenes, scene_folder):
    """A manifest of its own for a test to change: writes the given scenes and returns its path."""

    def write(changed):
        path = tmp_path / "scenes.jsonl"
        write_scenes(path, changed)
        return path

    return write


def with_label(scene, label):
    return replace(scene, sources=(replace(scene.sources[0], label=label),))
