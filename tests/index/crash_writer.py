"""A writer that never stops: `python crash_writer.py INDEX`. What it commits depends on the generation alone."""

import sys
from typing import Any

import numpy as np
from salm_index import Index

DIMENSION = 64
FIRST_WINDOWS = 2000


def vectors_of(path: str, version: int, num_windows: int) -> np.ndarray:
    return np.random.default_rng([int(path[1:-4]), version]).standard_normal((num_windows, DIMENSION))


def rows_of(path: str, version: int, num_windows: int) -> list[dict[str, Any]]:
    return [
        {"path": path, "start_s": 5.0 * i, "end_s": 5.0 * i + 10, "content_hash": str(version), "version": version}
        for i in range(num_windows)
    ]


def step(state: dict[str, tuple[int, int]], generation: int) -> tuple[str, str, int]:
    """The commit that makes `generation`: what is done, to which path, with how many windows. Updates `state`."""
    if generation == 1:
        kind, path, num_windows = "add", "f1.wav", FIRST_WINDOWS
    elif generation % 5 == 4:
        kind, path, num_windows = "remove", max(state, key=lambda path: state[path][0]), 0
    elif generation % 3 == 2:
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
    vectors, rows = vectors_of(path, generation, num_windows), rows_of(path, generation, num_windows)
    if kind == "add":
        index.add(vectors, rows)
    elif kind == "remove":
        index.remove([path])
    else:
        index.replace([path], vectors, rows)


if __name__ == "__main__":
    with Index.open(sys.argv[1]) as index:
        print("ready", flush=True)
        while True:
            commit_next(index)
