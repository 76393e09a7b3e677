"""Readers ahead of the model: order, bounded memory, batches across recordings, errors, and how it ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from salm_index import Index

import salm
from salm.cli import encoding as encoding_module
from salm.cli import reading
from salm.cli import unfinished as unfinished_module
from salm.cli.encoding import encode_jobs
from salm.cli.index_progress import Done, Pace, Tracker, index_progress
from salm.cli.indexing import update_index
from salm.cli.jobs import Encoding, Job
from salm.cli.reading import End, Piece, Start, read_ahead
from salm.cli.unfinished import Unfinished
from salm.errors import SalmError
from tests.cli.commands import RATE, write_recording


@pytest.fixture(scope="module")
def embedder(tiny: Path) -> "salm.SALM":
    return salm.load(tiny)


@pytest.fixture
def jobs(recordings: Path, bad_files: Path) -> list[Job]:
    """Good recordings and bad ones, the long one in their midst."""
    files = ["a.flac", "b.WAV", "long.wav", "deep/c.ogg"]
    good = [Job(str(recordings / name), {"label": name}, None) for name in files]
    bad = [Job(str(bad_files / name), {}, None) for name in ("empty.wav", "nan.wav", "cut.wav", "dangling.wav")]
    return [good[0], bad[0], good[1], bad[1], good[2], bad[2], bad[3], good[3]]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader-")]


def test_outcomes_come_in_order_and_are_those_of_each_recording_alone(embedder: "salm.SALM", jobs: list[Job]) -> None:
    outcomes = list(encode_jobs(embedder, Encoding(batch_size=3), jobs))
    assert [outcome.path for outcome in outcomes] == [job.path for job in jobs]
    assert sum(outcome.error is not None for outcome in outcomes) == 4
    for outcome, job in zip(outcomes, jobs, strict=True):
        if outcome.error is not None:
            assert Path(job.path).name in outcome.error
            continue
        assert outcome.rows is not None and outcome.vectors is not None
        alone = list(embedder.encode_windows(job.path))
        # Other neighbours in a batch: see the embedder's bound.
        np.testing.assert_allclose(outcome.vectors, [window.joint for window in alone], atol=1e-6)
        assert [(row["start_s"], row["end_s"]) for row in outcome.rows] == [(w.start_s, w.end_s) for w in alone]
        np.testing.assert_allclose(
            [(row["azimuth_deg"], row["elevation_deg"]) for row in outcome.rows],
            [(window.azimuth_deg, window.elevation_deg) for window in alone],
            atol=1e-3,
        )
        assert {row["label"] for row in outcome.rows} == {job.metadata["label"]}


def test_short_recordings_share_batches(
    embedder: "salm.SALM", recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_recording(tmp_path / "short" / f"{n}.wav", seconds=0.5, seed=n) for n in range(10)]
    sizes: list[int] = []
    encode = encoding_module._encode

    def counted(embedder: object, encoding: object, batch: list[object], on_windows: object) -> None:
        sizes.append(len(batch))
        encode(embedder, encoding, batch, on_windows)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding_module, "_encode", counted)
    outcomes = list(encode_jobs(embedder, Encoding(batch_size=4), [Job(str(path), {}, None) for path in paths]))
    assert sizes == [4, 4, 2]
    assert [outcome.path for outcome in outcomes] == list(map(str, paths))


def test_readers_run_ahead_but_not_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FILES_AHEAD", 3)
    long = write_recording(tmp_path / "long.wav", seconds=120.0)
    others = [write_recording(tmp_path / f"{number}.wav", seconds=1.0, seed=number) for number in range(8)]
    begun: list[str] = []
    num_windows = 0
    stream = reading.stream_windows

    def watched(path: Path, **cut: object) -> Iterator[object]:
        nonlocal num_windows
        begun.append(Path(path).name)
        for window in stream(path, **cut):  # type: ignore[arg-type]
            num_windows += 1
            yield window

    monkeypatch.setattr(reading, "stream_windows", watched)
    jobs = [Job(str(path), {}, None) for path in (long, *others)]
    with closing(read_ahead(jobs, Encoding())) as items:
        assert isinstance(next(items)[1], Start)
        job, item = next(items)
        assert (job.path, isinstance(item, Piece)) == (str(long), True)
        # Nobody takes any more: the readers fill their queues, the one of the long recording too, and wait.
        expected = 1 + reading.WINDOWS_AHEAD + 1 + 2
        deadline_s = time.monotonic() + 10
        while num_windows < expected and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.3)
        assert sorted(begun) == ["0.wav", "1.wav", "long.wav"]
        assert num_windows == expected
        assert len(reader_threads()) == reading.NUM_READERS
        rest = list(items)
    assert [job.path for job, item in rest if isinstance(item, End)] == [job.path for job in jobs]
    assert num_windows == 23 + len(others)
    assert reader_threads() == []


def test_windows_that_wait_do_not_hold_the_file(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "long.wav", seconds=60.0)
    pieces = [item for item in reading.read(Job(str(path), {}, None), Encoding()) if isinstance(item, Piece)]
    assert len(pieces) == 11
    assert all(piece.window.samples.base is None for piece in pieces)
    assert [piece.share for piece in pieces] == sorted(piece.share for piece in pieces)
    assert pieces[-1].share == pytest.approx(1.0)
    assert pieces[0].window.samples.shape == (4, 10 * RATE)


def test_stopping_early_ends_the_readers(embedder: "salm.SALM", tmp_path: Path) -> None:
    paths = [write_recording(tmp_path / f"{number}.wav", seconds=30.0, seed=number) for number in range(4)]
    outcomes = encode_jobs(embedder, Encoding(batch_size=2), [Job(str(path), {}, None) for path in paths])
    assert next(outcomes).path == str(paths[0])
    assert reader_threads()
    outcomes.close()
    assert reader_threads() == []


def test_an_error_of_the_program_in_a_reader_is_raised(
    embedder: "salm.SALM", jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "stream_windows", fail)
    with pytest.raises(ZeroDivisionError):
        list(encode_jobs(embedder, Encoding(), jobs))
    assert reader_threads() == []


def test_an_error_of_the_model_commits_what_is_done(
    recordings: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        failing_from(3, patched)
        with pytest.raises(SalmError, match="out of memory"):
            update_index(recordings, tmp_path / "my.index", model=str(tiny), batch_size=1)
    report = update_index(recordings, tmp_path / "my.index", model=str(tiny))
    assert (len(report.unchanged), len(report.added)) == (2, 2)


def failing_from(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model fail at a batch, counted from 1."""
    encode, calls = encoding_module._encode, 0

    def fail_later(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == batch:
            raise SalmError("out of memory")
        encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding_module, "_encode", fail_later)


