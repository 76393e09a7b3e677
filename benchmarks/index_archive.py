"""`salm index` on thousands of small files and on hours in one file: rate and peak memory.

    python benchmarks/index_archive.py --json benchmarks/results/index_archive.json

Makes both archives of noise from one direction (FLAC, 24 kHz) and indexes each in a process of its own; the small files
again when nothing has changed. JSON goes to stdout or --json, progress to stderr. Memory: see
`benchmarks/peak_memory.py`.
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from output import write_json
from peak_memory import PeakMemory

from salm.geometry import encode_plane_wave

RATE_HZ = 24_000
BLOCK_S = 10


def noise(seed: int, seconds: float) -> np.ndarray:
    """FOA samples (n, 4) of noise from a direction of the seed's."""
    rng = np.random.default_rng(seed)
    signal = 0.2 * rng.standard_normal(round(seconds * RATE_HZ)).clip(-3, 3)
    return encode_plane_wave(signal, rng.uniform(-np.pi, np.pi), 0.0).T.astype(np.float32)


def write_small(folder: Path, count: int, seconds: float) -> None:
    """So many files, in folders of a hundred."""
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"{number:06d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(number, seconds), RATE_HZ)


def write_long(folder: Path, hours: float) -> None:
    """One file of so many hours."""
    folder.mkdir(parents=True)
    with soundfile.SoundFile(folder / "long.flac", "w", RATE_HZ, 4) as file:
        for seed in range(round(hours * 3600 / BLOCK_S)):
            file.write(noise(seed, BLOCK_S))


def index(folder: Path, out: Path, model: str) -> dict[str, Any]:
    """Index a folder in this process."""
    import salm
    from salm.cli.indexing import update_index

    salm.load(model)
    memory = PeakMemory()
    loaded_bytes = memory.resident_bytes()
    started_s = time.perf_counter()
    report = update_index(folder, out, model=model)
    seconds = time.perf_counter() - started_s
    return {
        "recordings": report.num_recordings,
        "windows": report.num_windows,
        "failed": len(report.failed),
        "seconds": round(seconds, 1),
        "recordings_per_s": round(report.num_recordings / seconds, 2),
        "windows_per_s": round(report.num_windows / seconds, 2),
        "loaded_memory_bytes": loaded_bytes,
        **memory.measured(""),
    }


def in_new_process(*arguments: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(index, arguments)


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="small files")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each of them")
    parser.add_argument("--hours", type=float, default=2.0, help="length of the long file")
    parser.add_argument("--model", default="salm-small", help="bundled name or checkpoint folder")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of to stdout")
    arguments = parser.parse_args()
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("small", "long"):
            print(f"{name}: making files", file=sys.stderr)
            if name == "small":
                write_small(folder / name, arguments.files, arguments.seconds)
            else:
                write_long(folder / name, arguments.hours)
            print(f"{name}: indexing", file=sys.stderr)
            document[name] = in_new_process(folder / name, folder / f"{name}.index", arguments.model)
            print(f"{name}: {document[name]}", file=sys.stderr)
            if name == "small":
                document["small again"] = in_new_process(folder / name, folder / f"{name}.index", arguments.model)
            shutil.rmtree(folder / name)
    processor = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    document |= {"arguments": vars(arguments) | {"json": None}, "machine": processor, "load": os.getloadavg()}
    write_json(document, arguments.json)


if __name__ == "__main__":
    main()
