"""The weights of a checkpoint in a model of other parts, all or some of which then learn on."""

from collections.abc import Sequence

import torch

from salm.config import ModelConfig
from salm.errors import ConfigError
from salm.models.builders import build_model
from salm.models.salm import SALM
from salm.weights.checkpoint import Checkpoint

FIRST_OF_SPATIAL = "spatial_projection.0.weight"


def rebuilt(checkpoint: Checkpoint, config: ModelConfig) -> SALM:
    """The checkpoint's model, or its weights in a model with fewer branches, or with other networks beside them.

    Without a `Calibration`: that of a model which learns on would no longer fit.
    """
    known, wanted = checkpoint.config.audio, config.audio
    if wanted == known:
        checkpoint.model.calibration = None
        return checkpoint.model
    if not set(wanted.branches) <= set(known.branches):
        raise ConfigError(f"branches {list(wanted.branches)}: the model to start from has only {list(known.branches)}")
    model = build_model(config)
    old, state = checkpoint.model.state_dict(), model.state_dict()
    for name, fresh in state.items():
        if name in old and old[name].shape == fresh.shape:
            state[name] = old[name]
        elif name == FIRST_OF_SPATIAL:  # it reads something behind the branch's vector, or no longer does
            width = model.audio_encoder.out_width
            state[name] = torch.cat([old[name][:, :width], fresh[:, width:]], dim=1)
    model.load_state_dict(state)
    return model


def freeze_all_but(model: SALM, names: Sequence[str]) -> None:
    """Leave gradients to the named parts of a model alone.

    Raises:
        ConfigError: there is no such part.
    """
    model.requires_grad_(False)
    for name in names:
        try:
            model.get_submodule(name).requires_grad_(True)
        except AttributeError as error:
            known = ", ".join(part for part, _ in model.named_children())
            raise ConfigError(f"trained: no part {name!r}; expected some of {known}, or parts of those") from error
