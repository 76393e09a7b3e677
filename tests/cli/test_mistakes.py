"""Every input that cannot work: one line that names the file and the next step, exit code 2, no traceback."""

import os
import sys
from pathlib import Path

import pytest

from salm.cli.app import main
from tests.cli.commands import Run, assert_mistake
from tests.preloaded import Result

BAD = {
    "empty.wav": "empty",
    "not_audio.wav": "audio",
    "stereo.wav": "got 2",
    "three.wav": "got 3",
    "mono.wav": "got 1",
    "nan.wav": "NaN",
    "infinite.wav": "infinite",
    "cut.wav": "truncated",
    "cut.flac": "",
    "dangling.wav": "no such file",
    "missing.wav": "no such file",
}


def test_the_list_covers_the_folder(bad_files: Path) -> None:
    assert {file.name for file in bad_files.iterdir()} == BAD.keys() - {"missing.wav"}


@pytest.mark.parametrize("name", BAD)
def test_direction_of_a_bad_file(
    name: str, bad_files: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["salm", "direction", str(bad_files / name), "--model", str(tiny)])
    with pytest.raises(SystemExit) as ending:
        main()
    assert_mistake(Result(int(str(ending.value)), *capsys.readouterr()), f"{name}: ", BAD[name], "; ")


@pytest.mark.parametrize("name", ["empty.wav", "nan.wav"])
def test_the_same_in_a_process_of_its_own(name: str, run: Run, bad_files: Path, tiny: Path) -> None:
    assert_mistake(run("direction", bad_files / name, "--model", tiny), f"{name}: ", BAD[name], "; ")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(run: Run, recordings: Path, tiny: Path) -> None:
    (recordings / "a.flac").chmod(0)
    assert_mistake(run("direction", recordings / "a.flac", "--model", tiny), "a.flac", "permissions")


def test_bad_folders(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("not an index")
    assert_mistake(run("index", tmp_path / "missing", "--out", tmp_path / "i", "--model", tiny, "-q"), "missing")
    assert_mistake(run("index", tmp_path / "nothing", "--out", tmp_path / "i", "--model", tiny, "-q"), "nothing", "wav")
    assert not (tmp_path / "i").exists()
    assert_mistake(run("index", tmp_path, "--out", tmp_path / "full", "--model", tiny, "-q"), "full")


def test_bad_values(run: Run, recordings: Path, tiny: Path, tmp_path: Path) -> None:
    index = ("index", recordings, "--out", tmp_path / "i", "-q")
    assert_mistake(run(*index, "--model", tmp_path / "no-model"), "no-model")
    assert not (tmp_path / "i").exists()
    assert_mistake(run(*index, "--model", tiny, "--convention", "fumo"), "fumo", "ambix, fuma")
    assert_mistake(run(*index, "--model", tiny, "--hop", "0"), "hop")
    assert_mistake(run("simulate", tmp_path / "no.csv", "--out", tmp_path / "s", "-q"), "no.csv")
