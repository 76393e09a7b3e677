"""`salm index` and `salm-retrieve`, from recordings to hits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from salm_index import Index

from salm.cli.indexing import update_index
from salm.cli.retrieve import print_hits
from salm.cli.search import search_index
from salm.errors import CheckpointError
from tests.cli.commands import Run, assert_mistake, save_tiny_model, write_recording

QUERY = "dog barking from the northwest"
FIELDS = ("rank", "score", "path", "start_s", "end_s", "azimuth_deg", "elevation_deg")


def test_a_folder_is_indexed_and_searched(run: Run, recordings: Path, tiny: Path, tmp_path: Path) -> None:
    index = tmp_path / "my.index"
    made = run("index", recordings, "--out", index, "--model", tiny, "--json")
    assert made.code == 0, made
    assert made.json["num_recordings"] == 4
    assert made.json["num_windows"] == 5
    assert [Path(path).name for path in made.json["added"]] == ["a.flac", "b.WAV", "c.ogg", "long.wav"]
    assert "indexing" in made.stderr

    found = run("salm-retrieve", QUERY, "--index", index, "--model", tiny, "-k", "3", "--json")
    assert found.code == 0, found
    assert found.stderr == ""
    assert [hit["rank"] for hit in found.json] == [1, 2, 3]
    assert all(tuple(hit)[: len(FIELDS)] == FIELDS for hit in found.json)
    assert all(Path(hit["path"]).is_absolute() and Path(hit["path"]).is_file() for hit in found.json)
    scores = [hit["score"] for hit in found.json]
    assert scores == sorted(scores, reverse=True)


def test_the_table(
    recordings: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update_index(recordings, tmp_path / "my.index", model=str(tiny))
    monkeypatch.chdir(tmp_path)
    print_hits(search_index(tmp_path / "my.index", QUERY, 3, str(tiny)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "score", "path", "time", "azimuth", "elevation"]
    assert len(lines) == 4
    assert all(" recordings/" in line for line in lines[1:])  # relative to the current folder


def test_hits_are_those_of_the_library(recordings: Path, tiny: Path, tmp_path: Path) -> None:
    report = update_index(recordings, tmp_path / "my.index", model=str(tiny))
    hits = search_index(tmp_path / "my.index", QUERY, 10, str(tiny))
    assert len(hits) == report.num_windows == 5
    assert sorted((hit.start_s, hit.end_s) for hit in hits if "long" in hit.path) == [(0.0, 10.0), (5.0, 12.0)]


def test_only_what_changed_is_encoded_again(recordings: Path, tiny: Path, tmp_path: Path) -> None:
    index, model = tmp_path / "my.index", str(tiny)
    first = update_index(recordings, index, model=model)
    assert len(first.added) == 4
    write_recording(recordings / "a.flac", seed=11)
    write_recording(recordings / "new.wav", seed=12)
    (recordings / "b.WAV").unlink()
    second = update_index(recordings, index, model=model)
    assert [Path(path).name for path in second.changed] == ["a.flac"]
    assert [Path(path).name for path in second.added] == ["new.wav"]
    assert [Path(path).name for path in second.unchanged] == ["c.ogg", "long.wav"]
    assert [Path(path).name for path in second.vanished] == ["b.WAV"]
    assert second.num_recordings == 5  # the one that is gone is still found until it is pruned
    third = update_index(recordings, index, model=model, prune=True)
    assert [Path(path).name for path in third.removed] == ["b.WAV"]
    assert (third.num_recordings, len(third.unchanged), third.vanished) == (4, 4, [])
    fourth = update_index(recordings, index, model=model, hop_s=2.0)  # another cut is another encoding
    assert len(fourth.changed) == 4


def test_other_folders_in_the_same_index_stay(recordings: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_recording(tmp_path / "recordings-2" / "e.wav", seed=6)
    update_index(recordings, tmp_path / "my.index", model=str(tiny))
    report = update_index(other.parent, tmp_path / "my.index", model=str(tiny), prune=True)
    assert (report.num_recordings, report.removed) == (5, [])


def test_a_scene_manifest_gives_labels_and_true_directions(run: Run, tiny: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    write_recording(sounds / "noise.wav")
    header = "path,label,caption,group,source,licence,duration_s"
    (sounds / "manifest.csv").write_text(f"{header}\nnoise.wav,rain,It rains.,g1,made,CC0,2.0\n")
    arguments = ("simulate", sounds / "manifest.csv", "--out", tmp_path / "made", "--positions", "2", "--duration", "2")
    assert run(*arguments, "--json").json["scenes"] == 2
    update_index(tmp_path / "made", tmp_path / "my.index", model=str(tiny))
    rows = [json.loads(line) for line in (tmp_path / "made" / "scenes.jsonl").read_text().splitlines()]
    truth = {row["sources"][0]["azimuth_deg"] for row in rows}
    hits = search_index(tmp_path / "my.index", QUERY, 10, str(tiny))
    assert {hit.metadata["true_azimuth_deg"] for hit in hits} == truth
    assert {hit.metadata["label"] for hit in hits} == {"rain"}


def test_bad_files_are_listed_and_the_others_indexed(
    run: Run, recordings: Path, bad_files: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in (*bad_files.iterdir(), recordings / "a.flac"):
        (folder / file.name).symlink_to(file)
    result = run("index", folder, "--out", tmp_path / "my.index", "--model", tiny, "-q")
    assert result.code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(list(bad_files.iterdir())) > 8
    for file in bad_files.iterdir():
        assert sum(f"mixed/{file.name}: " in line and line.startswith("error: ") for line in lines) == 1, result.stderr
    with Index.open(tmp_path / "my.index") as index:
        assert [Path(path).name for path in index.paths()] == ["a.flac"]
        index.verify()


def test_a_file_that_went_bad_keeps_its_place(recordings: Path, tiny: Path, tmp_path: Path) -> None:
    update_index(recordings, tmp_path / "my.index", model=str(tiny))
    (recordings / "a.flac").write_bytes(b"")
    report = update_index(recordings, tmp_path / "my.index", model=str(tiny), prune=True)
    assert [Path(path).name for path in report.failed] == ["a.flac"]
    assert report.num_recordings == 4


def test_an_index_of_another_model_is_refused(run: Run, recordings: Path, tiny: Path, tmp_path: Path) -> None:
    update_index(recordings, tmp_path / "my.index", model=str(tiny))
    with Index.open(tmp_path / "my.index") as index:
        name = index.model
    other = save_tiny_model(tmp_path / "other", seed=1)
    for result in (
        run("index", recordings, "--out", tmp_path / "my.index", "--model", other, "-q"),
        run("salm-retrieve", QUERY, "--index", tmp_path / "my.index", "--model", other),
    ):
        assert_mistake(result, "my.index", name)
        assert result.stderr.count("salm-tiny:") >= 2  # both names
    with pytest.raises(CheckpointError, match=f"made with model '{name}'.*--model"):
        search_index(tmp_path / "my.index", QUERY)
    with Index.open(tmp_path / "my.index") as index:
        index.verify()
        assert len(index) == 5


EAGER = """
import salm.cli.indexing as indexing
from salm.cli.app import main
indexing.COMMIT_S, indexing.COMMIT_SHARE = 0.3, 1.0
main()
"""
"""`salm` with frequent commits."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_run_keeps_what_is_done(
    recordings: Path, tiny: Path, tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    folder, index_path, count = tmp_path / "many", tmp_path / "my.index", 100
    folder.mkdir()
    for copy in range(count):
        os.link(recordings / "a.flac", folder / f"{copy:04d}.flac")
    arguments = ["index", str(folder), "--out", str(index_path), "--model", str(tiny), "-q"]
    process = subprocess.Popen(
        [sys.executable, "-c", EAGER, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    committed, deadline = 0, time.monotonic() + 120
    while not committed and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if (index_path / "index.json").exists():
            with Index.open(index_path) as index:
                committed = len(index)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, stderr
        assert stderr.startswith("error: interrupted")
        assert "same command again" in stderr
        assert stderr.count("\n") == 1
    with Index.open(index_path) as index:
        index.verify()
        done = len(index)
    assert 0 < committed <= done < count
    report = update_index(folder, index_path, model=str(tiny))
    assert (len(report.unchanged), len(report.added)) == (done, count - done)
    with Index.open(index_path) as index:
        index.verify()
        assert len(index) == count


def test_an_interruption_by_the_caller_commits(recordings: Path, tiny: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_index(recordings, tmp_path / "my.index", model=str(tiny), progress=stop)
    report = update_index(recordings, tmp_path / "my.index", model=str(tiny))
    assert (len(report.unchanged), len(report.added)) == (2, 2)


def test_bfloat16_gives_nearly_the_same_windows(run: Run, recordings: Path, tiny: Path, tmp_path: Path) -> None:
    exact, rounded = tmp_path / "exact.index", tmp_path / "rounded.index"
    for index, precision in ((exact, "float32"), (rounded, "bfloat16")):
        made = run("index", recordings, "--out", index, "--model", tiny, "--precision", precision)
        assert made.code == 0, made
    first, second = (search_index(index, QUERY, 5, str(tiny)) for index in (exact, rounded))
    places = [{(hit.path, hit.start_s): hit.score for hit in hits} for hits in (first, second)]
    assert places[0].keys() == places[1].keys()
    assert places[0] != places[1]
    assert all(abs(places[0][place] - places[1][place]) < 0.02 for place in places[0])
    assert_mistake(run("index", recordings, "--out", exact, "--model", tiny, "--precision", "int4"), "int4")
