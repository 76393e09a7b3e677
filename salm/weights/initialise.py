"""A fresh SALM model -> one that starts from LAION-CLAP and PSELDNets (SALM paper, section on training).

What goes where:

- Text tower and text projection, semantic branch and semantic projection: CLAP. SALM's sentences are shorter, so it
  takes the first rows of the position embeddings.
- Spatial branch and the batch norm of all seven maps: PSELDNets, whose features are SALM's. The semantic branch then
  reads W as PSELDNets normalises it: CLAP's own batch norm belongs to the mel bands of 48 kHz.
- Without PSELDNets the spatial branch starts from CLAP too. One input map becomes several: each log-mel map gets the
  patch embedding divided by their number and CLAP's batch norm, so that equal log-mel maps give CLAP's tokens; the
  intensity maps start with zero weights and a fresh norm.
- Cross-stitch, spatial projection, DOA head, spatial weight and temperature stay fresh.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salm.audio.features import NUM_LOG_MEL_MAPS
from salm.config import AudioEncoderConfig, ModelConfig, TextEncoderConfig
from salm.errors import CheckpointError
from salm.models.audio_encoder import AudioEncoder
from salm.models.builders import build_model
from salm.models.salm import SALM
from salm.models.text_encoder import PAD_ID
from salm.weights.convert import ClapTowers

POSITIONS = "text_encoder.roberta.embeddings.position_embeddings.weight"
PATCHES = "patch_embed.proj.weight"
NORMS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Initialisation:
    """Where each weight of a model came from.

    Attributes:
        taken: own key -> "clap" or "pseldnets".
        fresh: own keys that keep their random start.
    """

    taken: dict[str, str]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        sources = list(self.taken.values())
        counts = ", ".join(f"{sources.count(name)} from {name}" for name in dict.fromkeys(sources))
        return f"{counts or 'nothing taken'}, {len(self.fresh)} fresh"


@torch.no_grad()
def initialise(model: SALM, *, clap: ClapTowers | None = None, pseldnets: AudioEncoder | None = None) -> Initialisation:
    """Overwrite a fresh model's weights with those of converted checkpoints; see the module for what goes where.

    Raises:
        CheckpointError: the checkpoints' sizes are not the model's; the message names the first weight that differs,
            and the model is as before.
    """
    own = model.state_dict()
    taken: dict[str, tuple[str, Tensor]] = {}
    if clap is not None:
        taken |= {key: ("clap", value) for key, value in _from_clap(model, clap).items()}
    if pseldnets is not None:
        spatial = pseldnets.state_dict()
        chosen = (key for key in spatial if key.startswith(("spatial.", "map_norm.")))
        taken |= {f"audio_encoder.{key}": ("pseldnets", spatial[key]) for key in chosen}
    for key, (source, value) in taken.items():
        if key not in own or own[key].shape != value.shape:
            expected = tuple(own[key].shape) if key in own else "no such weight"
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(value.shape)}, the model has {expected}; build the model in the "
                "checkpoint's sizes"
            )
    lacking = sorted(key for key in own if key.startswith(_whole_parts(clap, pseldnets)) and key not in taken)
    if lacking:
        raise CheckpointError(f"the checkpoints have no {lacking[0]}; build the model in the checkpoint's sizes")
    model.load_state_dict({key: taken[key][1] if key in taken else value for key, value in own.items()})
    return Initialisation(
        {key: source for key, (source, _) in taken.items()}, tuple(key for key in own if key not in taken)
    )


def initial_model(clap: ClapTowers, pseldnets: AudioEncoder | None, *, name: str) -> tuple[SALM, ModelConfig, str]:
    """A SALM model in the sizes of converted checkpoints, initialised from them.

    Returns:
        The model, its configuration, and what was taken from where.

    Raises:
        CheckpointError: the two checkpoints' sizes differ.
    """
    roberta = clap.text_encoder.roberta.config
    config = ModelConfig(
        name=name,
        embedding_width=len(clap.text_projection.state_dict()["2.weight"]),
        audio=AudioEncoderConfig(**clap.htsat.sizes),
        text=TextEncoderConfig(
            vocabulary_size=roberta.vocab_size,
            width=roberta.hidden_size,
            depth=roberta.num_hidden_layers,
            num_heads=roberta.num_attention_heads,
            hidden_width=roberta.intermediate_size,
            max_tokens=min(TextEncoderConfig.max_tokens, clap.text_encoder.max_tokens),
        ),
    )
    model = build_model(config)
    report = initialise(model, clap=clap, pseldnets=pseldnets)
    return model, config, str(report)


def spread_kernel(kernel: Tensor, num_maps: int) -> Tensor:
    """A patch embedding (width, 1, 4, 4) of one log-mel map for `num_maps`: shared by the log-mel maps, 0 elsewhere."""
    shared = min(num_maps, NUM_LOG_MEL_MAPS)
    spread = kernel.new_zeros(kernel.shape[0], num_maps, *kernel.shape[2:])
    spread[:, :shared] = kernel / shared
    return spread


def _whole_parts(clap: ClapTowers | None, pseldnets: AudioEncoder | None) -> tuple[str, ...]:
    """Prefixes of the parts that must not stay partly fresh."""
    parts: list[str] = []
    if clap is not None:
        parts += ["audio_encoder.semantic.", "text_encoder.", "text_projection.", "semantic_projection."]
    if clap is not None or pseldnets is not None:
        parts += ["audio_encoder.spatial.", "audio_encoder.map_norm."]
    return tuple(parts)


def _from_clap(model: SALM, clap: ClapTowers) -> dict[str, Tensor]:
    encoder, state = model.audio_encoder, clap.state_dict()
    taken = {key: value for key, value in state.items() if key.startswith(("text_encoder.", "text_projection."))}
    taken[POSITIONS] = taken[POSITIONS][: model.text_encoder.max_tokens + PAD_ID + 1]
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part == "audio_projection":
            taken[f"semantic_projection.{name}"] = value
        elif part == "htsat":
            for branch in ("semantic", "spatial"):
                maps = getattr(encoder, branch).patch_embed.proj.in_channels
                taken[f"audio_encoder.{branch}.{name}"] = spread_kernel(value, maps) if name == PATCHES else value
    norm = encoder.map_norm.norm.state_dict()
    for name in NORMS:
        mels = state[f"map_norm.norm.{name}"]
        log_mel = mels.repeat(NUM_LOG_MEL_MAPS)
        taken[f"audio_encoder.map_norm.norm.{name}"] = torch.cat([log_mel, norm[name][len(log_mel) :]])
    taken["audio_encoder.map_norm.norm.num_batches_tracked"] = norm["num_batches_tracked"]
    return taken