def test_a_long_recording_goes_on_where_it_was_interrupted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished_module, "MIN_WINDOWS", 4)
    source, index = tmp_path / "in", tmp_path / "my.index"
    write_recording(source / "long.wav", seconds=59.0)
    with monkeypatch.context() as patched:
        failing_from(4, patched)
        with pytest.raises(SalmError, match="out of memory"):
            update_index(source, index, model=str(tiny), batch_size=2)
    assert len(list(index.glob("unfinished-*"))) == 1
    assert len(Index.open(index)) == 0
    told: list[Done] = []
    update_index(source, index, model=str(tiny), batch_size=2, on_done=told.append)
    assert told[-1].windows == 11 - 6
    assert list(index.glob("unfinished-*")) == []
    update_index(source, tmp_path / "other.index", model=str(tiny), batch_size=2)
    with Index.open(index) as resumed, Index.open(tmp_path / "other.index") as whole:
        resumed.export(tmp_path / "resumed")
        whole.export(tmp_path / "whole")
    vectors = [np.load(tmp_path / name / "vectors.npy") for name in ("resumed", "whole")]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    rows = [parquet.read_table(tmp_path / name / "rows.parquet").to_pylist() for name in ("resumed", "whole")]
    for one, other in zip(*rows, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_long_recording_is_kept_now_and_then(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed can keep nothing at its end."""
    kept: list[int] = []
    monkeypatch.setattr(unfinished_module, "SAVE_S", 0.0)
    monkeypatch.setattr(Unfinished, "save", lambda _, __, begun: kept.append(len(begun.rows)))
    write_recording(tmp_path / "in" / "long.wav", seconds=59.0)
    update_index(tmp_path / "in", tmp_path / "my.index", model=str(tiny), batch_size=2)
    assert kept == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("fault", ["changed", "gone", "damaged"])
def test_windows_of_another_recording_are_not_taken_up(
    fault: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished_module, "MIN_WINDOWS", 4)
    source, index = tmp_path / "in", tmp_path / "my.index"
    path = write_recording(source / "long.wav", seconds=59.0)
    with monkeypatch.context() as patched:
        failing_from(4, patched)
        with pytest.raises(SalmError, match="out of memory"):
            update_index(source, index, model=str(tiny), batch_size=2)
    kept = next(index.glob("unfinished-*"))
    half_written = kept.with_suffix(".tmp")
    half_written.touch()
    if fault == "changed":
        write_recording(path, seconds=59.0, seed=1)
    elif fault == "gone":
        path.rename(source / "renamed.wav")
    else:
        kept.write_bytes(kept.read_bytes()[:-100])
    told: list[Done] = []
    update_index(source, index, model=str(tiny), batch_size=2, on_done=told.append)
    assert told[-1].windows == 11
    assert not kept.exists()
    assert not half_written.exists()


def test_progress_grows_within_a_long_recording(tiny: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "in" / "a.wav", seconds=1.0)
    write_recording(tmp_path / "in" / "long.wav", seconds=59.0)
    told: list[Done] = []
    update_index(tmp_path / "in", tmp_path / "my.index", model=str(tiny), batch_size=2, on_done=told.append)
    shares = [done.share for done in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert sum(0.1 < share < 0.9 for share in shares) >= 5
    assert (told[-1].recordings, told[-1].num_recordings, told[-1].windows) == (2, 2, 12)


def test_rate_and_time_left() -> None:
    now_s = 100.0
    pace = Pace(lambda: now_s)
    assert pace.describe(Done(0, 50, 0, 0.0)) == "0/50 recordings"
    assert pace.describe(Done(0, 50, 8, 0.1)) == "0/50 recordings"
    now_s = 110.0
    assert pace.describe(Done(10, 50, 48, 0.3)) == "10/50 recordings, 4.0 windows/s, 0:00:35 left"
    now_s = 100.0 + 7200.0
    assert pace.describe(Done(20, 50, 7208, 0.4)) == "20/50 recordings, 1.0 windows/s, 4:00:00 left"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with index_progress(quiet=False) as on_done:
        tracker = Tracker(["gone.wav"], None, on_done)
        tracker.on_windows("gone.wav", 1, 0.5)
        tracker.on_windows("gone.wav", 1, 1.0)
        tracker.on_recording("gone.wav")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:30] for line in lines] == ["indexing: 0/1 recordings", "indexing: 1/1 recordings, "[:30]] or len(
        lines
    ) == 2
    assert lines[-1].startswith("indexing: 1/1 recordings")
    with index_progress(quiet=True) as nothing:
        assert nothing is None
