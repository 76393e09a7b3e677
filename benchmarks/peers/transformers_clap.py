"""transformers' `ClapModel` for `benchmarks/encode.py`: its audio tower behind its own feature extractor.

At bf16 the model is what `ClapModel.from_pretrained(..., dtype=torch.bfloat16)` gives: everything is cast.
"""

from typing import Any

import numpy as np
import torch
from transformers import ClapFeatureExtractor, ClapModel

from benchmarks.peers.measure import TORCH_PRECISIONS, Encoder, Settings, serve


def load(settings: Settings) -> Encoder:
    """The model of `folder/clap`."""
    if settings.precision not in TORCH_PRECISIONS:
        raise ValueError(f"{settings.name} has no {settings.precision}")
    model: Any = ClapModel.from_pretrained(settings.folder / "clap").eval().to(settings.device)
    extractor = ClapFeatureExtractor.from_pretrained(settings.folder / "clap")
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model.to(dtype)

    def features(clips: np.ndarray) -> torch.Tensor:
        maps = extractor(list(clips), sampling_rate=48_000, return_tensors="pt")["input_features"]
        return maps.to(settings.device, dtype)

    def embed(maps: torch.Tensor) -> torch.Tensor:
        # `get_audio_features` without its last step, the division by the length.
        return model.audio_projection(model.audio_model(input_features=maps, is_longer=None).pooler_output)

    return Encoder("clips_48k.npy", features, embed)


if __name__ == "__main__":
    serve(load)
