"""A commit happens wholly or not at all: killed, failing at each step, beside readers, beside another writer."""

import errno
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import salm_index
from salm_index import Index, IndexAccessError, IndexLockedError, compaction, files, generations
from salm_index.lock import WriterLock
from salm_index.vectors import VectorsWriter

DIMENSION = 16
MODEL = "test-model:1f3c"
WRITER = Path(__file__).with_name("crash_writer.py")
crash_writer = SimpleNamespace(**runpy.run_path(str(WRITER)))
NUM_KILLS = int(os.environ.get("SALM_TEST_KILLS", "20"))
"""Set the variable to 200 to see more moments of a commit."""

MAX_WAIT_S = 0.2


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """A Python process that can import `salm_index`; returns once it has printed a line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(salm_index.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def busy_index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "busy.index", dimension=crash_writer.DIMENSION, model=MODEL)
    for _ in range(9):
        crash_writer.commit_next(index)
    return index


def test_a_killed_writer_leaves_a_committed_state(busy_index: Index) -> None:
    moments = random.Random(5)
    leftovers = 0
    for _ in range(NUM_KILLS):
        process = start_python(str(WRITER), str(busy_index.path))
        time.sleep(moments.uniform(0, MAX_WAIT_S))
        kill(process)
        with Index.open(busy_index.path) as index:
            crash_writer.check_is_committed_state(index)
            index.verify()
            leftovers += all_files(index) != needed_files(index)
    assert leftovers > 0, "no kill fell into a commit: the test shows nothing"
    busy_index.refresh()
    crash_writer.commit_next(busy_index)
    crash_writer.check_is_committed_state(busy_index)
    assert all_files(busy_index) == needed_files(busy_index)


def test_readers_in_four_processes_see_committed_states_only(busy_index: Index) -> None:
    writer = start_python(str(WRITER), str(busy_index.path))
    readers = []
    try:
        readers = [start_python(str(WRITER), str(busy_index.path), "read") for _ in range(4)]
        assert [reader.wait(timeout=600) for reader in readers] == [0] * 4
        assert writer.poll() is None, "the writer failed"
    finally:
        for process in (writer, *readers):
            kill(process)
    crash_writer.check_is_committed_state(busy_index)
    busy_index.refresh()
    crash_writer.check_is_committed_state(busy_index)
    busy_index.verify()


STEPS = ["record", "sync_file", "sync_folder", "delete"]


class Crash(BaseException):
    """The process is gone: nothing after it runs."""


class Tripwire:
    """Counts the steps of a commit, and fails at one of them, before or after it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, after: bool, error: BaseException) -> None:
        self.fail_at, self.after, self.error = fail_at, after, error
        self.log: list[tuple[str, str]] = []
        for name in STEPS:
            monkeypatch.setattr(files, name, self.wrap(name, getattr(files, name)))
        monkeypatch.setattr(generations, "write_segment", self.wrap("write_segment", generations.write_segment))
        monkeypatch.setattr(os, "replace", self.wrap("replace", os.replace))

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            number = len(self.log)
            self.log.append((name, Path(args[1] if name == "replace" else args[0]).name))
            if number == self.fail_at and not self.after:
                raise self.error
            result = function(*args, **kwargs)
            if number == self.fail_at:
                raise self.error
            return result

        return step


NUM_STEPS = 13


def change_something(index: Index, vectors: np.ndarray) -> None:
    rows = [{"path": "clip1.wav", "start_s": 0.0, "end_s": 1.0}, {"path": "new.wav", "start_s": 0.0, "end_s": 1.0}]
    index.replace(["clip1.wav", "clip2.wav", "new.wav"], vectors, rows)


def index_files(index: Index) -> list[str]:
    return [path.name for path in index.path.iterdir() if generations.is_own_file(path.name)]


def needed_files(index: Index) -> list[str]:
    """What is in the folder when nothing is left over."""
    return sorted(["index.json", "writer.lock", *(record.name for record in index._current.header.files)])


