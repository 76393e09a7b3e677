"""`salm verify`, `compact`, `merge`, `stats`, `export`, and `salm index --kind --recall`: results, and mistakes."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from salm_index import Index, compaction

from salm.cli import indexing
from salm.cli.app import main
from tests.cli.commands import Run, assert_mistake, write_recording
from tests.preloaded import Result

COMMANDS = ("stats", "verify", "compact", "merge", "export")
Salm = Callable[..., Result]


@pytest.fixture
def salm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Salm:
    """`salm("verify", path)` in this process: what it prints and how it exits."""

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["salm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        return Result(int(str(ending.value)), *capsys.readouterr())

    return call


def fill(path: Path, name: str, count: int, model: str = "m:1") -> Index:
    """An index with `count` recordings of one window, in one commit per recording."""
    index = Index.create(path, 8, model=model)
    vectors = np.random.default_rng(count).standard_normal((count, 8))
    for number in range(count):
        row = {"path": f"{name}{number}.wav", "start_s": 0.0, "end_s": 10.0}
        index.add(vectors[number : number + 1], [row])
    return index


@pytest.fixture
def index_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three segments, and a removed window."""
    monkeypatch.setattr(compaction, "SMALL_WINDOWS", 0)
    monkeypatch.setattr(compaction, "TAKEN_UP_RATIO", 0)
    monkeypatch.setattr(compaction, "REMOVED_SHARE", 1.0)
    index = fill(tmp_path / "my.index", "a", 2)
    rows = [{"path": f"more{i}.wav", "start_s": 0, "end_s": 1} for i in range(3)]
    index.add(np.eye(3, 8), rows)
    index.remove("more1.wav")
    return index.path


def test_stats(salm: Salm, index_path: Path) -> None:
    result = salm("stats", index_path)
    assert result.code == 0
    for text in ("m:1", "4 recordings, 4 windows of 8 numbers", "1 windows", "3 segments", "exact (flat)"):
        assert text in result.stdout
    values = salm("stats", index_path, "--json").json
    assert (values["num_windows"], values["num_removed"], values["kind"]) == (4, 1, "flat")
    assert [segment["num_windows"] for segment in values["segments"]] == [1, 1, 3]
    assert values["search"].startswith("exact")


def test_verify_finds_what_opening_does_not_look_at(
    salm: Salm, index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert salm("verify", index_path).stdout == f"{index_path}: ok (4 recordings, 4 windows, generation 4)\n"
    assert salm("verify", index_path, "--json").json == {"index": str(index_path), "ok": True, "generation": 4}
    monkeypatch.setattr("salm_index.generations.CHECKSUM_AT_OPEN_BYTES", -1)
    path = index_path / "vectors-00000003.faiss"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert salm("stats", index_path).code == 0
    assert_mistake(salm("verify", index_path, "-q"), "vectors-00000003.faiss: expected checksum", "from a backup")


def test_compact(salm: Salm, index_path: Path) -> None:
    before = Index.open(index_path).search_many(np.eye(8), 10)
    result = salm("compact", index_path)
    assert (result.code, "3 -> 1 segments" in result.stdout) == (0, True)
    assert "compacting" in result.stderr
    assert Index.open(index_path).search_many(np.eye(8), 10) == before
    assert "nothing to compact (4 recordings, 4 windows)" in salm("compact", index_path).stdout
    changed = salm("compact", index_path, "--kind", "ivf", "--recall", "0.9", "--json").json
    assert (changed["changed"], changed["wanted_kind"], changed["wanted_recall"]) == (True, "ivf", 0.9)
    assert_mistake(salm("compact", index_path, "--kind", "hnsw", "-q"), "kind: expected one of auto, flat, ivf")


def test_merge(salm: Salm, index_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "b.index", "b", 2)
    result = salm("merge", index_path, tmp_path / "b.index", "--out", tmp_path / "c.index", "-q")
    assert result == (0, f"{tmp_path / 'c.index'}: 6 recordings, 6 windows\n", "")
    assert len(Index.open(tmp_path / "c.index")) == 6
    fill(tmp_path / "foreign.index", "x", 1, model="other:9")
    foreign = salm("merge", index_path, tmp_path / "foreign.index", "--out", tmp_path / "d.index", "-q")
    assert_mistake(foreign, "foreign.index", "'other:9'", "index the recordings of one of them again")
    assert_mistake(salm("merge", index_path, tmp_path / "b.index", "--out", index_path, "-q"), "is an index already")


def test_export(salm: Salm, index_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "pyarrow", None)
        assert_mistake(salm("export", index_path, "--out", tmp_path / "x", "-q"), "pip install pyarrow")
    pytest.importorskip("pyarrow")
    assert salm("export", index_path, "--out", tmp_path / "x", "--json").json["windows"] == 4
    assert np.load(tmp_path / "x" / "vectors.npy").shape == (4, 8)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_index_is_a_mistake(command: str, salm: Salm, tmp_path: Path) -> None:
    more = {"merge": [tmp_path / "b", "--out", tmp_path / "c"], "export": ["--out", tmp_path / "c"]}.get(command, [])
    assert_mistake(salm(command, tmp_path / "none", *more, *["-q"] * (command != "stats")), "none", "no index.json")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example(command: str, salm: Salm) -> None:
    assert salm(command, "--help").stdout.rstrip().splitlines()[-1].strip().startswith(f"Example: salm {command} ")


def test_the_commands_are_quick_to_refuse(run: Run, tmp_path: Path) -> None:
    assert_mistake(run("verify", tmp_path / "none"), "none", "no index.json")


def test_index_takes_kind_and_recall(salm: Salm, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recording(tmp_path / "recordings" / "a.wav")
    arguments = ("index", tmp_path / "recordings", "--out", tmp_path / "i", "--model", tiny)
    assert salm(*arguments, "--kind", "flat", "--json").json["search"].startswith("exact (flat); kind flat")
    stats = Index.open(tmp_path / "i").stats()
    assert (stats.wanted_kind, stats.wanted_recall) == ("flat", 0.99)
    assert "search: exact" in salm(*arguments, "--kind", "ivf", "--recall", "0.9").stderr
    stats = Index.open(tmp_path / "i").stats()
    assert (stats.wanted_kind, stats.wanted_recall) == ("ivf", 0.9)
    assert_mistake(salm(*arguments, "--kind", "hnsw", "-q"), "kind: expected one of")
    # What is as it should be is not written anew.
    monkeypatch.setattr(indexing.Index, "compact", None)
    assert salm(*arguments, "--kind", "ivf", "-q").code == 0
