"""`salm eval`: tables, JSON, exit codes. The model is planted; `test_eval_process.py` runs a real one."""

import json
import re
import sys

import pytest

import salm
from salm.cli import console
from salm.cli.evaluate import app

COMMANDS = ("retrieval", "direction", "classify", "editing", "all")


@pytest.fixture
def run(monkeypatch, planted, capsys):
    """Run `salm eval ARGUMENTS` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(salm, "load", lambda name, precision: planted, raising=False)

    def command(*arguments):
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["salm", "eval", *words])
        with pytest.raises(SystemExit) as exit_:
            console.run(lambda **options: app(args=words, **options), "salm eval")
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_evaluation_prints_tables_and_writes_json(run, command, scene_folder, tmp_path):
    file = tmp_path / "r.json"
    code, out, err = run(command, scene_folder, "--json", file, "--no-cache", "-q")
    assert (code, err) == (0, "")
    assert "planted:0123456789ab" in out
    assert "100.0" in out
    stored = json.loads(file.read_text())
    assert list(stored["results"]) == (
        ["retrieval", "direction", "classify", "editing"] if command == "all" else [command]
    )
    assert stored["command"].startswith(f"salm eval {command} ")
    assert stored["num_scenes"] == 160


def test_bfloat16_is_loaded_and_not_kept(run, scene_folder, monkeypatch, planted):
    asked = []
    monkeypatch.setattr(salm, "load", lambda name, precision: asked.append(precision) or planted)
    kept = set(scene_folder.glob(".salm-eval/*"))
    assert run("direction", scene_folder, "--precision", "bfloat16")[0] == 0
    assert asked == ["bfloat16"]
    assert set(scene_folder.glob(".salm-eval/*")) == kept


def test_a_dash_prints_json_alone(run, scene_folder):
    code, out, _ = run("editing", scene_folder, "--json", "-", "--no-cache", "-q")
    assert code == 0
    assert json.loads(out)["results"]["editing"]["ways"]["Change"]["recall"]["1"] == 1.0


def test_gallery_size_is_always_printed(run, scene_folder):
    _, out, _ = run("retrieval", scene_folder, "--no-cache", "-q")
    assert "gallery of 160 scenes" in out
    assert "40 of 160 captions distinct: an identical caption is a hit" in out


def test_figures_are_drawn_beside_the_tables(run, scene_folder, tmp_path):
    folder = tmp_path / "figures"
    code, out, err = run("editing", scene_folder, "--figures", folder, "--json", "-", "--no-cache")
    assert code == 0
    assert json.loads(out)["results"]["editing"]["num_scenes"] == 160
    assert [path.name for path in folder.iterdir()] == ["editing.png"]
    assert f"drew {folder / 'editing.png'}\n" in err


def test_figures_that_cannot_be_drawn_end_before_the_evaluation(run, scene_folder, tmp_path, monkeypatch, planted):
    (tmp_path / "file").write_text("in the way")
    before = planted.num_encoded
    code, out, err = run("direction", scene_folder, "--figures", tmp_path / "file", "--no-cache")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert "file: cannot be written (File exists); choose another folder with --figures" in err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("direction", scene_folder, "--figures", tmp_path / "figures", "--no-cache")
    assert (code, out) == (2, "")
    assert err == 'error: drawing figures needs matplotlib: pip install "salm[plot]"\n'
    assert planted.num_encoded == before


def test_one_phrasing_alone(run, scene_folder):
    _, out, _ = run("retrieval", scene_folder, "--phrasing", "plain", "--json", "-", "--no-cache", "-q")
    assert list(json.loads(out)["results"]["retrieval"]["queries"]) == ["plain"]


def test_labels_of_a_file(run, scene_folder, tmp_path):
    (tmp_path / "labels.txt").write_text("siren\ncat meowing\n")
    options = ("--labels", tmp_path / "labels.txt", "--json", "-", "--no-cache", "-q")
    _, out, _ = run("retrieval", scene_folder, *options)
    result = json.loads(out)["results"]["retrieval"]
    assert result["labels"] == ["siren", "cat meowing"]
    assert result["queries"]["plain"]["num_queries"] == 16
    assert result["queries"]["plain"]["gallery_size"] == 160


def test_mistakes_are_one_line_and_exit_code_2(run, scene_folder, tmp_path):
    (tmp_path / "labels.txt").write_text("siren\nxylophone\n")
    (tmp_path / "bad.jsonl").write_text('{"path": 1}\n')
    for arguments, message in (
        (("retrieval", tmp_path / "none.jsonl"), "none.jsonl: no such manifest"),
        (("direction", tmp_path / "bad.jsonl"), "bad.jsonl:1: the scene lacks"),
        (("classify", scene_folder, "--labels", tmp_path / "labels.txt", "--no-cache"), "labels.txt:2: no scene"),
        (("retrieval", scene_folder, "--phrasing", "rude"), "rude"),
        (
            ("editing", scene_folder, "--no-cache", "--json", tmp_path / "labels.txt" / "r.json"),
            "r.json: cannot be written",
        ),
    ):
        code, _, err = run(*arguments, "-q")
        assert code == 2
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("retrieval", {"--labels", "--min-scenes", "--phrasing", "--embedding"}),
        ("direction", set()),
        ("classify", {"--labels", "--min-scenes"}),
        ("editing", set()),
        ("all", {"--labels", "--min-scenes", "--phrasing", "--embedding"}),
    ],
)
def test_commands_have_the_shared_options_and_their_own(run, command, own):
    _, out, _ = run(command, "--help")
    listed = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, flags=re.MULTILINE))
    assert listed == own | {"--model", "--precision", "--json", "--figures", "--no-cache", "--quiet", "--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_a_line_that_runs(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert out.rstrip().splitlines()[-1].strip().startswith("Example: salm eval")
