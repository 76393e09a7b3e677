"""Recall and latency of `salm_index` beside plain FAISS and numpy, with and without filters, in one run.

python benchmarks/search.py > search.json            # 10,000 and 100,000 windows; --million adds 1,000,000

The vectors are synthetic: 512 numbers, unit norm, clustered around 1,000 centres. Every window has an azimuth, drawn
evenly, and the filters are sectors of it. JSON goes to stdout, a table to stderr.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from salm_index import Index

DIMENSION = 512
NUM_CENTRES = 1000
SPREAD = 0.8
K = 10
BATCH_WINDOWS = 8192
SECTORS_DEG = {"none": None, "180 deg": (-90.0, 90.0), "45 deg": (22.5, 67.5), "4 deg": (43.0, 47.0)}
COLUMNS = ("windows", "filter", "engine", "recall@10", "median ms", "p95 ms")

Search = Callable[[np.ndarray], list[int]]


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors of shape (count, 512) around the same centres every time."""
    centres = np.random.default_rng(0).standard_normal((NUM_CENTRES, DIMENSION), dtype=np.float32)
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors *= SPREAD
    vectors += centres[rng.integers(0, NUM_CENTRES, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def build(folder: Path, kind: str, vectors: np.ndarray, azimuths_deg: np.ndarray) -> dict[str, Any]:
    """Fill an index from a stream of batches; what that took."""
    started_s = time.perf_counter()
    with Index.create(folder, DIMENSION, model="synthetic:0", kind=kind) as index:
        for start in range(0, len(vectors), BATCH_WINDOWS):
            batch = vectors[start : start + BATCH_WINDOWS]
            rows = [
                {"path": f"{i // 8}.wav", "start_s": 5.0 * (i % 8), "end_s": 5.0 * (i % 8) + 10, "n": i}
                | {"azimuth_deg": float(azimuths_deg[i])}
                for i in range(start, start + len(batch))
            ]
            index.add(batch, rows)
        index.compact()
        stats = index.stats()
    built_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    Index.open(folder).close()
    return {
        "kind": stats.kind,
        "search": stats.search,
        "build_s": built_s,
        "open_s": time.perf_counter() - started_s,
        "num_bytes": stats.num_bytes,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(search: Search, queries: np.ndarray, truth: list[list[int]]) -> dict[str, float]:
    """Recall@10 and times of single queries, each in milliseconds."""
    search(queries[0])
    times_ms, recalls = [], []
    for query, expected in zip(queries, truth, strict=True):
        started_s = time.perf_counter()
        found = search(query)
        times_ms.append((time.perf_counter() - started_s) * 1000)
        recalls.append(len(set(found) & set(expected)) / max(1, len(expected)))
    return {
        "recall@10": float(np.mean(recalls)),
        "median ms": float(np.median(times_ms)),
        "p95 ms": float(np.percentile(times_ms, 95)),
    }


def salm_search(index: Index, where: dict[str, Any] | None) -> Search:
    return lambda query: [hit.metadata["n"] for hit in index.search(query, K, where=where)]


def faiss_search(index: Any, mask: np.ndarray | None) -> Search:
    """Plain FAISS; the selector of a filter is made beforehand and costs nothing here."""
    if mask is None:
        return lambda query: [int(place) for place in index.search(query[None], K)[1][0] if place >= 0]
    bits = np.packbits(mask, bitorder="little")

    def search(query: np.ndarray) -> list[int]:
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        return [int(place) for place in index.search(query[None], K, params=parameters)[1][0] if place >= 0]

    return search


def numpy_search(vectors: np.ndarray, mask: np.ndarray | None) -> Search:
    places = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)

    def search(query: np.ndarray) -> list[int]:
        scores = (vectors if mask is None else vectors[places]) @ query
        count = min(K, len(places))
        best = np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, np.int64)
        return [int(place) for place in places[best[np.argsort(-scores[best])]]]

    return search


def compare(num_windows: int, num_queries: int, folder: Path) -> dict[str, Any]:
    """All engines and filters at one size."""
    rng = np.random.default_rng(num_windows)
    vectors, queries = clustered(rng, num_windows), clustered(rng, num_queries)
    azimuths_deg = rng.uniform(-180, 180, num_windows)
    builds: dict[str, dict[str, Any]] = {}
    for kind in ("flat", "ivf"):
        print(f"{num_windows:,} windows: building {kind}", file=sys.stderr)
        builds[kind] = build(folder / kind, kind, vectors, azimuths_deg)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    indexes = {kind: Index.open(folder / kind) for kind in builds}
    rows = []
    for name, sector in SECTORS_DEG.items():
        mask = None if sector is None else (azimuths_deg >= sector[0]) & (azimuths_deg <= sector[1])
        where = None if sector is None else {"azimuth_deg": sector}
        engines = {
            "numpy": numpy_search(vectors, mask),
            "faiss flat": faiss_search(flat, mask),
            **{f"salm {kind}": salm_search(index, where) for kind, index in indexes.items()},
        }
        truth = [engines["numpy"](query) for query in queries]
        for engine, search in engines.items():
            result = measure(search, queries, truth)
            rows.append({"windows": num_windows, "filter": name, "engine": engine, **result})
    for index in indexes.values():
        index.close()
    shutil.rmtree(folder)
    return {"builds": builds, "rows": rows}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The results on stderr, beside the JSON on stdout."""
    cells = [
        [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    for line in (COLUMNS, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=sys.stderr)


def main() -> None:
    """Print one document for all sizes, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of windows")
    parser.add_argument("--million", action="store_true", help="1,000,000 windows as well (about 6 GB of memory)")
    parser.add_argument("--queries", type=int, default=100, help="queries per engine and filter")
    parser.add_argument("--folder", type=Path, help="where the indexes are made [default: a temporary folder]")
    arguments = parser.parse_args()
    results = []
    for size in [*arguments.sizes, *([1_000_000] if arguments.million else [])]:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results.append(compare(size, arguments.queries, Path(folder) / "indexes"))
    print_table([row for result in results for row in result["rows"]])
    threads = {"faiss_threads": faiss.omp_get_max_threads(), "cpu_cores": os.cpu_count()}
    versions = {"faiss": faiss.__version__, "numpy": np.__version__, "python": platform.python_version()}
    print(json.dumps({"results": results, "machine": threads, "versions": versions}, indent=2))


if __name__ == "__main__":
    main()
