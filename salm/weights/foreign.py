"""Checkpoints of other projects, read safely and matched key by key.

Every foreign key is used, ignored by name with a reason, or an error; so is every weight that is missing.
"""

import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salm.errors import CheckpointError

Rules = Sequence[tuple[str, str]]
"""(pattern of a whole foreign key, own key): the first that matches counts."""
Reasons = Mapping[str, str]
"""Pattern of a whole foreign key -> why it is not needed."""
COUNTERS = re.compile(r"(?:^|\.)num_batches_tracked$")
"""Own buffers that a checkpoint may lack: they count training steps and change no output."""


@dataclass(frozen=True)
class Report:
    """What became of each key of a foreign checkpoint.

    Attributes:
        source: file or repository.
        used: foreign key -> own key.
        ignored: foreign key -> reason.
    """

    source: str
    used: dict[str, str]
    ignored: dict[str, str]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self.ignored.values()).most_common())
        return f"{self.source}: {len(self.used)} weights used, {len(self.ignored)} left out ({reasons or 'none'})"


@dataclass(frozen=True)
class ForeignState:
    """A foreign state dictionary under own keys."""

    source: str
    weights: dict[str, Tensor]
    report: Report
    unexpected: tuple[str, ...]

    def find(self, key: str) -> Tensor:
        """The weight of an own key that the sizes are read from.

        Raises:
            CheckpointError: there is none, so this is a checkpoint of another layout.
        """
        if key not in self.weights:
            others = f"; unexpected: {_list(self.unexpected)}" if self.unexpected else ""
            raise CheckpointError(f"{self.source}: nothing becomes {key}; the file has another layout{others}")
        return self.weights[key]

    def join(self, keys: Sequence[str], joined: str) -> None:
        """Replace several weights by their concatenation under a new key.

        Raises:
            CheckpointError: some of them are missing.
        """
        missing = [key for key in keys if key not in self.weights]
        if missing:
            raise CheckpointError(f"{self.source}: missing {_list(missing)}, needed for {joined}")
        self.weights[joined] = torch.cat([self.weights.pop(key) for key in keys])
        for foreign, own in self.report.used.items():
            if own in keys:
                self.report.used[foreign] = joined

    def load_into(self, module: nn.Module) -> None:
        """Fill a module; nothing may be missing, left over or of another shape.

        Raises:
            CheckpointError: the keys or shapes do not fit; the message lists them.
        """
        own = module.state_dict()
        missing = sorted(key for key in own if key not in self.weights and not COUNTERS.search(key))
        foreign = {target: key for key, target in self.report.used.items()}
        surplus = sorted({*self.unexpected, *(foreign[key] for key in self.weights if key not in own)})
        if missing or surplus:
            raise CheckpointError(
                f"{self.source}: {len(missing)} weights missing{_list(missing, ': ')}, "
                f"{len(surplus)} unexpected{_list(surplus, ': ')}"
            )
        for key, value in self.weights.items():
            if value.shape != own[key].shape:
                raise CheckpointError(
                    f"{self.source}: {foreign[key]} has shape {tuple(value.shape)}, its neighbours ask for "
                    f"{tuple(own[key].shape)}"
                )
        module.load_state_dict({key: self.weights.get(key, value) for key, value in own.items()})


def match_keys(source: str, state: Mapping[str, Tensor], rules: Rules, reasons: Reasons) -> ForeignState:
    """Rename a state dictionary by rules; what neither a rule nor a reason covers, or comes twice, is unexpected."""
    weights: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    ignored: dict[str, str] = {}
    unexpected = []
    for key, value in state.items():
        reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, key)), None)
        own = next((re.sub(pattern, name, key) for pattern, name in rules if re.fullmatch(pattern, key)), None)
        if reason is not None:
            ignored[key] = reason
        elif own is None or own in weights:
            unexpected.append(key)
        else:
            used[key] = own
            weights[own] = value.float() if value.is_floating_point() else value
    return ForeignState(source, weights, Report(source, used, ignored), tuple(unexpected))


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dictionary of a `.pt` or `.ckpt` file, plain or under `state_dict`; no code in it is ever run.

    Raises:
        CheckpointError: no such file, or it holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with _numpy_scalars():
            document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a PyTorch checkpoint of plain tensors ({type(error).__name__}); if it is a trusted one that "
            "also holds other objects, save its `state_dict` alone and convert that"
        ) from error
    state = document.get("state_dict", document) if isinstance(document, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dictionary of tensors, or one under `state_dict`")
    return dict(state)


def htsat_sizes(state: ForeignState, prefix: str) -> dict[str, Any]:
    """Width, depths, heads and window of an HTSAT branch, read off its weights."""
    pattern = re.compile(re.escape(prefix) + r"layers\.(\d+)\.blocks\.(\d+)\.")
    found = {(int(place[1]), int(place[2])) for place in map(pattern.match, state.weights) if place}
    stages = range(1 + max((stage for stage, _ in found), default=0))
    tables = [state.find(f"{prefix}layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in stages]
    return {
        "width": state.find(f"{prefix}patch_embed.proj.weight").shape[0],
        "depths": tuple(sum(place[0] == stage for place in found) for stage in stages),
        "num_heads": tuple(table.shape[1] for table in tables),
        "window": (round(tables[0].shape[0] ** 0.5) + 1) // 2,
    }


def _numpy_scalars() -> AbstractContextManager[None]:
    """Lets numpy's plain numbers through: training scripts leave them beside the weights (a best score, a rate)."""
    scalar: Any = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    return torch.serialization.safe_globals([*((scalar, name) for name in names), np.dtype, *kinds])


def _list(keys: Sequence[str], before: str = "") -> str:
    shown = ", ".join(keys[:4])
    return (before if keys else "") + shown + (", ..." if len(keys) > 4 else "")
