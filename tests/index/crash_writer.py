"""A writer that never stops: `python crash_writer.py INDEX`. What it commits depends on the generation alone.

It prints what it is about to do ("add", "replace", "remove", "compact"), a line each, if its second argument is "tell".

`python crash_writer.py INDEX read` is a reader beside it: it exits with 0 once it has checked several generations.
"""

import sys
import time
from typing import Any

import numpy as np
from salm_index import Index

DIMENSION = 64
FIRST_WINDOWS = 2000
NUM_GENERATIONS_READ = 4
READ_TIMEOUT_S = 300.0


def vectors_of(path: str, version: int, num_windows: int) -> np.ndarray:
    return np.random.default_rng([int(path[1:-4]), version]).standard_normal((num_windows, DIMENSION))


def rows_of(path: str, version: int, num_windows: int) -> list[dict[str, Any]]:
    return [
        {"path": path, "start_s": 5.0 * i, "end_s": 5.0 * i + 10, "content_hash": str(version), "version": version}
        for i in range(num_windows)
    ]


def step(state: dict[str, tuple[int, int]], generation: int) -> tuple[str, str, int]:
    """The commit that makes `generation`: what is done, to which path, with how many windows. Updates `state`."""
    if generation % 10 == 0:
        return "compact", "", 0
    if generation == 1:
        kind, path, num_windows = "add", "f1.wav", FIRST_WINDOWS
    elif generation % 5 == 4:
        kind, path, num_windows = "remove", max(state, key=lambda path: state[path][0]), 0
    elif generation % 3 == 2 and generation > 2:
        # After a compaction this is one of the large segment, which it then stays in as removed.
        kind, path, num_windows = "replace", max(state), generation % 7 + 1
    else:
        kind, path, num_windows = "add", f"f{generation}.wav", generation % 4 + 1
    if kind == "remove":
        del state[path]
    else:
        state[path] = (generation, num_windows)
    return kind, path, num_windows


def state_after(generation: int) -> dict[str, tuple[int, int]]:
    """What is committed: path -> version and number of windows."""
    state: dict[str, tuple[int, int]] = {}
    for number in range(1, generation + 1):
        step(state, number)
    return state


def commit_next(index: Index) -> None:
    generation = index.generation + 1
    kind, path, num_windows = step(state_after(index.generation), generation)
    vectors, rows = vectors_of(path, generation, num_windows) if path else None, rows_of(path, generation, num_windows)
    if kind == "add":
        index.add(vectors, rows)
    elif kind == "remove":
        index.remove([path])
    elif kind == "replace":
        index.replace([path], vectors, rows)
    else:
        # Another recall each time, so that there is always something to commit.
        assert index.compact(recall=0.9 + generation % 9 / 100)


def check_is_committed_state(index: Index) -> None:
    """The index holds what the writer's generation holds, vectors included."""
    expected = state_after(index.generation)
    assert index.paths() == {path: str(version) for path, (version, _) in expected.items()}
    hits = index.search(np.ones(DIMENSION), k=10 * FIRST_WINDOWS)
    assert len(hits) == len(index) == sum(num_windows for _, num_windows in expected.values())
    assert {(hit.path, hit.metadata["version"]) for hit in hits} == {
        (p, version) for p, (version, _) in expected.items()
    }
    for path, (version, num_windows) in expected.items():
        vector = vectors_of(path, version, num_windows)[-1]
        (hit,) = index.search(vector, k=1, where={"path": path, "start_s": 5.0 * (num_windows - 1)})
        assert hit.metadata == {"version": version}
        assert abs(hit.score - float(vector @ vector)) <= 1e-6 * float(vector @ vector)


def read(path: str) -> None:
    """Check generation after generation, newly opened and refreshed; one that stays open must stay as it is."""
    deadline_s = time.monotonic() + READ_TIMEOUT_S
    with Index.open(path) as first, Index.open(path) as index:
        seen = {first.generation}
        while len(seen) < NUM_GENERATIONS_READ and time.monotonic() < deadline_s:
            with Index.open(path) as opened:
                check_is_committed_state(opened)
                seen.add(opened.generation)
            index.refresh()
            check_is_committed_state(index)
        check_is_committed_state(first)
    assert len(seen) >= NUM_GENERATIONS_READ, f"saw the generations {sorted(seen)} only"


if __name__ == "__main__":
    if sys.argv[2:] == ["read"]:
        print("ready", flush=True)
        read(sys.argv[1])
    else:
        with Index.open(sys.argv[1]) as index:
            print("ready", flush=True)
            while True:
                if sys.argv[2:] == ["tell"]:
                    print(step(state_after(index.generation), index.generation + 1)[0], flush=True)
                commit_next(index)
