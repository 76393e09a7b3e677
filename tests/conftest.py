"""What several test modules share: a tiny model, FOA scenes, and the data beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import salm
from salm.geometry import encode_plane_wave
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import save_checkpoint

RATE = 24_000
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
SENTENCES = ["dog barking from the northwest", "The sound is coming from the southeast.", "rain to the left, above"]


def pytest_configure():
    """Processes that test at the same time share the threads out: those that wait for others would take their time."""
    torch.set_num_threads(max(1, torch.get_num_threads() // WORKERS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """The same random weights whatever tests came before, also for fixtures of modules."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir():
    """The data folder beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder.name} beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A checkpoint folder of a tiny model with random weights."""
    torch.manual_seed(0)
    config = salm_tiny()
    model = build_model(config)
    # Batch norm as after training: fresh running statistics would leave the features far from zero mean.
    model.audio_encoder.map_norm.norm.running_mean.normal_(-30.0, 5.0)
    model.audio_encoder.map_norm.norm.running_var.fill_(400.0)
    tokenizer = Tokenizer.train(SENTENCES, config.text.vocabulary_size, config.text.max_tokens)
    folder = tmp_path_factory.mktemp("tiny") / "salm-tiny"
    save_checkpoint(folder, model, config, tokenizer, card="A tiny model with random weights.\n")
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint):
    """The tiny model, loaded."""
    return salm.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def make_scene():
    """make_scene(duration_s, azimuth_deg=0, seed=0): noise as a plane wave with a little sensor noise, (4, samples)."""

    def make(duration_s: float, azimuth_deg: float = 0.0, seed: int = 0) -> np.ndarray:
        generator = np.random.default_rng(seed)
        signal = generator.uniform(-0.3, 0.3, round(duration_s * RATE))
        field = encode_plane_wave(signal, np.radians(azimuth_deg), 0.0)
        return (field + generator.normal(0, 1e-3, field.shape)).astype(np.float32)

    return make
