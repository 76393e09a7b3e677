"""Small random indexes, and the numpy search that `salm_index` must agree with."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from salm_index import Index

DIMENSION = 16
MODEL = "test-model:1f3c"

Vectors = NDArray[np.float32]
MakeRows = Callable[..., list[dict[str, Any]]]
MakeIndex = Callable[..., Index]


@pytest.fixture(autouse=True)
def synced_inodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was synced to disk, as inodes. It is only noted: a busy disk would make these tests wait for minutes."""
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file_descriptor: inodes.append(os.fstat(file_descriptor).st_ino))
    return inodes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240)


@pytest.fixture
def unit_vectors(rng: np.random.Generator) -> Callable[[int], Vectors]:
    def make(count: int) -> Vectors:
        vectors = rng.standard_normal((count, DIMENSION)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return make


@pytest.fixture
def make_rows() -> MakeRows:
    """`count` rows, each of a recording of its own; keywords give a field of all rows, or by a function of the row."""

    def make(count: int, name: str = "clip", **fields: Any) -> list[dict[str, Any]]:
        rows = []
        for number in range(count):
            row = {"path": f"{name}{number}.wav", "start_s": 0.0, "end_s": 10.0}
            row |= {key: value(number) if callable(value) else value for key, value in fields.items()}
            rows.append(row)
        return rows

    return make


@pytest.fixture
def make_index(tmp_path: Path, unit_vectors: Callable[[int], Vectors], make_rows: MakeRows) -> MakeIndex:
    """An index with `count` windows named clip0.wav, clip1.wav, ..."""

    def make(count: int = 0, folder: str = "my.index", **fields: Any) -> Index:
        index = Index.create(tmp_path / folder, dimension=DIMENSION, model=MODEL, lock_timeout_s=0.2)
        if count:
            index.add(unit_vectors(count), make_rows(count, **fields))
        return index

    return make


@pytest.fixture
def contents() -> Callable[[Index], dict[tuple[str, float, float], Mapping[str, Any]]]:
    """All that an index holds, as its search shows it: window -> direction, metadata, score."""

    def read(index: Index) -> dict[tuple[str, float, float], Mapping[str, Any]]:
        query = np.linspace(-1, 1, index.dimension)
        hits = index.search(query, k=max(1, len(index)))
        assert len(hits) == len(index)
        return {
            (hit.path, hit.start_s, hit.end_s): {
                "score": hit.score,
                "direction": (hit.azimuth_deg, hit.elevation_deg),
                **hit.metadata,
            }
            for hit in hits
        }

    return read
