"""The frozen test scenes: every test sound at three positions of a room of its own; the same ones for every model.

python benchmarks/frozen_scenes.py ../shared/data/sounds/test/manifest.csv --out .cache/benchmarks/centre-v1

Azimuths are uniform, RT60 0.1 to 0.8 s, SNR 10 to 40 dB. Training draws its rooms from seeds 0 and 1; seeds from 20,000
on are for frozen scenes alone. A recipe is never changed: a new one gets a new name.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from salm.manifest import Scene, read_dry_sounds
from salm.progress import Progress, progress_on_stderr
from salm.scenes.dataset_writer import simulate_dataset

FIRST_FROZEN_SEED = 20_000
_COMMON: dict[str, Any] = {
    "positions_per_sound": 3, "duration_s": 10.0, "rt60_range_s": (0.1, 0.8), "snr_db_range": (10.0, 40.0),
    "level_dbfs_range": (-35.0, -20.0), "sample_rate": 24_000, "bits": 16, "split": "test",
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "centre-v1": {"seed": 20_000, "receiver": "centre", **_COMMON},
    "anywhere-v1": {"seed": 20_001, "receiver": "anywhere", **_COMMON},
}
"""`centre-v1` has the receiver in the room's middle, as in the paper; `anywhere-v1` at least 1 m from the walls."""


def build(manifest: Path, out: Path, recipe: str = "centre-v1", progress: Progress | None = None) -> list[Scene]:
    """Simulate the scenes of a recipe into a folder, or complete an interrupted one."""
    return simulate_dataset(read_dry_sounds(manifest), out, progress=progress, **RECIPES[recipe])


def main() -> None:
    """Print where the scenes are, as JSON."""
    parser = argparse.ArgumentParser(description="Simulate the frozen test scenes.")
    parser.add_argument("manifest", type=Path, help="CSV of dry test sounds")
    parser.add_argument("--out", type=Path, required=True, help="folder for the scenes")
    parser.add_argument("--recipe", choices=RECIPES, default="centre-v1")
    arguments = parser.parse_args()
    with progress_on_stderr("simulating") as progress:
        scenes = build(arguments.manifest, arguments.out, arguments.recipe, progress)
    rows = arguments.out / "scenes.jsonl"
    digest = hashlib.sha256(rows.read_bytes()).hexdigest()
    print(json.dumps({"recipe": arguments.recipe, "manifest": str(rows), "sha256": digest, "scenes": len(scenes)}))


if __name__ == "__main__":
    main()
