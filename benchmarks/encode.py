"""Clips per second and peak memory of SALM's encoders beside transformers' `ClapModel` and laion-clap, in one run.

    python benchmarks/encode.py > encode.json
    python benchmarks/encode.py --laion-python .cache/laion/bin/python         # laion-clap as well, see peers/laion.py
    python benchmarks/encode.py --device cuda --batch 1 64 --threads 1 --compile

Every encoder gets the same 10 s clips, already decoded: FOA at 24 kHz for SALM's dual encoders, the same W at 48 kHz
for the others. `clap-size` is SALM's semantic branch with the converted weights of the very `ClapModel` beside it (the
audio tower's true size, every weight random). Stages: `all` is samples to embedding, `model` features to embedding.

Each encoder lives in a process of its own (`benchmarks/peers`); the repetitions of all of them interleave, each a row
of calls of a second at least, the first is a warm-up, and the numbers are medians. `cpu_ms_per_clip` is the processors'
own time: on a machine that does other things as well, only it (of one thread) can be compared. JSON goes to stdout, the
tables to stderr.
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
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
ENCODERS = {
    "clap-size": "benchmarks.peers.salm_towers",
    "salm-base": "benchmarks.peers.salm_towers",
    "salm-small": "benchmarks.peers.salm_towers",
    "transformers": "benchmarks.peers.transformers_clap",
    "laion-clap": "benchmarks.peers.laion",
}
SAME_WEIGHTS = ("clap-size", "transformers", "laion-clap")
PEERS = ("transformers", "laion-clap")
STAGES = ("all", "model")
PRECISIONS = ("fp32", "autocast", "bf16", "int8", "int16")
CLIP_S, RATE_HZ, CLAP_RATE_HZ = 10, 24_000, 48_000
NUM_CLIPS = 8


def make_clips(folder: Path, count: int = NUM_CLIPS) -> None:
    """Plane waves of harmonic sounds and noise that come and go, no two alike: FOA, and the same W at 48 kHz."""
    from salm.geometry import encode_plane_wave

    generator = np.random.default_rng(0)
    time_s = np.arange(CLIP_S * CLAP_RATE_HZ) / CLAP_RATE_HZ
    mono = []
    for _ in range(count):
        base_hz, sweep_hz, beat_hz = generator.uniform(80, 900), generator.uniform(-40, 40), generator.uniform(0.3, 4)
        phase = 2 * np.pi * (base_hz * time_s + sweep_hz * time_s**2 / 2)
        tone = sum(generator.uniform(0.1, 1) / number * np.sin(number * phase) for number in range(1, 8))
        noise = generator.standard_normal(len(time_s)) * generator.uniform(0.05, 0.5)
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * beat_hz * time_s + generator.uniform(0, 6))
        sound = tone * envelope + noise * (1 - envelope) ** 2
        mono.append(0.3 * sound / np.abs(sound).max())
    import soxr

    low = [soxr.resample(sound, CLAP_RATE_HZ, RATE_HZ) for sound in mono]
    foa = [encode_plane_wave(sound, generator.uniform(-np.pi, np.pi), generator.uniform(-0.5, 0.5)) for sound in low]
    np.save(folder / "clips_24k.npy", np.stack(foa).astype(np.float32))
    np.save(folder / "clips_48k.npy", np.stack(mono).astype(np.float32))


def make_weights(folder: Path, audio: dict[str, Any] | None = None) -> None:
    """A `ClapModel` with random weights in `folder/clap`, its audio tower converted (`tower.pt`), and its filterbank.

    Args:
        folder: exists.
        audio: of `ClapAudioConfig`; by default the true size. The text tower is small, since no text is encoded.
    """
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    from salm.weights.convert import towers_from_clap_model

    text = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    text |= {"intermediate_size": 96, "max_position_embeddings": 34}
    torch.manual_seed(0)
    model: Any = ClapModel(ClapConfig(audio_config=audio or {}, text_config=text, projection_dim=512)).eval()
    for name, value in model.named_parameters():  # fresh norms and biases would leave parts of the model idle
        if "norm" in name.lower() or name.endswith("bias"):
            torch.nn.init.normal_(value, 1.0 if name.endswith("weight") else 0.0, 0.1)
        elif "position_bias" in name:
            torch.nn.init.normal_(value)
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean.normal_(-40.0, 5.0)
    norm.running_var.uniform_(200.0, 400.0)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)
    model.save_pretrained(folder / "clap")
    extractor.save_pretrained(folder / "clap")
    np.save(folder / "clap_mels.npy", extractor.mel_filters_slaney)
    towers = towers_from_clap_model(model, "benchmark")[0]
    state = towers.state_dict()
    tower = {
        key.removeprefix("htsat.").replace("map_norm.norm.", "bn0."): value
        for key, value in state.items()
        if key.startswith(("htsat.", "map_norm."))
    }
    start = "audio_projection."
    projection = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    torch.save({"tower": tower, "projection": projection, "sizes": towers.htsat.sizes}, folder / "tower.pt")


class Worker:
    """An encoder's process; requests and replies are JSON lines."""

    def __init__(self, name: str, python: str, folder: Path, device: str, compiled: bool) -> None:
        self.name = name
        settings = {"folder": str(folder), "name": name, "device": device, "compile": compiled}
        self.process = subprocess.Popen(
            [python, "-m", ENCODERS[name], json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The reply, or {"error": ...}."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"its process ended ({self.process.wait()}); see above"}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it had ended by itself
            self.process.stdin.close()
        self.process.wait()


def compare_outputs(workers: list[Worker], precisions: list[str], count: int = 4) -> dict[str, Any]:
    """Lowest cosine of each encoder's embeddings to the fp32 ones of the peers with the same weights, and to its own.

    `between clips` is the mean cosine of different clips: near one, it would say that the others mean little.
    """
    vectors: dict[tuple[str, str], np.ndarray] = {}
    errors = {}
    for worker, precision in product(list(workers), dict.fromkeys(["fp32", *precisions])):
        reply = worker.ask(do="embed", precision=precision, batch=count, threads=1)
        if "error" in reply:
            errors[f"{worker.name} {precision}"] = reply["error"]
            continue
        values = np.asarray(reply["vectors"])
        vectors[worker.name, precision] = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, precision), values in vectors.items():
        for reference in dict.fromkeys([name, *(SAME_WEIGHTS if name in SAME_WEIGHTS else ())]):
            if (reference, "fp32") in vectors and (reference, "fp32") != (name, precision):
                cosine = np.sum(values * vectors[reference, "fp32"], axis=1).min()
                cosines[f"{name} {precision}"][f"{reference} fp32"] = round(float(cosine), 6)
        if precision == "fp32":
            others = values @ values.T
            cosines[f"{name} fp32"]["between clips"] = round(float(others[~np.eye(count, dtype=bool)].mean()), 4)
    return {"lowest_cosine": cosines, "errors": errors}


def measure(workers: list[Worker], cells: list[tuple[int, int, str, str]], repetitions: int) -> list[dict[str, Any]]:
    """Medians over interleaved repetitions of every cell (threads, batch, stage, precision) of every encoder."""
    peaks, failed = peak_megabytes(workers, cells)
    seconds: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    cpu_seconds: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for repetition in range(repetitions + 1):
        print(f"repetition {repetition} of {repetitions} (0: warm-up)", file=sys.stderr)
        for (threads, batch, stage, precision), worker in product(cells, workers):
            if (worker.name, precision) in failed:
                continue
            reply = worker.ask(do="time", threads=threads, batch=batch, stage=stage, precision=precision)
            if "error" in reply:
                failed.add((worker.name, precision))
                print(f"{worker.name} {precision}: {reply['error']}", file=sys.stderr)
            elif repetition:
                key = (worker.name, threads, batch, stage, precision)
                seconds[key].append(reply["seconds"])
                cpu_seconds[key].append(reply["cpu_seconds"])
    names = ("encoder", "threads", "batch", "stage", "precision")
    return [
        dict(zip(names, key, strict=True))
        | {"clips_per_s": round(key[2] / statistics.median(values), 3)}
        | {"ms_per_clip": round(1000 * statistics.median(values) / key[2], 2)}
        | {"cpu_ms_per_clip": round(1000 * statistics.median(cpu_seconds[key]) / key[2], 2)}
        | {"spread": round(max(values) / min(values), 2), "peak_mb": peaks.get((key[0], key[2], key[4]), 0)}
        for key, values in seconds.items()
    ]


def peak_megabytes(
    workers: list[Worker], cells: list[tuple[int, int, str, str]]
) -> tuple[dict[tuple[str, int, str], int], set[tuple[str, str]]]:
    """Peak memory by encoder, batch and precision, samples to embedding; and the encoders that failed."""
    threads = max(cell[0] for cell in cells)
    precisions, batches = (sorted({cell[place] for cell in cells}) for place in (3, 1))
    peaks: dict[tuple[str, int, str], int] = {}
    failed = set()
    for worker, precision, batch in product(workers, precisions, batches):  # precision before batch: fewer reloads
        reply = worker.ask(do="memory", threads=threads, batch=batch, precision=precision)
        if "error" in reply:
            failed.add((worker.name, precision))
            print(f"{worker.name} {precision}: {reply['error']}", file=sys.stderr)
        else:
            peaks[worker.name, batch, precision] = reply["peak_bytes"] >> 20
    return peaks, failed


def best_ratios(rows: list[dict[str, Any]], by: str = "cpu_ms_per_clip") -> list[dict[str, Any]]:
    """Clips/s of each SALM encoder over each peer's, both in the precision that is fastest for them by that column."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["threads"], row["batch"], row["stage"], row["encoder"])
        if key not in best or row[by] < best[key][by]:
            best[key] = row
    ratios = []
    for (*setting, name), row in best.items():
        peers = {peer: best[*setting, peer] for peer in PEERS if (*setting, peer) in best}
        if name in PEERS or not peers:
            continue
        entry = dict(zip(("threads", "batch", "stage"), setting, strict=True)) | {"encoder": name}
        entry["precision"] = row["precision"]
        for peer, other in peers.items():
            entry[f"times {peer}"] = round(row["clips_per_s"] / other["clips_per_s"], 2)
            entry[f"{peer} in"] = other["precision"]
            entry[f"CPU times {peer}"] = round(other["cpu_ms_per_clip"] / max(row["cpu_ms_per_clip"], 1e-9), 2)
        ratios.append(entry)
    return ratios


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows on stderr."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=sys.stderr)
    print(file=sys.stderr)


def main() -> None:
    """Print one document for all encoders, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoders", "--peers", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="clips per call")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS),
        help="autocast: torch.autocast to bf16; bf16: weights cast once; int8, int16: SALM's alone",
    )  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=3, help="after one as warm-up")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile the peers; on a GPU (CUDA graphs) all")
    parser.add_argument("--laion-python", help="python of an environment with laion-clap; without it, left out")
    arguments = parser.parse_args()
    load_before = os.getloadavg()
    pythons = {"laion-clap": arguments.laion_python}
    names = [name for name in arguments.encoders if pythons.get(name, sys.executable)]
    if "laion-clap" in set(arguments.encoders) - set(names):
        print("laion-clap: left out, see --laion-python", file=sys.stderr)
    cells = list(product(arguments.threads, arguments.batch, arguments.stages, arguments.precision))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sys.path.insert(0, str(ROOT))
        make_clips(folder)
        make_weights(folder)
        workers = [
            Worker(name, pythons.get(name) or sys.executable, folder, arguments.device, arguments.compile)
            for name in names
        ]
        try:
            outputs = compare_outputs(workers, arguments.precision)
            rows = measure(workers, cells, arguments.repetitions)
        finally:
            for worker in workers:
                worker.close()
    ratios = best_ratios(rows, "ms_per_clip" if arguments.device.startswith("cuda") else "cpu_ms_per_clip")
    print_table(rows)
    print_table(ratios)
    print(json.dumps(outputs, indent=1), file=sys.stderr)
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    machine: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "device": arguments.device}
    machine |= {"load_average_before": load_before, "load_average_after": os.getloadavg()}
    if arguments.device.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name()
    settings = {"clip_s": CLIP_S, "repetitions": arguments.repetitions, "compiled": arguments.compile}
    document = {"rows": rows, "ratios": ratios, "outputs": outputs, "settings": settings}
    print(json.dumps(document | {"machine": machine, "versions": versions}, indent=2))


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return f"{name} ({', '.join(flag for flag in ('avx512_bf16', 'amx_bf16') if flag in flags) or 'no bf16 units'})"


if __name__ == "__main__":
    main()
