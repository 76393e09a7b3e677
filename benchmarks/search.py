"""Recall and latency of `salm_index` beside plain FAISS, milvus-lite and numpy, with and without filters, in one run.

python benchmarks/search.py --json benchmarks/results/search.json    # 10,000 and 100,000; --million adds 1,000,000

The vectors are synthetic: 512 numbers, unit norm, clustered around 1,000 centres; or those of an archive (--embeddings
with the vectors.npy of `salm export`), of which the last are the queries; or the frozen test scenes as salm-small
embeds them, each also moved to the other seven directions, and sentences about them as queries:

python benchmarks/search.py --scenes ../shared/data --json benchmarks/results/search_real.json

Every window has an azimuth, drawn evenly, and the filters are sectors of it. Each index is built in a process of its
own, and opened and searched in another, with every filter. Of both the peak memory is measured as Linux counts it:
`peak_memory_bytes` is the largest resident set (VmHWM), in which pages of mapped files count while they are in memory,
whoever else uses them; `peak_private_bytes` is the largest part of it that is the process's own (RssAnon, read every
50 ms). JSON goes to stdout, a table to stderr.
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from output import write_json
from peak_memory import PeakMemory
from salm_index import Index, MilvusIndex
from search_vectors import clustered, exported, real

DIMENSION = 512
K = 10
BATCH_WINDOWS = 8192
SECTORS_DEG = {"none": None, "180 deg": (-90.0, 90.0), "45 deg": (22.5, 67.5), "4 deg": (43.0, 47.0)}
COLUMNS = ("windows", "filter", "engine", "recall@10", "median ms", "p95 ms")

Search = Callable[[np.ndarray], list[int]]


def make_index(engine: str, folder: Path) -> Index | MilvusIndex:
    """An empty index of an engine such as "salm flat" or "milvus-lite ivf"."""
    kind = engine.split()[1]
    if engine.startswith("milvus"):
        folder.mkdir(parents=True)
        return MilvusIndex.create(str(folder / "store.db"), DIMENSION, model="synthetic:0", kind=kind)
    return Index.create(folder, DIMENSION, model="synthetic:0", kind=kind)


def open_index(engine: str, folder: Path) -> Index | MilvusIndex:
    return MilvusIndex.open(str(folder / "store.db")) if engine.startswith("milvus") else Index.open(folder)


def build(engine: str, folder: Path, vectors_path: Path, azimuths_deg: np.ndarray) -> dict[str, Any]:
    """Fill an index from a stream of batches; what that took. Runs in a process of its own."""
    memory = PeakMemory()
    started_s = time.perf_counter()
    with make_index(engine, folder) as index:
        for start, batch in batches_of(vectors_path):
            rows = [
                {"path": f"{i // 8}.wav", "start_s": 5.0 * (i % 8), "end_s": 5.0 * (i % 8) + 10, "n": i}
                | {"azimuth_deg": float(azimuths_deg[i])}
                for i in range(start, start + len(batch))
            ]
            index.add(batch, rows)
        index.compact()
        stats = index.stats()
    return {
        "kind": stats.kind,
        "search": stats.search.replace(f"{folder.parent}{os.sep}", ""),
        "build_s": time.perf_counter() - started_s,
        "num_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        **memory.measured("build_"),
    }


def batches_of(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """The vectors of an npy file, a batch at a time with its first place; read, so that they leave nothing mapped."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (count, dimension), _, dtype = np.lib.format.read_array_header_1_0(file)
        for start in range(0, count, BATCH_WINDOWS):
            size = min(BATCH_WINDOWS, count - start)
            yield start, np.fromfile(file, dtype, size * dimension).reshape(size, dimension)


def open_and_search(engine: str, folder: Path, queries: np.ndarray) -> dict[str, Any]:
    """What opening and the first search take in a new process (imports aside), and the peak memory of all filters."""
    import faiss  # noqa: F401

    if engine.startswith("milvus"):
        import pymilvus  # noqa: F401
    memory = PeakMemory()
    started_s = time.perf_counter()
    index = open_index(engine, folder)
    opened_s = time.perf_counter()
    index.search(queries[0], K)
    first_s = time.perf_counter() - opened_s
    for sector in SECTORS_DEG.values():
        for query in queries[:5]:
            index.search(query, K, where=None if sector is None else {"azimuth_deg": sector})
    index.close()
    return {"open_s": opened_s - started_s, "first_search_s": first_s, **memory.measured("search_")}


def in_new_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


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


def index_search(index: Index | MilvusIndex, where: dict[str, Any] | None) -> Search:
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


