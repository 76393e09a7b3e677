"""SIGKILL at random moments of add, replace, remove and compact: what the index holds afterwards.

python benchmarks/index_crashes.py --kills 200 > index_crashes.json     # some minutes

A writer process commits without end; what it commits depends on the generation alone (`tests/index/crash_writer.py`),
so whoever opens the index afterwards knows what it must hold. After each kill the index is opened, compared with the
committed state of its generation vector by vector, and verified; the next writer goes on from there, and the last one
finishes. JSON goes to stdout, progress to stderr. The exit code is 1 if any of it fails.
"""

import argparse
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import salm_index
from salm_index import Index

WRITER = Path(__file__).parents[1] / "tests" / "index" / "crash_writer.py"
FIRST_COMMITS = 9
crash_writer = SimpleNamespace(**runpy.run_path(str(WRITER)))


def start_writer(index: Path) -> subprocess.Popen[str]:
    """A writer that has opened the index and begins to commit."""
    environment = {**os.environ, "PYTHONPATH": str(Path(salm_index.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(index)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "the next writer could not open the index"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def moment(index: Index) -> str:
    """Where in a commit the kill fell, by the files that it left."""
    needed = (index.path / "index.json").read_text(encoding="utf-8")
    left = [path.name for path in index.path.iterdir() if path.name not in ("index.json", "writer.lock")]
    left = [name for name in left if name not in needed]
    if any(f"-{index.generation + 1:08d}" in name or name == "index.json.tmp" for name in left):
        state = crash_writer.state_after(index.generation)
        return f"in {crash_writer.step(state, index.generation + 1)[0]}, before the switch"
    if left:
        state = crash_writer.state_after(index.generation - 1)
        return f"in {crash_writer.step(state, index.generation)[0]}, after the switch"
    return "no file half written or left over"


def run(path: Path, num_kills: int, max_wait_s: float, seed: int) -> dict[str, Any]:
    """Kill `num_kills` writers, each up to `max_wait_s` after it began; what was found."""
    moments = random.Random(seed)
    started_s = time.perf_counter()
    moments_hit: Counter[str] = Counter()
    with Index.create(path, crash_writer.DIMENSION, model="crash:0") as index:
        for _ in range(FIRST_COMMITS):
            crash_writer.commit_next(index)
    for number in range(1, num_kills + 1):
        writer = start_writer(path)
        time.sleep(moments.uniform(0, max_wait_s))
        assert writer.poll() is None, "the writer failed by itself"
        kill(writer)
        with Index.open(path) as index:
            crash_writer.check_is_committed_state(index)
            index.verify()
            moments_hit[moment(index)] += 1
            print(f"\r{number}/{num_kills} kills, generation {index.generation}", end="", file=sys.stderr)
    print(file=sys.stderr)
    with Index.open(path) as index:
        generation = index.generation
        crash_writer.commit_next(index)
        crash_writer.check_is_committed_state(index)
        index.verify()
        assert not moment(index).startswith("in "), "the next commit did not sweep up"
        return {
            "kills": num_kills,
            "opened_and_verified": num_kills,
            "moments": dict(sorted(moments_hit.items())),
            "generations": generation,
            "windows": len(index),
            "seconds": round(time.perf_counter() - started_s, 1),
            "seed": seed,
            "max_wait_s": max_wait_s,
        }


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many writers are killed")
    parser.add_argument("--max-wait", type=float, default=1.0, help="longest life of a writer in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the index is made [default: a temporary folder]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(run(Path(folder) / "killed.index", arguments.kills, arguments.max_wait, arguments.seed)))


if __name__ == "__main__":
    main()
