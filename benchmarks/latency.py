"""How long the command line makes a user wait: `salm --help`, and a cold `salm-retrieve` on large indexes.

    python benchmarks/latency.py > latency.json          # about 3 minutes on 2 idle cores

Every run is a process of its own; files are in the system's cache after the first, which is not counted. The profile
shows where the time goes: imports (`-X importtime`, the modules' own time summed by top-level package), and the stages
of a query in a fresh process: imports, opening the index, loading the model, encoding the sentence, searching.

The windows' vectors are random (512 numbers, unit norm): neither the model nor the search is faster or slower for it.
JSON goes to stdout, tables to stderr. Bars: 0.5 s for help, 5 s and 3 s for a query on 10,000 and 100,000 windows.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

QUERY = "dog barking from the northwest"
BARS_S = {"help": 0.5, "10000 windows": 5.0, "100000 windows": 3.0}
BATCH_WINDOWS = 8192
STAGES = """
import time; start = time.perf_counter()
import sys, json
from pathlib import Path
from salm.cli.search import load_text_side
from salm_index import Index
seconds = {"imports": time.perf_counter() - start}
def lap(name):
    global start
    seconds[name] = time.perf_counter() - start - sum(seconds.values())
index = Index.open(Path(sys.argv[1])); lap("open index")
model = load_text_side(sys.argv[2]); lap("load model")
vector = model.encode_text(sys.argv[3]); lap("encode sentence")
hits = index.search(vector, 10, model=model.model_id); lap("search")
assert len(hits) == 10
print(json.dumps(seconds))
"""


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of windows")
    parser.add_argument("--model", default="salm-small", help="bundled name or checkpoint folder")
    parser.add_argument("--repetitions", type=int, default=5, help="after one as warm-up")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {f"{size} windows": Path(temporary) / f"{size}.index" for size in arguments.sizes}
        for size, folder in zip(arguments.sizes, folders.values(), strict=True):
            make_index(folder, size, arguments.model)
        commands = {"help": [program("salm"), "--help"]}
        for name, folder in folders.items():
            options = ["--index", str(folder), "--model", arguments.model, "--json", "-q"]
            commands[name] = [program("salm-retrieve"), QUERY, *options]
        waits = time_commands(commands, arguments.repetitions)
        largest = str(list(folders.values())[-1])
        stages = query_stages(largest, arguments.model, arguments.repetitions)
    imports = {name: import_seconds(code) for name, code in IMPORTS.items()}
    for title, table in (("wait", waits), ("stages of a query, s", stages), ("imports, s", imports)):
        print(title, *(f"  {name}: {value}" for name, value in table.items()), sep="\n", file=sys.stderr)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    document = {"wait": waits, "stages_s": stages, "imports_s": imports, "model": arguments.model}
    print(json.dumps(document | {"repetitions": arguments.repetitions, "machine": machine}, indent=2))


IMPORTS = {
    "salm --help": "import sys; sys.argv = ['salm', '--help']; from salm.cli.app import main; main()",
    "salm-retrieve": "import salm.cli.retrieve, salm.cli.search",
}


def make_index(folder: Path, size: int, model: str) -> None:
    """An index of random windows that remembers this model."""
    from salm_index import Index

    import salm

    embedder = salm.load(model)
    generator = np.random.default_rng(size)
    with Index.create(folder, embedder.embedding_width, model=embedder.model_id) as index:
        for start in range(0, size, BATCH_WINDOWS):
            count = min(BATCH_WINDOWS, size - start)
            vectors = generator.standard_normal((count, embedder.embedding_width), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            azimuths_deg = generator.uniform(-180, 180, count)
            rows = [
                {"path": f"{i // 8}.wav", "start_s": 5.0 * (i % 8), "end_s": 5.0 * (i % 8) + 10}
                | {"azimuth_deg": float(azimuth)}
                for i, azimuth in zip(range(start, start + count), azimuths_deg, strict=True)
            ]
            index.add(vectors, rows)
        index.compact()


def program(name: str) -> str:
    """A console script beside the running Python."""
    return str(Path(sys.executable).with_name(name))


def time_commands(commands: dict[str, list[str]], repetitions: int) -> dict[str, dict[str, Any]]:
    """Wall and processor seconds of commands, medians of interleaved runs."""
    walls: dict[str, list[float]] = {name: [] for name in commands}
    processors: dict[str, list[float]] = {name: [] for name in commands}
    for repetition in range(repetitions + 1):
        for name, command in commands.items():
            before, start = os.times(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall, after = time.perf_counter() - start, os.times()
            if repetition:
                walls[name].append(wall)
                used = after.children_user + after.children_system - before.children_user - before.children_system
                processors[name].append(used)
    return {
        name: {
            "wall_s": round(statistics.median(walls[name]), 3),
            "slowest_s": round(max(walls[name]), 3),
            "processor_s": round(statistics.median(processors[name]), 3),
            "bar_s": BARS_S.get(name),
        }
        for name in commands
    }


def query_stages(folder: str, model: str, repetitions: int) -> dict[str, float]:
    """Seconds of each stage of a query, medians over fresh processes."""
    runs = []
    for _ in range(repetitions):
        command = [sys.executable, "-c", STAGES, folder, model, QUERY]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def import_seconds(code: str, shown: int = 12) -> dict[str, float]:
    """Own import time of all modules by top-level package: the largest ones, and the sum of all."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    trace = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr
    own_us: Counter[str] = Counter()
    for line in trace.splitlines():
        match = re.match(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", line)
        if match:
            own_us[match[2].partition(".")[0]] += int(match[1])
    largest = {name: round(time_us / 1e6, 4) for name, time_us in own_us.most_common(shown)}
    return {"all": round(own_us.total() / 1e6, 4)} | largest


if __name__ == "__main__":
    main()
