"""`salm demo`: scenes at known directions, made once, found by a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salm.cli.demo_scenes import everyday_sounds, recorded_sounds, sector_of_take, write_demo_scenes
from salm.errors import AudioFormatError, SceneError
from salm.geometry import SECTORS, sector_index
from salm.manifest import Scene
from tests.cli.commands import RATE, ROOT, Run, assert_mistake


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Mono, stereo and 8 kHz recordings in folders named after what they are, and one without a folder."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "sounds"
    for name, channels, rate in (("Rain_falling/1.wav", 1, RATE), ("Rain_falling/2.flac", 2, 44_100)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, generator.normal(0, 0.1, (rate, channels)), rate)
    soundfile.write(folder / "my-dog-3.wav", generator.normal(0, 0.1, 8_000), 8_000)
    return folder


def sector(scene: Scene) -> str:
    return SECTORS[int(sector_index(np.radians(scene.sources[0].azimuth_deg)))].compass


def test_everyday_sounds_put_a_dog_and_others_in_the_northwest() -> None:
    sounds = everyday_sounds()
    labels = list(dict.fromkeys(sound.label for sound in sounds))
    assert len(labels) >= 25
    directions = {(s.label, s.take): SECTORS[sector_of_take(labels.index(s.label), s.take)].compass for s in sounds}
    assert directions["dog barking", 0] == "northwest"
    assert directions["dog barking", 1] != "northwest"
    assert sum(direction == "northwest" for direction in directions.values()) >= 4
    assert set(directions.values()) == {s.compass for s in SECTORS}


def test_recordings_of_any_kind_become_scenes(sounds: Path, tmp_path: Path) -> None:
    files = sorted(path for path in sounds.rglob("*") if path.is_file())
    chosen = recorded_sounds(files, sounds)
    assert [(sound.label, sound.take) for sound in chosen] == [("my dog", 0), ("rain falling", 0), ("rain falling", 1)]
    scenes = write_demo_scenes(tmp_path / "demo", chosen)
    assert [sector(scene) for scene in scenes] == ["northwest", "south", "north"]
    for scene in scenes:
        assert soundfile.info(scene.path).channels == 4
        assert soundfile.info(scene.path).duration == 10.0


def test_scenes_are_made_once_and_the_same_each_time(sounds: Path, tmp_path: Path) -> None:
    chosen = recorded_sounds([sounds / "my-dog-3.wav"], sounds)
    first = write_demo_scenes(tmp_path / "demo", chosen)
    content, written = first[0].path.read_bytes(), first[0].path.stat().st_mtime_ns
    assert write_demo_scenes(tmp_path / "demo", chosen) == first
    assert first[0].path.stat().st_mtime_ns == written
    first[0].path.unlink()
    write_demo_scenes(tmp_path / "demo", chosen)
    assert first[0].path.read_bytes() == content
    others = write_demo_scenes(tmp_path / "demo", recorded_sounds([sounds / "Rain_falling" / "1.wav"], sounds))
    assert [file.name for file in (tmp_path / "demo" / "foa").iterdir()] == [others[0].path.name]


def test_a_folder_of_something_else_is_refused(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("work of years")
    with pytest.raises(SceneError, match="not made by salm demo"):
        write_demo_scenes(tmp_path / "thesis", recorded_sounds([sounds / "my-dog-3.wav"], sounds))
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_silence_is_no_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioFormatError, match=r"silence\.wav .*silent"):
        write_demo_scenes(tmp_path / "demo", recorded_sounds([tmp_path / "silence.wav"], tmp_path))


def test_the_demo_with_ones_own_sounds(run: Run, sounds: Path, tiny: Path, tmp_path: Path) -> None:
    arguments = ("demo", "--sounds", sounds, "--out", tmp_path / "demo", "--model", tiny)
    shown = run(*arguments)
    assert shown.code == 0, shown
    assert shown.stdout.startswith('"dog barking from the northwest" in 3 scenes:')
    assert "true direction" in shown.stdout
    assert f"--index {tmp_path / 'demo' / 'demo.index'}" in shown.stdout
    answer = run(*arguments, "--json", "-q", "--query", "rain from the left")
    assert answer.stderr == ""
    assert answer.json["query"] == "rain from the left"
    assert {hit["label"] for hit in answer.json["hits"]} == {"my dog", "rain falling"}
    assert all({"azimuth_deg", "true_azimuth_deg"} <= hit.keys() for hit in answer.json["hits"])


def test_no_sounds(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert_mistake(
        run("demo", "--sounds", tmp_path / "nothing", "--out", tmp_path / "d", "--model", tiny, "-q"), "nothing"
    )


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "salm/weights/salm-small/config.json").is_file(), reason="no bundled model yet")
def test_the_demo_finds_the_dog_in_the_northwest(run: Run, tmp_path: Path) -> None:
    answer = run("demo", "--out", tmp_path / "demo", "--json", "-q", "-k", "3").json
    first = answer["hits"][0]
    assert first["label"] == "dog barking", json.dumps(answer, indent=1)
    assert abs(first["true_azimuth_deg"] - 45) <= 22.5
    assert abs(first["azimuth_deg"] - first["true_azimuth_deg"]) < 20
