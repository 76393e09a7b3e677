"""`salm prepare` and `salm simulate --srirs` as real commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from salm.manifest import read_dry_sounds, read_scenes
from tests.cli.commands import Run, assert_mistake
from tests.prepare.layouts import TauFolder, write_clotho, write_esc50


def test_from_a_data_set_to_scenes_in_measured_rooms(run: Run, tmp_path: Path) -> None:
    write_clotho(tmp_path)
    TauFolder(tmp_path / "TAU-SRIR_DB").write()
    table = "clotho_captions_development.csv"
    prepared = run("prepare", "clotho", table, "development", "--out", "a.csv", "--report", "r/a.json", cwd=tmp_path)
    assert prepared.code == 0, prepared
    assert prepared.stdout == "a.csv: 2 of 4 (1 missing, 1 unusable), sounds\n"
    assert "missing: gone.wav: no file development/gone.wav" in prepared.stderr
    assert "unusable: silent.wav" in prepared.stderr
    assert json.loads((tmp_path / "r" / "a.json").read_text())["num_missing"] == 1
    bank = run("prepare", "tau-srir", "TAU-SRIR_DB", "--out", "banks/tau.npz", "--json", "-q", cwd=tmp_path)
    assert bank.code == 0, bank
    assert bank.stderr == "" and bank.json["kept"] == 42 and bank.json["out"] == "banks/tau.npz"
    made = run(
        "simulate", "a.csv", "--srirs", "banks/tau.npz", "--out", "scenes", "--positions", "2", "--duration", "1", "-q",
        cwd=tmp_path,
    )  # fmt: skip
    assert made.code == 0, made
    scenes = read_scenes(tmp_path / "scenes" / "scenes.jsonl", check_files=True)
    assert len(scenes) == 4 and {len(scene.spatial_captions) for scene in scenes} == {5}
    assert not list(tmp_path.rglob("*.partial"))


def test_esc50_by_fold(run: Run, tmp_path: Path) -> None:
    write_esc50(tmp_path / "ESC-50-master")
    done = run("prepare", "esc50", "ESC-50-master", "--fold", "1", "--out", "new/fold1.csv", cwd=tmp_path)
    assert done.code == 0, done
    assert len(read_dry_sounds(tmp_path / "new" / "fold1.csv", check_files=True)) == 3


@pytest.mark.parametrize("command", ["clotho", "audiocaps", "esc50", "folder", "tau-srir"])
def test_help_ends_with_an_example(command: str, run: Run) -> None:
    last = run("prepare", command, "--help").stdout.rstrip().splitlines()[-1].strip()
    assert last.startswith(f"Example: salm prepare {command} ")


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    assert_mistake(run("prepare", "folder", "sounds", "--out", "a.csv", "-q", cwd=tmp_path), "sounds", "no audio file")
    soundfile.write(tmp_path / "sounds" / "silent.wav", np.zeros(99), 8000)
    words = ["a.csv: not written", "kept 0 of 1", "silent.wav"]
    arguments = ["prepare", "folder", "sounds", "--out", "a.csv", "--report", "report.json", "-q"]
    assert_mistake(run(*arguments, cwd=tmp_path), *words)
    assert json.loads((tmp_path / "report.json").read_text())["num_unusable"] == 1
    assert_mistake(run("prepare", "tau-srir", "sounds", "--out", "b.npz", "-q", cwd=tmp_path), "rirdata.mat: no such")
    (tmp_path / "m.csv").write_text("path,label,caption,group,source,licence,duration_s\na.wav,a,A.,g,s,CC0,1\n")
    bank = ["simulate", "m.csv", "--out", "out", "--srirs", "b.npz", "-q"]
    assert_mistake(run(*bank, cwd=tmp_path), "b.npz: not a bank of room responses")
    assert_mistake(run(*bank, "--receiver", "anywhere", cwd=tmp_path), "--srirs", "leave out --rt60 and --receiver")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "report.json", "sounds"]
