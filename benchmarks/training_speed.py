"""Training clips per second: new scenes, kept scenes, the model's step, and both together. Prints JSON.

python benchmarks/training_speed.py --data ../shared/data

Medians of interleaved repetitions, so that a slow minute of the machine touches all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from salm.data.batches import collate
from salm.data.datamodule import SceneDataModule
from salm.data.dataset import Example, SceneDataset
from salm.data.scene_mix import SceneMix
from salm.models.builders import build_model, salm_small
from salm.processor import fast_autocast

MIX = SceneMix(num_sounds=4, level_dbfs=(-40, -15), tilt_deg=20)


def main() -> None:
    """Measure on a slice of the training sounds; the cache folder keeps them for the next time."""
    parser = argparse.ArgumentParser(description="Clips per second of the training pipeline.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sounds/train")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for what is decoded")
    parser.add_argument("--batch", type=int, default=16, help="clips per batch")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    scenes = new_scenes(arguments.data, arguments.cache, arguments.batch)
    kept = kept_scenes(scenes, arguments.cache)
    step = training_step()
    batch = collate([kept[number] for number in range(arguments.batch)])
    counter = iter(range(10**9))

    def draw(dataset: SceneDataset) -> Example:
        return collate([dataset[next(counter)] for _ in range(arguments.batch)])

    runs: dict[str, Callable[[], object]] = {
        "new scenes": lambda: draw(scenes),
        "kept scenes": lambda: draw(kept),
        "model": lambda: step(batch),
        "kept scenes and model": lambda: step(draw(kept)),
        "new scenes and model": lambda: step(draw(scenes)),
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    rates = {name: round(arguments.batch / statistics.median(values), 2) for name, values in times.items()}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    document = {
        "clips_per_second": rates,
        "batch": arguments.batch,
        "sounds_per_clip": MIX.num_sounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **machine,
    }
    print(json.dumps(document, indent=2))


def new_scenes(data: Path, cache: Path, batch_size: int) -> SceneDataset:
    """Scenes of the training sounds in 100 rooms, each made anew."""
    module = SceneDataModule(
        manifest=str(data / "sounds/train/manifest.csv"),
        teacher=str(data / "teachers/mn04_train.npz"),
        cache=str(cache),
        num_rooms=100,
        mixes=(MIX,),
        batch_size=batch_size,
    )
    module.setup()
    assert isinstance(module.training, SceneDataset)
    return module.training


def kept_scenes(scenes: SceneDataset, cache: Path) -> SceneDataset:
    """As many kept scenes as four batches hold."""
    mix = replace(MIX, distinct=4 * scenes.batch_size)
    kept = SceneDataset(
        scenes.bank, scenes.rooms, scenes.teacher, scenes.features, [mix], batch_size=scenes.batch_size, seed=0
    )
    kept.keep_scenes(cache, num_workers=0, progress=None)
    return kept


def training_step() -> Callable[[Example], None]:
    """Forward and backward pass of salm-small's audio tower, in bf16 as in training."""
    torch.manual_seed(0)
    encoder = build_model(salm_small()).audio_encoder.train()
    torch.set_flush_denormal(True)

    def step(batch: Example) -> None:
        with fast_autocast():
            loss = torch.stack([tokens.float().square().mean() for tokens in encoder(batch.features)]).sum()
        loss.backward()
        encoder.zero_grad()

    return step


if __name__ == "__main__":
    main()
