"""laion-clap's own audio tower for `benchmarks/encode.py`; runs in an environment of its own.

    python -m venv .cache/laion && .cache/laion/bin/pip install -r benchmarks/peers/laion-requirements.txt
    python benchmarks/encode.py --laion-python .cache/laion/bin/python

`laion_clap.CLAP_Module` downloads RoBERTa when it is made, so the audio tower is made directly: its module, its
configuration (HTSAT-tiny, 48 kHz, no fusion), its feature extractor inside of the forward pass, and its quantisation
of samples to 16 bit. The weights are the converted `ClapModel`'s, from `folder/tower.pt`.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.peers.measure import TORCH_PRECISIONS, Encoder, Settings, serve

CONFIG = SimpleNamespace(mel_bins=64, window_size=1024, hop_size=480, sample_rate=48_000, fmin=50, fmax=14_000)
UNUSED = ("tscam_conv.", "head.", "spectrogram_extractor.", "logmel_extractor.")
BUFFERS = (".relative_position_index", ".attn_mask", ".num_batches_tracked")
"""Heads of the original task, and constants that the module makes itself."""


def load(settings: Settings) -> Encoder:
    """Tower and projection with the weights of `folder/tower.pt`."""
    if settings.precision not in TORCH_PRECISIONS:
        raise ValueError(f"{settings.name} has no {settings.precision}")
    _skip_package_code("laion_clap", "laion_clap.clap_module")
    from laion_clap.clap_module.htsat import HTSAT_Swin_Transformer

    tower: Any = HTSAT_Swin_Transformer(config=CONFIG).eval()
    state = torch.load(settings.folder / "tower.pt", weights_only=True)
    found = tower.load_state_dict(state["tower"], strict=False)
    missing = [key for key in found.missing_keys if not key.startswith(UNUSED) and not key.endswith(BUFFERS)]
    if missing or found.unexpected_keys:
        raise ValueError(f"laion_clap's HTSAT: missing {missing}, unexpected {found.unexpected_keys}")
    first, second = (
        torch.nn.Linear(weight.shape[1], weight.shape[0])
        for weight in (state["projection"]["0.weight"], state["projection"]["2.weight"])
    )
    projection = torch.nn.Sequential(first, torch.nn.ReLU(), second).eval()
    projection.load_state_dict(state["projection"])
    tower.to(settings.device)
    projection.to(settings.device)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    for part in (tower.bn0, tower.patch_embed, tower.layers, tower.norm, tower.tscam_conv, projection):
        part.to(dtype)

    def features(clips: np.ndarray) -> torch.Tensor:
        quantised = (np.clip(clips, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
        waveform = torch.from_numpy(quantised).to(settings.device)
        return tower.logmel_extractor(tower.spectrogram_extractor(waveform)).to(dtype)

    def embed(maps: torch.Tensor) -> torch.Tensor:
        # `HTSAT_Swin_Transformer.forward` behind its feature extractor, then `CLAP.audio_projection`.
        image = tower.reshape_wav2img(tower.bn0(maps.transpose(1, 3)).transpose(1, 3))
        return projection(tower.forward_features(image)["embedding"])

    return Encoder("clips_48k.npy", features, embed)


def _skip_package_code(*names: str) -> None:
    """Enter packages that download tokenizers when they are imported, so that their modules can be had offline."""
    if names[0] in sys.modules:
        return
    spec = find_spec(names[0])
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{names[0]} is not installed in {sys.executable}")
    root = Path(spec.submodule_search_locations[0]).parent
    for name in names:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package


if __name__ == "__main__":
    serve(load)