def all_files(index: Index) -> list[str]:
    return sorted(path.name for path in index.path.iterdir())


def test_a_commit_syncs_before_it_switches_and_again_before_it_deletes(
    make_index: Any, unit_vectors: Any, monkeypatch: pytest.MonkeyPatch, synced_inodes: list[int]
) -> None:
    index = make_index(5)
    synced_inodes.clear()
    tripwire = Tripwire(monkeypatch, fail_at=-1, after=False, error=Crash())
    change_something(index, unit_vectors(2))
    log = tripwire.log
    assert len(log) == NUM_STEPS
    switch = log.index(("replace", "index.json"))
    for name in ("vectors-00000002.faiss", "rows-00000002.sqlite", "index.json.tmp"):
        assert ("sync_file", name) in log[:switch]
    assert log[switch - 1] == log[switch + 1] == ("sync_folder", "my.index")
    deleted = [number for number, (name, _) in enumerate(log) if name == "delete"]
    assert len(deleted) == 2
    assert min(deleted) > switch + 1
    for path in (index.path, *(index.path / name for name in ("index.json", *index_files(index)))):
        assert path.stat().st_ino in synced_inodes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("crash", [False, True], ids=["error", "crash"])
@pytest.mark.parametrize("fail_at", range(NUM_STEPS))
def test_a_failure_at_any_step_leaves_the_old_or_the_new_state(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any, fail_at: int, crash: bool, after: bool
) -> None:
    index = make_index(5)
    old = contents(index)
    vectors = unit_vectors(2)
    twin = make_index(folder="twin")
    twin.add(index._current.parts[0].segment.vectors.matrix, make_rows(5))
    change_something(twin, vectors)
    new = contents(twin)
    assert old != new

    with pytest.MonkeyPatch.context() as monkeypatch:
        error = Crash() if crash else OSError(errno.ENOSPC, "No space left on device")
        tripwire = Tripwire(monkeypatch, fail_at, after, error)
        if crash:
            monkeypatch.setattr(generations, "_discard", lambda *_: None)
        with pytest.raises(Crash if crash else IndexAccessError, match=None if crash else "No space left.*run again"):
            change_something(index, vectors)
    assert len(tripwire.log) > fail_at
    switched = ("replace", "index.json") in tripwire.log[: fail_at + after]

    with Index.open(index.path) as opened:
        assert contents(opened) == (new if switched else old)
        opened.verify()
    if not crash and not switched:
        # The files of the failed generation do not stay on a full disk.
        assert len(list(index.path.iterdir())) == 4
    # Whoever held the index goes on: the next commit builds on what is on disk.
    index.add(unit_vectors(1), make_rows(1, "later"))
    expected = {("later0.wav", 0.0, 10.0), *(new if switched else old)}
    assert set(contents(index)) == set(contents(Index.open(index.path))) == expected
    index.verify()
    assert len(list(index.path.iterdir())) == 4


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fail_at", range(0, 16, 2))
def test_a_compaction_that_crashed_leaves_the_old_or_the_new_files(
    make_index: Any, unit_vectors: Any, make_rows: Any, contents: Any, fail_at: int, after: bool
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(compaction, "SMALL_WINDOWS", 0)
        index = make_index(40)
        index.add(unit_vectors(9), make_rows(9, "more"))
        index.remove(["clip3.wav", "more1.wav"])
        assert (len(index.stats().segments), index.stats().num_removed) == (2, 2)
        before = contents(index)
        Tripwire(monkeypatch, fail_at, after, Crash())
        monkeypatch.setattr(generations, "_discard", lambda *_: None)
        with pytest.raises(Crash):
            index.compact()
    opened = Index.open(index.path)
    assert contents(opened) == before
    assert opened.generation in (3, 4)
    opened.verify()
    opened.compact()
    assert contents(opened) == before
    assert (len(opened.stats().segments), opened.stats().num_removed) == (1, 0)
    assert all_files(opened) == needed_files(opened)


@pytest.mark.parametrize("fail_at", range(6))
def test_a_creation_that_crashed_can_be_repeated(tmp_path: Path, fail_at: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Tripwire(monkeypatch, fail_at, after=True, error=Crash())
        with pytest.raises(Crash):
            Index.create(tmp_path / "x", dimension=DIMENSION, model=MODEL)
    if not (tmp_path / "x" / "index.json").exists():
        Index.create(tmp_path / "x", dimension=DIMENSION, model=MODEL)
    index = Index.open(tmp_path / "x")
    index.add(np.ones((1, DIMENSION)), [{"path": "a", "start_s": 0, "end_s": 1}])
    index.verify()


def test_a_full_disk_while_vectors_are_written_is_noticed(unit_vectors: Any) -> None:
    # /dev/full accepts an open and refuses every write.
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left"), VectorsWriter(Path("/dev/full"), DIMENSION, 2) as writer:
        writer.write(np.arange(2), unit_vectors(2))


def test_foreign_files_in_the_folder_are_left_alone(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index(2)
    (index.path / "notes.txt").write_text("mine")
    (index.path / "vectors-00000099.faiss").write_text("left by a crash")
    (index.path / "rows-00000099.sqlite-journal").write_text("left by a crash")
    index.add(unit_vectors(1), make_rows(1, "new"))
    names = {path.name for path in index.path.iterdir()}
    assert names == {"notes.txt", "writer.lock", "index.json", "vectors-00000002.faiss", "rows-00000002.sqlite"}


def test_writers_build_on_each_other(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    first = make_index(2)
    second = Index.open(first.path)
    first.add(unit_vectors(1), make_rows(1, "first"))
    second.add(unit_vectors(1), make_rows(1, "second"))
    assert first.remove("second0.wav") == 1
    assert sorted(Index.open(first.path).paths()) == ["clip0.wav", "clip1.wav", "first0.wav"]


def test_writers_at_the_same_time_take_turns(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    path = make_index().path
    batches = [[(unit_vectors(2), make_rows(2, f"{w}-{b}-")) for b in range(8)] for w in range(3)]
    errors: list[BaseException] = []

    def write(own: list[Any]) -> None:
        try:
            index = Index.open(path, lock_timeout_s=30)
            for vectors, rows in own:
                index.add(vectors, rows)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(own,)) for own in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    index = Index.open(path)
    assert (len(index), index.generation) == (48, 24)
    index.verify()


HOLD_LOCK = """
import sys, time
from pathlib import Path
from salm_index.lock import WriterLock
with WriterLock(Path(sys.argv[1]), 0):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_holds_the_lock_and_gets_it_when_that_one_dies(
    make_index: Any, unit_vectors: Any, make_rows: Any
) -> None:
    index = make_index(2)
    process = start_python("-c", HOLD_LOCK, str(index.path))
    try:
        holder = f"writer.lock: process {process.pid} on {socket.gethostname()}.*0.2 s"
        with pytest.raises(IndexLockedError, match=holder):
            index.add(unit_vectors(1), make_rows(1, "new"))
        with pytest.raises(IndexLockedError, match=holder):
            index.remove("clip0.wav")
        assert len(Index.open(index.path).search(np.ones(DIMENSION))) == 2
    finally:
        kill(process)
    index.add(unit_vectors(1), make_rows(1, "new"))
    assert len(index) == 3


def test_the_lock_is_free_after_an_error(make_index: Any, unit_vectors: Any, make_rows: Any) -> None:
    index = make_index(2)
    with pytest.raises(ZeroDivisionError), WriterLock(index.path, 0):
        raise ZeroDivisionError
    index.add(unit_vectors(1), make_rows(1, "new"))
    assert len(index) == 3
