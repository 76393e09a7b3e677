"""One encoder in a process of its own, for `benchmarks/encode.py`: a JSON line in, a JSON line out.

A process per encoder, because laion-clap needs another numpy, and because peak memory can be told apart no other way.
Needs torch and numpy alone, so that it runs in every peer's environment. A peer is a module with `load(settings)`:

    python -m benchmarks.peers.salm_towers '{"folder": "...", "name": "salm-base", "device": "cpu", "compile": false}'

`folder` holds `clips_24k.npy` (clips, 4, samples; FOA), `clips_48k.npy` (clips, samples; the same clips' W), and the
weights. Requests: {"do": "embed" | "time" | "memory", "precision": ..., "batch": ..., "threads": ...}, and for "time"
"stage": "all" or "model".
"""

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

TORCH_PRECISIONS = ("fp32", "autocast", "bf16")
"""What every peer can do: fp32; bf16 by torch.autocast; weights and activations in bf16 (weights cast once, when the
encoder is loaded). SALM alone has int8 and int16, matrix products of integers."""
LEAST_S = 1.0
"""Calls are timed in rows of this length at least."""


@dataclass(frozen=True)
class Settings:
    """What an encoder is loaded with."""

    folder: Path
    name: str
    device: str
    precision: str


@dataclass(frozen=True)
class Encoder:
    """An encoder in two steps.

    Attributes:
        clips: file of the decoded clips that it reads.
        features: decoded clips to what the model reads, on the device.
        embed: that to unnormalised or normalised embeddings, (clips, 512).
        embed_samples: both steps at once on a CPU, where an encoder does them in another order than one whole batch
            after the other; there torch.compile leaves it as it is.
    """

    clips: str
    features: Callable[[np.ndarray], Any]
    embed: Callable[[Any], torch.Tensor]
    embed_samples: Callable[[np.ndarray], torch.Tensor] | None = None


class Runner:
    """Answers requests about one encoder, in any precision."""

    def __init__(self, load: Callable[[Settings], Encoder], folder: Path, name: str, device: str, compiled: bool):
        self.load, self.folder, self.name, self.device, self.compiled = load, folder, name, device, compiled
        self.encoders: dict[str, Encoder] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request."""
        torch.set_num_threads(request.get("threads", 1))
        encoder = self.encoder(request["precision"])
        batch = np.load(self.folder / encoder.clips, mmap_mode="r")
        batch = np.array(batch[np.arange(request["batch"]) % len(batch)])
        if request["do"] == "embed":
            vectors = self.run(encoder, request["precision"], batch, None)
            return {"vectors": vectors.float().cpu().tolist()}
        if request["do"] == "memory":
            return self.memory(encoder, request["precision"], batch)
        features = None
        if request["stage"] == "model":
            with torch.inference_mode():
                features = encoder.features(batch)
        return self.timed(lambda: self.run(encoder, request["precision"], batch, features))

    def memory(self, encoder: Encoder, precision: str, batch: np.ndarray) -> dict[str, Any]:
        """Peak bytes of encoding, with no other precision's weights and nothing left over from earlier calls."""
        self.encoders = {precision: encoder}
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = start_memory(self.device)
        self.run(encoder, precision, batch, None)
        return {"peak_bytes": peak_memory(self.device), "start_bytes": before}

    def timed(self, run: Callable[[], Any]) -> dict[str, float]:
        """Seconds of a call in a row of calls: by the clock on a CPU, between two events on a GPU; and of all cores.

        A row, as an archive is one: the first call finds the caches full of another process' weights, and a core held
        by threads of that process which still wait for work.
        """
        calls, start, of_cores = 0, time.perf_counter(), time.process_time()
        if self.device.startswith("cuda"):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self.device)
            first.record()
        while calls == 0 or time.perf_counter() - start < LEAST_S:
            run()
            calls += 1
        seconds = time.perf_counter() - start
        if self.device.startswith("cuda"):
            last.record()
            torch.cuda.synchronize(self.device)
            seconds = first.elapsed_time(last) / 1000
        return {"seconds": seconds / calls, "cpu_seconds": (time.process_time() - of_cores) / calls}

    def encoder(self, precision: str) -> Encoder:
        """Loaded on first use and kept, so that repetitions may interleave precisions."""
        if precision not in self.encoders:
            settings = Settings(self.folder, self.name, self.device, precision)
            encoder = self.load(settings)
            if self.compiled and (encoder.embed_samples is None or self.device.startswith("cuda")):
                mode = "reduce-overhead" if self.device.startswith("cuda") else "default"  # the former: CUDA graphs
                compiled: Any = torch.compile(encoder.embed, mode=mode)
                encoder = Encoder(encoder.clips, encoder.features, compiled)
            self.encoders[precision] = encoder
        return self.encoders[precision]

    def run(self, encoder: Encoder, precision: str, batch: np.ndarray, features: Any) -> torch.Tensor:
        """Embeddings of decoded clips, or of their features where these are given."""
        kind = torch.device(self.device).type
        cast = torch.autocast(kind, torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()
        with torch.inference_mode():
            if features is None and encoder.embed_samples is not None and kind == "cpu":
                return encoder.embed_samples(batch)
            if features is None:
                features = encoder.features(batch)
            with cast:
                return encoder.embed(features)


def start_memory(device: str) -> int:
    """Forget the peak so far; bytes in use now (0 where that cannot be told)."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_memory(device: str) -> int:
    """Highest bytes in use since `start_memory`: of the GPU's allocator, or of the whole process."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def serve(load: Callable[[Settings], Encoder]) -> None:
    """Answer requests on stdin until it closes. What a library prints goes to stderr, so that replies stay readable."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    given = json.loads(sys.argv[1])
    sys.argv[1:] = []
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    runner = Runner(load, Path(given["folder"]), given["name"], given["device"], given["compile"])
    for line in sys.stdin:
        try:
            reply = runner.answer(json.loads(line))
        except Exception as error:  # whatever a peer raises: the driver reports it and goes on with the others
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
