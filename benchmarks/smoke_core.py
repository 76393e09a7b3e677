"""The core alone, without torchaudio and torchvision: import, encode, index, retrieve. Prints JSON.

    python -m venv smoke && smoke/bin/pip install . && smoke/bin/python benchmarks/smoke_core.py

Installs the newest torch, since no constraints are given. Another model: add its checkpoint folder as an argument.
"""

import json
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import soundfile
from salm_index import Index

import salm
from salm.geometry import SECTORS, encode_plane_wave

PACKAGES = (
    "torch",
    "torchaudio",
    "torchvision",
    "transformers",
    "tokenizers",
    "numpy",
    "faiss-cpu",
    "soundfile",
    "soxr",
)
RATE = 24_000


def main() -> None:
    """Noise from each of the eight directions is encoded, indexed, and found again by its own vector and by text."""
    model = salm.load(sys.argv[1] if len(sys.argv) > 1 else "salm-small")
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for sector in SECTORS:
            noise = generator.normal(0, 0.05, 3 * RATE)
            paths.append(Path(folder) / f"{sector.compass}.wav")
            soundfile.write(paths[-1], encode_plane_wave(noise, sector.azimuth_rad, 0.0).T, RATE)
        vectors = model.encode_audio(paths)
        rows = [{"path": str(path), "start_s": 0.0, "end_s": 3.0} for path in paths]
        with Index.create(Path(folder) / "smoke.index", vectors.shape[1], model=model.model_id) as index:
            index.add(vectors, rows)
            found = [index.search(vector, k=1)[0].path for vector in vectors]
            hits = index.search(model.encode_text(["noise from the northwest"]), k=3)
        assert found == [str(path) for path in paths]
        answer = {
            "ok": True,
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in PACKAGES},
            "model": model.model_id,
            "imported": sorted({"torchaudio", "torchvision"} & set(sys.modules)),
            "noise from the northwest": [Path(hit.path).stem for hit in hits],
        }
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
