"""`salm captions`: manifest in, manifest out, each caption's origin told, every mistake one line."""

import inspect
import json
import sys
from pathlib import Path

import pytest

from salm.cli.app import main
from salm.cli.captions import captions
from salm.geometry import find_sector, sector_of
from salm.manifest import Scene, SceneSource, read_scenes, write_scenes
from salm.text import language_model
from tests.cli.commands import Run, assert_mistake
from tests.preloaded import Result
from tests.text.test_rewrite import save_language_model


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number, (azimuth_deg, text) in enumerate([(45.0, "A dog barks."), (-90.0, "rain"), (180.0, "A bell rings.")]):
        source = SceneSource("sound", azimuth_deg, 0.0, 1.0, 0.0, 1.0, "dry.wav")
        sources = (source, source) if number == 2 else (source,)
        path = tmp_path / "scenes" / "foa" / f"{number}.flac"
        rows.append(Scene(path, (text,), ("as it was",), sources, None, None, "test", None, 1.0, 24_000))
    (tmp_path / "scenes").mkdir()
    write_scenes(tmp_path / "scenes" / "scenes.jsonl", rows)
    return tmp_path / "scenes" / "scenes.jsonl"


@pytest.fixture
def salm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`salm captions ...` in this process, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["salm", "captions", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        return Result(int(str(ending.value)), *capsys.readouterr())

    return run


@pytest.fixture
def good_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of the model's answers: right about dogs, wrong about anything else; the list is what it was asked."""
    asked: list[str] = []

    def answer(self: language_model.LanguageModel, requests: list) -> list[str]:
        asked.extend(request.caption for request in requests)
        return [f"From the {r.direction}, a dog barks." for r in requests]

    monkeypatch.setattr(language_model.LanguageModel, "answer", answer)
    return asked


def test_manifest_and_report(manifest: Path, salm: Run, good_model: list[str], tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "rephrased.jsonl"
    result = salm(manifest.parent, "--out", out, "--json")
    report = result.json
    before, after = read_scenes(manifest), read_scenes(out)
    assert after[0].spatial_captions == ("From the northwest, a dog barks.",)
    assert find_sector(after[1].spatial_captions[0]) == sector_of(-1.57) and "rain" in after[1].spatial_captions[0]
    assert after[2].spatial_captions == ("as it was",)
    assert [row.path.resolve() for row in after] == [row.path.resolve() for row in before]
    assert [row.captions for row in after] == [row.captions for row in before]
    assert (report["captions"], report["fallbacks"], report["unchanged_scenes"], report["cached"]) == (2, 1, 1, 0)
    assert report["refused"] == {"content": 1}
    assert [row["origin"] for row in report["rewrites"]] == ["model", "template"]
    assert report["rewrites"][1]["refused"].startswith("content: lacks rain")
    assert "rewriting" in result.stderr
    assert not list(out.parent.glob("*.partial"))


def test_a_rerun_asks_nothing_and_text_tells_the_counts(manifest: Path, salm: Run, good_model: list[str]) -> None:
    first = salm(manifest, "--out", manifest, "-q")
    assert sorted(good_model) == ["A dog barks.", "rain"] and first.stderr == ""
    written = manifest.read_bytes()
    second = salm(manifest, "--out", manifest, "-q")
    assert len(good_model) == 2 and manifest.read_bytes() == written
    assert "2 spatial captions, 1 by meta-llama/Llama-3.2-3B-Instruct, 1 by template (content 1)" in first.stdout
    assert "0 answers were known" in first.stdout and "2 answers were known" in second.stdout
    salm(manifest, "--out", manifest, "-q", "--seed", "1")
    salm(manifest, "--out", manifest, "-q", "--temperature", "0.3")
    salm(manifest, "--out", manifest, "-q", "--model", "another/model")
    assert len(good_model) == 8


def test_a_random_model_from_a_folder(manifest: Path, salm: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = save_language_model(tmp_path / "model")
    outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, out in enumerate(outs):
        options = ("--cache", tmp_path / f"cache{number}", "--batch-size", str(2 - number))
        result = salm(manifest, "--out", out, "--model", model, "--json", "-q", *options)
        assert result.code == 0 and result.json["fallbacks"] == 2
    assert outs[0].read_bytes() == outs[1].read_bytes() != manifest.read_bytes()


def test_mistakes(manifest: Path, salm: Run, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out.jsonl", "-q")
    assert_mistake(salm(tmp_path / "none.jsonl", *out), "none.jsonl", "no such manifest")
    (tmp_path / "empty.jsonl").write_text("")
    assert_mistake(salm(tmp_path / "empty.jsonl", *out), "empty.jsonl: no scenes")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert_mistake(salm(tmp_path / "bad.jsonl", *out), "bad.jsonl:1", "lacks")
    assert_mistake(salm(manifest, "--out", tmp_path, "-q"), "got a folder", "scenes.jsonl")
    assert_mistake(salm(manifest, *out, "--temperature", "-1"), "temperature is -1.0")
    assert_mistake(salm(manifest, *out, "--model", tmp_path / "no-model"), "no-model", "hf auth login")
    assert_mistake(salm(manifest, *out, "--batch-size", "0"), "--batch-size")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_interruption_says_how_to_go_on(
    manifest: Path, salm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: language_model.LanguageModel, requests: list) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model.LanguageModel, "answer", interrupted)
    result = salm(manifest, "--out", tmp_path / "out.jsonl", "-q")
    assert result.code == 130 and "answers so far are kept" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_the_defaults_are_the_librarys() -> None:
    parameters = inspect.signature(captions).parameters
    assert parameters["model"].default == language_model.DEFAULT_MODEL
    assert parameters["temperature"].default == language_model.DEFAULT_TEMPERATURE


def test_json_is_one_document(manifest: Path, salm: Run, good_model: list[str], tmp_path: Path) -> None:
    assert set(json.loads(salm(manifest, "--out", tmp_path / "o.jsonl", "--json", "-q").stdout)) == {
        "manifest", "model", "scenes", "unchanged_scenes", "captions", "fallbacks", "refused", "cached", "rewrites",
    }  # fmt: skip
