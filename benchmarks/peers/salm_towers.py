"""SALM's encoders for `benchmarks/encode.py`: the semantic branch at LAION-CLAP's size, salm-base and salm-small.

The semantic branch has the weights of the `ClapModel` in `folder/clap`, converted by `salm.weights.convert` (kept in
`folder/tower.pt`, so that this process needs no transformers), and reads CLAP's log-mel map at 48 kHz: SALM's feature
extractor at that rate, with CLAP's filterbank in place of its own. All run as `salm.load(..., precision=...)` runs
them: `tuned_model`, clip by clip on the threads there are, with integers some clips at a time; "autocast" is the same
as "bf16" and left out.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.peers.measure import Encoder, Settings, serve
from salm.audio.features import FeatureExtractor
from salm.config import FeatureConfig, TextEncoderConfig
from salm.models.audio_encoder import MapNorm
from salm.models.builders import build_model, named_config
from salm.models.htsat import HTSAT
from salm.models.precision import INTEGER_BITS, Precision, compiled_code_for
from salm.models.salm import Projection
from salm.models.tuned import tuned_branch, tuned_map_norm, tuned_model, tuned_projection
from salm.weights.checkpoint import load_checkpoint
from salm.weights.registry import find_checkpoint
from salm.window_encoder import map_on_threads, split_for_threads

CLAP_FEATURES = FeatureConfig(sample_rate_hz=48_000, hop_samples=480, min_frequency_hz=50.0, max_frequency_hz=14_000.0)
SMALL_TEXT = TextEncoderConfig(vocabulary_size=100, width=32, depth=1, num_heads=2, hidden_width=32, max_tokens=8)
"""The text tower takes no part here, and would hide the audio tower's memory."""
PRECISIONS: dict[str, Precision] = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "int16": "int16"}


def load(settings: Settings) -> Encoder:
    """`clap-size`, or the audio side of a named SALM model."""
    if settings.precision not in PRECISIONS:
        raise ValueError(f"SALM has no {settings.precision}: bf16 weights are cast once")
    return clap_size(settings) if settings.name == "clap-size" else dual_encoder(settings)


def clap_size(settings: Settings) -> Encoder:
    """HTSAT-tiny behind CLAP's features: the audio side of `ClapTowers`, without its text tower."""
    state = torch.load(settings.folder / "tower.pt", weights_only=True)
    norm, htsat = MapNorm(1, CLAP_FEATURES.num_mels).eval(), HTSAT(num_maps=1, **state["sizes"]).eval()
    projection = Projection(htsat.out_width, *state["projection"]["2.weight"].shape)
    norm.norm.load_state_dict({key[4:]: value for key, value in state["tower"].items() if key.startswith("bn0.")})
    htsat.load_state_dict({key: value for key, value in state["tower"].items() if not key.startswith("bn0.")})
    projection.load_state_dict(state["projection"])
    for part in (norm, htsat, projection):
        part.to(settings.device)
    precision = PRECISIONS[settings.precision]
    map_norm, branch = tuned_map_norm(norm, precision), tuned_branch(htsat, precision)
    project = tuned_projection(projection, precision)
    mel_weights = torch.from_numpy(np.load(settings.folder / "clap_mels.npy").astype(np.float32))
    extractor = FeatureExtractor(CLAP_FEATURES, mel_weights, compiled_for=compiled_code_for(precision))
    extractor.to(settings.device)

    def embed(logmel: torch.Tensor) -> torch.Tensor:
        # `ClapTowers.embed_audio` in its steps.
        return project(branch(map_norm.image(logmel, stretched=True)).mean(dim=1))

    return _encoder(
        precision,
        "clips_48k.npy",
        lambda clips: extractor(torch.from_numpy(clips[:, None]).to(settings.device)),
        embed,
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
    precision = PRECISIONS[settings.precision]
    tuned = tuned_model(model.to(settings.device), precision)
    extractor = FeatureExtractor(features, compiled_for=compiled_code_for(precision)).to(settings.device)
    return _encoder(
        precision,
        "clips_24k.npy",
        lambda clips: extractor(torch.from_numpy(clips).to(settings.device)),
        lambda maps: tuned.encode_audio(maps).joint,
    )


def _encoder(
    precision: Precision,
    clips: str,
    features: Callable[[np.ndarray], torch.Tensor],
    embed: Callable[[torch.Tensor], torch.Tensor],
) -> Encoder:
    """Both steps for a batch: of a CPU's, some clips after the others on each thread, as `WindowEncoder` does."""

    def shared_out(function: Callable, clips: np.ndarray | torch.Tensor) -> torch.Tensor:
        def run(some: np.ndarray | torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return function(some)

        return torch.cat(map_on_threads(run, split_for_threads(clips, together=precision in INTEGER_BITS)))

    def embed_batch(maps: torch.Tensor) -> torch.Tensor:
        return embed(maps) if maps.device.type != "cpu" else shared_out(embed, maps)

    def embed_samples(samples: np.ndarray) -> torch.Tensor:
        return shared_out(lambda clips: embed(features(clips)), samples)

    return Encoder(clips, features, embed_batch, embed_samples)


if __name__ == "__main__":
    serve(load)