def compare(vectors: np.ndarray, queries: np.ndarray, engines: list[str], folder: Path, seed: int) -> dict[str, Any]:
    """All engines and filters at one size."""
    num_windows = len(vectors)
    azimuths_deg = np.random.default_rng([seed, 1]).uniform(-180, 180, num_windows)
    folder.mkdir()
    vectors_path = folder / "vectors.npy"
    np.save(vectors_path, np.ascontiguousarray(vectors))
    builds: dict[str, dict[str, Any]] = {}
    for engine in engines:
        print(f"{num_windows:,} windows: building {engine}", file=sys.stderr)
        place = folder / engine.replace(" ", "-")
        builds[engine] = in_new_process(build, engine, place, vectors_path, azimuths_deg)
        builds[engine] |= in_new_process(open_and_search, engine, place, queries)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    indexes = {engine: open_index(engine, folder / engine.replace(" ", "-")) for engine in engines}
    rows = []
    for name, sector in SECTORS_DEG.items():
        mask = None if sector is None else (azimuths_deg >= sector[0]) & (azimuths_deg <= sector[1])
        where = None if sector is None else {"azimuth_deg": sector}
        searches = {
            "numpy": numpy_search(vectors, mask),
            "faiss flat": faiss_search(flat, mask),
            **{engine: index_search(index, where) for engine, index in indexes.items()},
        }
        truth = [searches["numpy"](query) for query in queries]
        for engine, search in searches.items():
            # numpy and milvus-lite take long where the others do not: fewer queries show as much.
            count = len(queries) if engine.startswith(("faiss", "salm")) else max(1, len(queries) // 5)
            result = measure(search, queries[:count], truth[:count])
            rows.append({"windows": num_windows, "filter": name, "engine": engine, **result})
    for index in indexes.values():
        index.close()
    shutil.rmtree(folder)
    return {"builds": builds, "rows": rows, "exact_overhead": exact_overhead(rows)}


def exact_overhead(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What an exact search of salm_index takes beyond FAISS's, without filter: 0.2 is 20 % more."""
    medians_ms = {row["engine"]: row["median ms"] for row in rows if row["filter"] == "none"}
    return {
        "faiss flat median ms": medians_ms["faiss flat"],
        "salm flat median ms": medians_ms["salm flat"],
        "overhead": medians_ms["salm flat"] / medians_ms["faiss flat"] - 1,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The results on stderr, beside the JSON on stdout."""
    cells = [
        [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    for line in (COLUMNS, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=sys.stderr)


def print_builds(result: dict[str, Any]) -> None:
    """What building and opening took, on stderr."""
    for engine, built in result["builds"].items():
        print(
            f"{engine}: built in {built['build_s']:.1f} s with {gigabytes(built, 'build_')}, "
            f"{built['num_bytes'] / 1e6:.0f} MB on disk; opened in {built['open_s']:.3f} s, first search "
            f"{built['first_search_s']:.3f} s, all filters with {gigabytes(built, 'search_')}; {built['search']}",
            file=sys.stderr,
        )
    overhead = result["exact_overhead"]
    print(
        f"exact search, no filter: FAISS {overhead['faiss flat median ms']:.2f} ms, salm flat "
        f"{overhead['salm flat median ms']:.2f} ms ({overhead['overhead']:+.0%})",
        file=sys.stderr,
    )


def gigabytes(built: dict[str, Any], prefix: str) -> str:
    """Peak memory in words."""
    private = built[f"{prefix}peak_private_bytes"]
    own = "" if private is None else f" ({private / 1e9:.2f} GB without mapped files)"
    return f"{built[f'{prefix}peak_memory_bytes'] / 1e9:.2f} GB{own}"


def main() -> None:
    """Print one document for all sizes, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of windows [default: 10,000 and 100,000, or all]")
    parser.add_argument("--million", action="store_true", help="1,000,000 windows as well (about 6 GB of memory)")
    parser.add_argument("--queries", type=int, default=100, help="queries per engine and filter")
    parser.add_argument("--embeddings", type=Path, help="vectors.npy of `salm export`, instead of synthetic ones")
    parser.add_argument("--scenes", type=Path, help="folder with sounds/test: the frozen scenes, and sentences")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for these scenes")
    parser.add_argument("--model", default="salm-small", help="what embeds them")
    parser.add_argument("--milvus-limit", type=int, default=100_000, help="largest size that milvus-lite is given")
    parser.add_argument("--folder", type=Path, help="where the indexes are made [default: a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of to stdout")
    arguments = parser.parse_args()
    has_milvus = find_spec("pymilvus") is not None and find_spec("milvus_lite") is not None
    results = []
    is_synthetic = arguments.embeddings is None and arguments.scenes is None
    sizes = arguments.sizes or ([10_000, 100_000] if is_synthetic else [sys.maxsize])
    for size in [*sizes, *([1_000_000] if arguments.million else [])]:
        if arguments.scenes is not None:
            vectors, queries, origin = real(arguments.scenes, arguments.cache, arguments.model, arguments.queries)
            vectors = vectors[:size]
        elif arguments.embeddings is not None:
            vectors, queries, origin = exported(arguments.embeddings, size, arguments.queries)
        else:
            vectors, queries, origin = clustered(size, arguments.queries)
        engines = ["salm flat", "salm ivf"]
        engines += ["milvus-lite flat", "milvus-lite ivf"] * (has_milvus and len(vectors) <= arguments.milvus_limit)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results.append(compare(vectors, queries, engines, Path(folder) / "indexes", len(vectors)))
        print_builds(results[-1])
    print_table([row for result in results for row in result["rows"]])
    machine = {"faiss_threads": faiss.omp_get_max_threads(), "cpu_cores": os.cpu_count(), "load": os.getloadavg()}
    versions = {"faiss": faiss.__version__, "numpy": np.__version__, "python": platform.python_version()}
    for package in ("pymilvus", "milvus-lite"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    document = {"results": results, "vectors": origin, "machine": machine, "versions": versions}
    write_json(document, arguments.json)


if __name__ == "__main__":
    main()
