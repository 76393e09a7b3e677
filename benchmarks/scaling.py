"""How time and memory grow with the number of clips, the length of a recording, and the size of an index.

    python benchmarks/scaling.py --out benchmarks/results     # about 4 minutes on 2 idle cores

- clips: `encode_audio` of that many 10 s FOA arrays.
- length: `encode_windows` of one FLAC file of that many seconds, read as it is encoded.
- index: building an index of that many random windows, and one search of it.

Every point is a process of its own, so that its peak memory is its own; times are medians within it, after a warm-up.
Writes scaling.json and scaling.png into --out, and prints the same JSON on stdout.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ = 24_000
CLIP_S = 10
DIMENSION = 512
BATCH_WINDOWS = 8192
Prepared = tuple[Callable[[], Any], dict[str, Any]]
"""What is timed, and what else there is to say of a point."""
AXES = {"clips": "10 s clips", "length": "length of the recording (s)", "index": "windows in the index"}


def main() -> None:
    """Measure every point, write the JSON and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder, made if need be")
    parser.add_argument("--clips", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--length", type=int, nargs="*", default=[10, 60, 300, 1200], help="seconds")
    parser.add_argument("--index", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="windows")
    parser.add_argument("--model", default="salm-small", help="bundled name or checkpoint folder")
    parser.add_argument("--repetitions", type=int, default=3, help="within each point, after a warm-up")
    parser.add_argument("--point", help=argparse.SUPPRESS)  # a child's own: JSON
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(**json.loads(arguments.point))))
        return
    rows = list(points(arguments))
    processor: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    processor["load_average_at_end"] = os.getloadavg()
    document = {"rows": rows, "model": arguments.model, "repetitions": arguments.repetitions, "machine": processor}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2)
    (arguments.out / "scaling.json").write_text(text + "\n")
    draw(rows, arguments.out / "scaling.png")
    print(text)


def points(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each point, from a process of its own."""
    for what in AXES:
        for value in getattr(arguments, what):
            point = {"what": what, "value": value, "model": arguments.model, "repetitions": arguments.repetitions}
            command = [sys.executable, __file__, "--point", json.dumps(point)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = {"what": what, "value": value} | json.loads(answer)
            print(row, file=sys.stderr)
            yield row


def measure(what: str, value: int, model: str, repetitions: int) -> dict[str, Any]:
    """Seconds and peak memory of one point, and the memory before it (libraries, model, input)."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        prepare = {"clips": prepare_clips, "length": prepare_length, "index": prepare_index}[what]
        run, extra = prepare(value, model, Path(folder), stack)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = status_bytes("VmRSS")
        seconds = []
        for repetition in range(repetitions + 1):
            start = time.perf_counter()
            run()
            if repetition:
                seconds.append(time.perf_counter() - start)
    peak = status_bytes("VmHWM")
    return {"seconds": statistics.median(seconds), "start_mb": before >> 20, "peak_mb": peak >> 20} | extra


def prepare_clips(count: int, model: str, folder: Path, stack: contextlib.ExitStack) -> Prepared:
    """Encoding FOA arrays."""
    import salm

    embedder = salm.load(model)
    generator = np.random.default_rng(0)
    clips = [generator.standard_normal((4, CLIP_S * RATE_HZ), dtype=np.float32) * 0.1 for _ in range(count)]
    return lambda: embedder.encode_audio(clips, sample_rate=RATE_HZ), {}


def prepare_length(length_s: int, model: str, folder: Path, stack: contextlib.ExitStack) -> Prepared:
    """Encoding the windows of one file."""
    import soundfile

    import salm

    generator = np.random.default_rng(0)
    with soundfile.SoundFile(folder / "recording.flac", "w", RATE_HZ, 4) as file:
        for _ in range(0, length_s, CLIP_S):  # in pieces, so that writing it needs no more memory than reading it
            file.write(generator.standard_normal((CLIP_S * RATE_HZ, 4), dtype=np.float32) * 0.1)
    embedder = salm.load(model)

    def run() -> int:
        return sum(1 for _ in embedder.encode_windows(folder / "recording.flac"))

    return run, {}


def prepare_index(count: int, model: str, folder: Path, stack: contextlib.ExitStack) -> Prepared:
    """Searching an index; what building it took is in the second part."""
    from salm_index import Index

    generator = np.random.default_rng(0)
    start = time.perf_counter()
    with Index.create(folder / "salm.index", DIMENSION, model="synthetic:0") as index:
        for first in range(0, count, BATCH_WINDOWS):
            vectors = generator.standard_normal((min(BATCH_WINDOWS, count - first), DIMENSION), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            places = range(first, first + len(vectors))
            index.add(vectors, [{"path": f"{i}.wav", "start_s": 0.0, "end_s": 10.0} for i in places])
        index.compact()
    built_s = time.perf_counter() - start
    size = sum(file.stat().st_size for file in (folder / "salm.index").rglob("*") if file.is_file())
    query = generator.standard_normal(DIMENSION, dtype=np.float32)
    query /= np.linalg.norm(query)
    opened = stack.enter_context(Index.open(folder / "salm.index"))
    return lambda: opened.search(query, 10), {"build_s": built_s, "disk_mb": size >> 20}


def status_bytes(name: str) -> int:
    """A field of /proc/self/status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time above, peak memory below, one column for each kind of growth."""
    from matplotlib.figure import Figure  # not through pyplot: no display is needed

    kinds = [what for what in AXES if any(row["what"] == what for row in rows)]
    figure = Figure(figsize=(4 * len(kinds), 6), layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False)
    for column, what in enumerate(kinds):
        chosen = [row for row in rows if row["what"] == what]
        values = [row["value"] for row in chosen]
        time_axis, memory_axis = axes[:, column]
        time_axis.loglog(
            values, [row["seconds"] for row in chosen], "o-", label="search" if what == "index" else "encode"
        )
        if what == "index":
            time_axis.loglog(values, [row["build_s"] for row in chosen], "s--", label="build")
        time_axis.set(ylabel="seconds", title=AXES[what])
        time_axis.legend()
        memory_axis.semilogx(values, [row["peak_mb"] for row in chosen], "o-", label="peak")
        memory_axis.semilogx(values, [row["start_mb"] for row in chosen], "s--", label="before")
        memory_axis.set(ylabel="memory (MB)", xlabel=AXES[what], ylim=(0, None))
        memory_axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
