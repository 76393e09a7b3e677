"""A few dry sounds, and a handful of room responses."""

import numpy as np
import pytest
import soundfile

from salm.manifest import DrySound, read_dry_sounds, write_dry_sounds
from salm.scenes.srir_bank import SrirBank

RATE = 24_000


@pytest.fixture(scope="session")
def dry_folder(tmp_path_factory):
    """Twelve noises of six labels (two of each), 0.5 to 6 s, with a manifest and a made-up teacher."""
    folder = tmp_path_factory.mktemp("dry")
    sounds = []
    for number in range(12):
        label = f"noise {number // 2}"
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, round(RATE * (0.5 + 0.5 * number)))
        path = folder / f"label{number // 2}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, RATE)
        captions = (f"A {label} sounds.",)
        sounds.append(DrySound(path, label, captions, f"group{number}", "made", "CC0", len(samples) / RATE))
    write_dry_sounds(folder / "manifest.csv", sounds)
    generator = np.random.default_rng(0)
    np.savez(
        folder / "teacher.npz",
        path=np.array([f"label{number // 2}/{number}.wav" for number in range(12)]),
        embedding=generator.normal(size=(12, 384)).astype(np.float16),
        logits=generator.normal(size=(12, 527)).astype(np.float16),
    )
    return folder


@pytest.fixture(scope="session")
def dry_sounds(dry_folder):
    return read_dry_sounds(dry_folder / "manifest.csv")


@pytest.fixture(scope="session")
def rooms():
    return SrirBank.simulate(3, seed=5, rt60_range_s=(0.1, 0.3))
