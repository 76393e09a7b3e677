"""How long the feature maps of a 10 s clip take, by torch and by compiled code, and how far both are apart.

    python benchmarks/features.py > features.json        # about 20 seconds on 2 idle cores

Bar: 15 ms for the seven maps of an FOA clip on 2 cores. JSON goes to stdout.
"""

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any

import torch

from salm.audio.features import NUM_LOG_MEL_MAPS, FeatureExtractor
from salm.config import FeatureConfig
from salm.errors import DependencyError

BAR_MS = 15.0
KINDS = {"torch": None, "compiled": "this benchmark"}


def milliseconds(extract: FeatureExtractor, clip: torch.Tensor, repetitions: int) -> float:
    """Median time of a clip, after two that do not count."""
    times = []
    for _ in range(repetitions + 2):
        start = time.perf_counter()
        extract(clip)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def measure(threads: list[int], repetitions: int) -> dict[str, Any]:
    """Times by kind, channels and threads, and the largest differences of the FOA maps."""
    config = FeatureConfig()
    clip = torch.randn(1, 4, config.clip_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    extractors: dict[str, FeatureExtractor] = {}
    document: dict[str, Any] = {"ms_per_clip": [], "bar_ms": BAR_MS, "errors": {}}
    for name, compiled_for in KINDS.items():
        try:
            extractors[name] = FeatureExtractor(config, compiled_for=compiled_for)
        except DependencyError as error:
            document["errors"][name] = str(error)
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for name, extract in extractors.items():
                for sound in (clip[:, :1], clip):
                    ms = round(milliseconds(extract, sound, repetitions), 2)
                    row = {"maps by": name, "channels": sound.shape[1], "threads": count, "ms": ms}
                    document["ms_per_clip"].append(row)
    finally:
        torch.set_num_threads(before)
    if len(extractors) == len(KINDS):
        apart = (extractors["torch"](clip) - extractors["compiled"](clip)).abs()
        log_mel, intensity = apart.tensor_split([NUM_LOG_MEL_MAPS], dim=1)
        document["largest_difference"] = {"log_mel_db": float(log_mel.max()), "intensity": float(intensity.max())}
    return document


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=100)
    arguments = parser.parse_args()
    document = measure(arguments.threads, arguments.repetitions)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps(document | {"machine": machine, "versions": {"torch": torch.__version__}}, indent=2))


if __name__ == "__main__":
    main()
