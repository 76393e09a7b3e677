"""The scene folder: the same bytes from the same seed, after an interruption too, and labels that are true."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salm.errors import AudioFormatError, SceneError
from salm.geometry import angle_between, find_sector, foa_gains, sector_of, unit_vector
from salm.manifest import DrySound, read_scenes
from salm.scenes.dataset_writer import simulate_dataset
from salm.scenes.rooms import Room
from salm.scenes.srir import Srir
from salm.scenes.srir_bank import SrirBank

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


@pytest.fixture(scope="module")
def bank() -> SrirBank:
    """Anechoic responses of two rooms: four directions on the left in one, one on the right in the other."""
    left, right = Room.uniform((5.0, 4.0, 3.0), 0.9), Room.uniform((6.0, 4.0, 3.0), 0.9)
    srirs = []
    for azimuth_rad, room in ((0.4, left), (0.9, left), (1.6, left), (2.4, left), (-1.2, right)):
        response = np.zeros((4, 64), np.float32)
        response[:, 48] = foa_gains(azimuth_rad, 0.1)
        srirs.append(Srir(response, azimuth_rad, 0.1, 2.0, 0.0, room))
    return SrirBank.pack(srirs, RATE, "float32")


def test_scenes_of_a_bank_have_its_directions(sounds, bank, tmp_path):
    scenes = simulate_dataset(sounds, tmp_path, **OPTIONS, num_scenes=24, srirs=bank)
    azimuths = [round(math.radians(scene.sources[0].azimuth_deg), 3) for scene in scenes]
    assert set(azimuths) == {0.4, 0.9, 1.6, 2.4, -1.2}
    for scene, azimuth_rad in zip(scenes, azimuths, strict=True):
        assert scene.room is None and scene.sources[0].distance_m == 2.0
        assert find_sector(scene.spatial_captions[0]) == sector_of(azimuth_rad)
        w, y, _, x = soundfile.read(scene.path)[0].T
        assert math.atan2(np.dot(w, y), np.dot(w, x)) == pytest.approx(azimuth_rad, abs=0.05)
    for sound in range(3):
        for turn in range(4):  # the two positions of a turn are in one room, and differ where it has several
            first, second = azimuths[6 * turn + sound], azimuths[6 * turn + 3 + sound]
            assert (first == second == -1.2) or (first > 0 and second > 0 and first != second)


def test_scenes_of_a_bank_are_reproducible_and_resumable(sounds, bank, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    simulate_dataset(sounds, tmp_path / "whole", **OPTIONS, srirs=bank)
    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(sounds, tmp_path / "cut", **OPTIONS, srirs=bank, progress=interrupt)
    simulate_dataset(sounds, tmp_path / "cut", **OPTIONS, srirs=bank)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    recipe = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert "rt60_range_s" not in recipe and "receiver" not in recipe
    louder = replace(bank, samples=bank.samples * 2)
    with pytest.raises(SceneError, match=r"another recipe \(other srirs_sha256\)"):
        simulate_dataset(sounds, tmp_path / "whole", **OPTIONS, srirs=louder)
    with pytest.raises(SceneError, match="receiver, rt60_range_s, srirs_sha256"):
        simulate_dataset(sounds, tmp_path / "whole", **OPTIONS)


def test_a_bank_of_another_rate_is_refused(sounds, bank, tmp_path):
    with pytest.raises(SceneError, match="responses are of 48000 Hz, expected 24000 Hz"):
        simulate_dataset(sounds, tmp_path, **OPTIONS, srirs=replace(bank, sample_rate=48000))
    assert not list(tmp_path.iterdir())


def test_a_caption_as_label_gives_a_short_file_name(sounds, bank, tmp_path):
    wordy = replace(sounds[0], label="A dog barks, and " * 30)
    (scene,) = simulate_dataset([wordy], tmp_path, **OPTIONS, num_scenes=1, srirs=bank)
    assert scene.path.name == "000000_" + ("a_dog_barks_and_" * 30)[:60] + ".flac"


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
