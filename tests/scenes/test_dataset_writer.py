"""The scene folder: the same bytes from the same seed, after an interruption too, and labels that are true."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salm.errors import AudioFormatError, SceneError
from salm.geometry import angle_between, find_sector, sector_of, unit_vector
from salm.manifest import DrySound, read_scenes
from salm.scenes.dataset_writer import simulate_dataset

RATE = 24000
OPTIONS = {"seed": 11, "duration_s": 1.0, "rt60_range_s": (0.1, 0.2), "positions_per_sound": 2}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> list[DrySound]:
    folder = tmp_path_factory.mktemp("dry")
    rows = []
    for index, (label, rate, channels) in enumerate([("dog barking", RATE, 1), ("siren", 44100, 2), ("rain", 8000, 1)]):
        path = folder / f"{index}.wav"
        samples = 0.2 * np.random.default_rng(index).standard_normal((int(0.4 * rate), channels))
        soundfile.write(path, samples, rate, subtype="PCM_16")
        rows.append(DrySound(path, label, (f"The {label} is here.", label), f"g{index}", "test", "CC0", 0.4))
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(sounds, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    simulate_dataset(sounds, folder, **OPTIONS)
    return folder


def test_folder_and_manifest(finished, sounds):
    scenes = read_scenes(finished / "scenes.jsonl", check_files=True)
    assert [scene.sources[0].label for scene in scenes] == ["dog barking", "siren", "rain"] * 2
    assert [scene.sources[0].path for scene in scenes[:3]] == ["0.wav", "1.wav", "2.wav"]
    assert scenes[0].room.dimensions_m == scenes[3].room.dimensions_m != scenes[1].room.dimensions_m
    assert sorted(contents(finished)) == [
        "foa/000000_dog_barking.flac", "foa/000001_siren.flac", "foa/000002_rain.flac",
        "foa/000003_dog_barking.flac", "foa/000004_siren.flac", "foa/000005_rain.flac", "recipe.json", "scenes.jsonl",
    ]  # fmt: skip
    for scene in scenes:
        info = soundfile.info(scene.path)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (RATE, 4, RATE, "PCM_16")
        assert scene.sources[0].end_s == pytest.approx(0.8, abs=1e-3)  # 0.4 s, twice
        assert scene.split == "test" and scene.seed == 11


def test_labels_are_true(finished):
    scenes = read_scenes(finished / "scenes.jsonl")
    assert scenes
    for scene in scenes:
        source = scene.sources[0]
        assert len(scene.spatial_captions) == len(scene.captions) == 2
        for caption in scene.spatial_captions:
            assert find_sector(caption) == sector_of(math.radians(source.azimuth_deg))
        foa, _ = soundfile.read(scene.path)
        w, y, z, x = foa.T
        direction = unit_vector(math.radians(source.azimuth_deg), math.radians(source.elevation_deg))
        measured = [np.dot(w, x), np.dot(w, y), np.dot(w, z)]
        assert (
            math.degrees(angle_between(measured, direction)) < 30
        )  # reverberation pulls the intensity of the whole clip


def test_same_seed_same_bytes(finished, sounds, tmp_path):
    simulate_dataset(sounds, tmp_path, **OPTIONS)
    assert contents(tmp_path) == contents(finished)
    other = tmp_path / "other"
    simulate_dataset(sounds, other, **(OPTIONS | {"seed": 12}))
    assert contents(other)["foa/000000_dog_barking.flac"] != contents(finished)["foa/000000_dog_barking.flac"]


def test_interrupted_run_resumes_to_the_same_bytes(finished, sounds, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(sounds, tmp_path, **OPTIONS, progress=interrupt)
    assert len(list((tmp_path / "foa").iterdir())) == 3
    manifest = tmp_path / "scenes.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-40])  # killed while it wrote the third row
    (tmp_path / "foa" / "000000_dog_barking.flac").unlink()
    (tmp_path / "foa" / "000004_siren.flac.partial").write_bytes(b"half")
    simulate_dataset(sounds, tmp_path, **OPTIONS)
    assert contents(tmp_path) == contents(finished)


def test_finished_scenes_are_not_made_again(finished, sounds, monkeypatch):
    monkeypatch.setattr(soundfile, "write", None)
    assert len(simulate_dataset(sounds, finished, **OPTIONS)) == 6


def test_a_folder_can_grow(finished, sounds, tmp_path):
    simulate_dataset(sounds, tmp_path, **OPTIONS, num_scenes=2)
    simulate_dataset(sounds, tmp_path, **OPTIONS, num_scenes=7)
    grown = contents(tmp_path)
    assert len(read_scenes(tmp_path / "scenes.jsonl")) == 7
    for name, expected in contents(finished).items():
        if name.endswith(".flac"):
            assert grown[name] == expected
    rooms = [scene.room for scene in read_scenes(tmp_path / "scenes.jsonl")]
    assert rooms[6].dimensions_m != rooms[0].dimensions_m  # a further room for the first sound


def test_another_recipe_is_refused(finished, sounds):
    before = contents(finished)
    with pytest.raises(SceneError, match=r"another recipe \(other seed\); choose another folder"):
        simulate_dataset(sounds, finished, **(OPTIONS | {"seed": 12}))
    with pytest.raises(SceneError, match=r"num_sounds, sounds_sha256"):
        simulate_dataset(sounds[:2], finished, **OPTIONS)
    assert contents(finished) == before


def test_foreign_folder_is_refused(sounds, tmp_path):
    (tmp_path / "scenes.jsonl").write_text("{}\n")
    with pytest.raises(SceneError, match="without a recipe.json"):
        simulate_dataset(sounds, tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such dry sound"),
        (lambda path: path.write_text("no audio"), "not a readable audio file"),
        (lambda path: soundfile.write(path, np.zeros(1000), RATE), "digital silence"),
        (lambda path: soundfile.write(path, np.full(1000, np.nan), RATE, subtype="FLOAT"), "NaN or infinite"),
        (lambda path: soundfile.write(path, np.zeros(0), RATE), "no samples"),
    ],
)
def test_bad_dry_sounds_are_named(tmp_path, write, message):
    path = tmp_path / "bad.wav"
    write(path)
    sound = DrySound(path, "bad", ("bad",), "g", "test", "CC0", 1.0)
    with pytest.raises(AudioFormatError, match=rf"bad\.wav: .*{message}"):
        simulate_dataset([sound], tmp_path / "out", **OPTIONS)


def test_bad_options_are_refused(sounds, tmp_path):
    with pytest.raises(SceneError, match="bits 16 or 24"):
        simulate_dataset(sounds, tmp_path, **OPTIONS, bits=8)
    with pytest.raises(SceneError, match=r"ranges \(low, high\)"):
        simulate_dataset(sounds, tmp_path, **OPTIONS, snr_db_range=(30.0, 10.0))
    with pytest.raises(SceneError, match="centre, anywhere"):
        simulate_dataset(sounds, tmp_path, **OPTIONS, receiver="corner")
    with pytest.raises(SceneError, match="no dry sounds"):
        simulate_dataset([], tmp_path, **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_recipe_is_readable(finished):
    recipe = json.loads((finished / "recipe.json").read_text())
    assert recipe["seed"] == 11 and recipe["rt60_range_s"] == [0.1, 0.2] and recipe["num_sounds"] == 3
