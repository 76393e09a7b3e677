"""What the tests of the command line share: mistakes, a random model, a recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from salm.geometry import encode_plane_wave
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import save_checkpoint
from tests.preloaded import Result

ROOT = Path(__file__).parents[2]
RATE = 24_000


Run = Callable[..., Result]


def assert_mistake(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that holds all the words."""
    assert result.code == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def save_tiny_model(folder: Path, seed: int) -> Path:
    """A checkpoint folder of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(salm_tiny())
    tokenizer = Tokenizer.train(["dog barking from the northwest", "church bell from the east"], 512, 64)
    save_checkpoint(folder, model, salm_tiny(), tokenizer)
    return folder


def write_recording(path: Path, seconds: float = 2.0, azimuth_rad: float = 0.7, seed: int = 0) -> Path:
    """Noise from one direction."""
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, encode_plane_wave(noise, azimuth_rad, 0.0).T, RATE)
    return path
