"""SALM's encoders for `benchmarks/encode.py`: the semantic branch at LAION-CLAP's size, salm-base and salm-small.

The semantic branch has the weights of the `ClapModel` in `folder/clap`, converted by `salm.weights.convert` (kept in
`folder/tower.pt`, so that this process needs no transformers), and reads CLAP's log-mel map at 48 kHz: SALM's feature
extractor at that rate, with CLAP's filterbank in place of its own.
"""

from dataclasses import replace

import numpy as np
import torch

from benchmarks.peers.measure import Encoder, Settings, serve
from salm.audio.features import FeatureExtractor
from salm.config import FeatureConfig, TextEncoderConfig
from salm.models.audio_encoder import MapNorm
from salm.models.builders import build_model, named_config
from salm.models.htsat import HTSAT, fold_image, stretch_time
from salm.models.salm import Projection
from salm.weights.checkpoint import load_checkpoint
from salm.weights.registry import find_checkpoint

CLAP_FEATURES = FeatureConfig(sample_rate_hz=48_000, hop_samples=480, min_frequency_hz=50.0, max_frequency_hz=14_000.0)
SMALL_TEXT = TextEncoderConfig(vocabulary_size=100, width=32, depth=1, num_heads=2, hidden_width=32, max_tokens=8)
"""The text tower takes no part here, and would hide the audio tower's memory."""


def load(settings: Settings) -> Encoder:
    """`clap-size`, or the audio side of a named SALM model."""
    return clap_size(settings) if settings.name == "clap-size" else dual_encoder(settings)


def clap_size(settings: Settings) -> Encoder:
    """HTSAT-tiny behind CLAP's features: the audio side of `ClapTowers`, without its text tower."""
    state = torch.load(settings.folder / "tower.pt", weights_only=True)
    norm, htsat = MapNorm(1, CLAP_FEATURES.num_mels).eval(), HTSAT(num_maps=1, **state["sizes"]).eval()
    projection = Projection(htsat.out_width, *state["projection"]["2.weight"].shape)
    norm.norm.load_state_dict({key[4:]: value for key, value in state["tower"].items() if key.startswith("bn0.")})
    htsat.load_state_dict({key: value for key, value in state["tower"].items() if not key.startswith("bn0.")})
    projection.load_state_dict(state["projection"])
    dtype = _dtype(settings)
    norm.to(settings.device)
    htsat.to(settings.device, dtype)
    projection.to(settings.device)
    extractor = FeatureExtractor(CLAP_FEATURES)
    extractor.mel_weights = torch.from_numpy(np.load(settings.folder / "clap_mels.npy").T.astype(np.float32).copy())
    extractor.to(settings.device)

    def embed(logmel: torch.Tensor) -> torch.Tensor:
        # `ClapTowers.embed_audio` in its steps: only the transformer is cast, decibels need fp32.
        image = fold_image(stretch_time(norm(logmel.transpose(-1, -2))))
        return projection(htsat(image.to(dtype)).mean(dim=1).float())

    return Encoder(
        "clips_48k.npy", lambda clips: extractor(torch.from_numpy(clips[:, None]).to(settings.device)), embed
    )


def dual_encoder(settings: Settings) -> Encoder:
    """Both branches, projections and direction of a SALM model; salm-base with fresh weights, salm-small as bundled."""
    if settings.name == "salm-small":
        checkpoint = load_checkpoint(find_checkpoint(settings.name))
        model, features = checkpoint.model, checkpoint.config.features
    else:
        config = replace(named_config(settings.name), text=SMALL_TEXT)
        torch.manual_seed(0)  # the same weights in every precision
        model, features = build_model(config).eval(), config.features
    model.to(settings.device)
    encoder, dtype = model.audio_encoder, _dtype(settings)
    for part in (encoder.semantic, encoder.spatial, encoder.stitches):
        if part is not None:
            part.to(dtype)
    extractor = FeatureExtractor(features).to(settings.device)

    def embed(maps: torch.Tensor) -> torch.Tensor:
        # `SALM.encode_audio` in its steps, with the two branches alone cast.
        tokens = encoder.image_tokens(encoder.image(maps).to(dtype))
        semantic, spatial = (branch.mean(dim=1).float() for branch in tokens)
        return model.project_audio(semantic, spatial).joint

    return Encoder("clips_24k.npy", lambda clips: extractor(torch.from_numpy(clips).to(settings.device)), embed)


def _dtype(settings: Settings) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


if __name__ == "__main__":
    serve(load)
