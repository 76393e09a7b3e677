"""SIGKILL at random moments of add, replace, remove and compact: what the index holds afterwards.

python benchmarks/index_crashes.py --kills 200 --json benchmarks/results/index_crashes.json     # some minutes

A writer process commits without end; what it commits depends on the generation alone (`tests/index/crash_writer.py`),
so whoever opens the index afterwards knows what it must hold. Each kind of commit gets the same number of kills: the
writer says what it begins, and is killed at a random moment of about that commit's length; every third time when the
new `index.json` lies ready, or up to some milliseconds later, which is around the switch of the generations.

After each kill the index is opened, compared with the committed state of its generation vector by vector, and verified;
the next writer goes on from there, and the last one finishes. Where a kill fell is told by the files that it left. JSON
goes to stdout or --json, progress to stderr. The exit code is 1 if any of it fails.
"""

import argparse
import os
import random
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import salm_index
from output import write_json
from salm_index import Index

WRITER = Path(__file__).parents[1] / "tests" / "index" / "crash_writer.py"
KINDS = ("add", "replace", "remove", "compact")
FIRST_COMMITS = 9
AT_SWITCH_EVERY = 3
AROUND_SWITCH_S = 0.004
SWITCH_TIMEOUT_S = 5.0
LENGTHS_KEPT = 9
crash_writer = SimpleNamespace(**runpy.run_path(str(WRITER)))


class Writer:
    """A process that has opened the index and commits."""

    def __init__(self, index: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(salm_index.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(WRITER), str(index), "tell"], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.next_line() == "ready", "the next writer could not open the index"

    def next_line(self) -> str:
        """What it says next; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        assert self.process.poll() is None, "the writer failed by itself"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Lengths:
    """How long commits of each kind take, seen from outside."""

    def __init__(self) -> None:
        self._seen_s: dict[str, list[float]] = defaultdict(list)

    def add(self, kind: str, seconds: float) -> None:
        self._seen_s[kind] = [*self._seen_s[kind], seconds][-LENGTHS_KEPT:]

    def typical_s(self, kind: str) -> float:
        return statistics.median(self._seen_s[kind] or [0.05])


def wait_for(writer: Writer, kind: str, lengths: Lengths) -> None:
    """Return when the writer begins a commit of this kind."""
    current, began_s = writer.next_line(), time.perf_counter()
    while current != kind:
        assert current in KINDS, "the writer failed by itself"
        following, now_s = writer.next_line(), time.perf_counter()
        lengths.add(current, now_s - began_s)
        current, began_s = following, now_s


def wait_for_switch(path: Path) -> None:
    """Return when a new `index.json` lies ready, without sleeping in between."""
    temporary = str(path / "index.json.tmp")
    deadline_s = time.perf_counter() + SWITCH_TIMEOUT_S
    while not os.path.exists(temporary) and time.perf_counter() < deadline_s:
        pass


def moment(index: Index) -> tuple[str, str]:
    """Which commit a kill fell into, and where in it, by the files that it left."""
    needed = (index.path / "index.json").read_text(encoding="utf-8")
    left = [path.name for path in index.path.iterdir() if path.name not in ("index.json", "writer.lock")]
    left = [name for name in left if name not in needed]
    coming = _kind_of(index.generation + 1)
    if "index.json.tmp" in left:
        return coming, "new index.json written, not yet in place"
    if any(f"-{index.generation + 1:08d}" in name for name in left):
        return coming, "new files half written"
    if left:
        return _kind_of(index.generation), "switched, old files not yet deleted"
    return "", "no file half written or left over"


def _kind_of(generation: int) -> str:
    return str(crash_writer.step(crash_writer.state_after(generation - 1), generation)[0])


def run(path: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill `num_kills` writers; what was found."""
    moments, lengths = random.Random(seed), Lengths()
    started_s = time.perf_counter()
    aimed: Counter[str] = Counter()
    fell: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    # Inverted lists, so that compacting always writes all files.
    with Index.create(path, crash_writer.DIMENSION, model="crash:0", kind="ivf") as index:
        for _ in range(FIRST_COMMITS):
            crash_writer.commit_next(index)
    for number in range(num_kills):
        kind = KINDS[number % len(KINDS)]
        writer = Writer(path)
        wait_for(writer, kind, lengths)
        if number // len(KINDS) % AT_SWITCH_EVERY == AT_SWITCH_EVERY - 1:
            wait_for_switch(path)
            time.sleep(moments.uniform(0, AROUND_SWITCH_S))
        else:
            time.sleep(moments.uniform(0, lengths.typical_s(kind)))
        writer.kill()
        aimed[kind] += 1
        with Index.open(path) as index:
            crash_writer.check_is_committed_state(index)
            index.verify()
            found, where = moment(index)
            fell[found or kind][where] += 1
            print(f"\r{number + 1}/{num_kills} kills, generation {index.generation}", end="", file=sys.stderr)
    print(file=sys.stderr)
    with Index.open(path) as index:
        generation = index.generation
        crash_writer.commit_next(index)
        crash_writer.check_is_committed_state(index)
        index.verify()
        assert moment(index) == ("", "no file half written or left over"), "the next commit did not sweep up"
        return {
            "kills": num_kills,
            "opened_and_verified": num_kills,
            "aimed_at": dict(aimed),
            "fell_into": {kind: dict(sorted(counts.items())) for kind, counts in fell.items()},
            "generations": generation,
            "windows": len(index),
            "seconds": round(time.perf_counter() - started_s, 1),
            "seed": seed,
        }


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many writers are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the index is made [default: a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of to stdout")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        document = run(Path(folder) / "killed.index", arguments.kills, arguments.seed)
    write_json(document, arguments.json)


if __name__ == "__main__":
    main()
