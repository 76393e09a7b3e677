"""A checkpoint folder <-> a model: `config.json`, `model.safetensors`, `tokenizer.json` and a model card."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from salm.config import ModelConfig, to_mapping
from salm.errors import CheckpointError, ConfigError
from salm.models.builders import build_model
from salm.models.salm import SALM
from salm.text.tokenizer import Tokenizer
from salm.weights.files import (
    CARD_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    check_fit,
    fingerprint,
    read_config,
    read_tokenizer,
)

CONVENTION = "AmbiX: ACN order W, Y, Z, X; SN3D gains; azimuth counter-clockwise from the front"


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode with what belongs to it.

    Attributes:
        model: fp32 weights, on the CPU.
        config: the sizes that it was built from.
        tokenizer: for its text tower.
        fingerprint: first 12 hex digits of the SHA-256 of weights, configuration and tokenizer.
        dtype: in which the weights are stored.
        card: text of the model card, if there is one.
    """

    model: SALM
    config: ModelConfig
    tokenizer: Tokenizer
    fingerprint: str
    dtype: torch.dtype = torch.float32
    card: str | None = None

    @property
    def model_id(self) -> str:
        """Name and fingerprint, as an index remembers them: "salm-small:0123456789ab"."""
        return f"{self.config.name}:{self.fingerprint}"


def save_checkpoint(
    folder: str | Path,
    model: SALM,
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    card: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint folder; an existing one is replaced only once the new one is complete.

    Args:
        folder: created with its parents. A folder that is no checkpoint is refused.
        card: text of the model card; None keeps the card that is there.
        dtype: of the stored floating-point weights.

    Raises:
        CheckpointError: the folder exists and holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: a file; choose a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder}: not empty and no checkpoint; choose another folder")
    import salm  # the version alone; the package imports nothing by itself

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        document = {"format_version": FORMAT_VERSION, "salm_version": salm.__version__, "convention": CONVENTION}
        (staging / CONFIG_FILE).write_text(json.dumps(document | {"model": to_mapping(config)}, indent=2) + "\n")
        save_file(
            {
                name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
                for name, value in model.state_dict().items()
            },
            staging / WEIGHTS_FILE,
        )
        tokenizer.save(staging)
        if card is not None:
            (staging / CARD_FILE).write_text(card, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for file in sorted(staging.iterdir()):
            file.chmod(0o644)  # safetensors writes for the owner alone
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder; no pickle is ever loaded.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the configuration.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config)
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: damaged ({error}); copy or download it again") from error
    model = _build(folder / CONFIG_FILE, config)
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    shapes = ({name: tuple(value.shape) for name, value in each.items()} for each in (model.state_dict(), state))
    check_fit(folder / WEIGHTS_FILE, *shapes)
    model.load_state_dict(state)
    card = (folder / CARD_FILE).read_text(encoding="utf-8") if (folder / CARD_FILE).is_file() else None
    return Checkpoint(model.eval(), config, tokenizer, fingerprint(folder), dtype, card)


def _build(path: Path, config: ModelConfig) -> SALM:
    # Fresh weights are drawn, then overwritten: loading a model must not move the caller's random state.
    with torch.random.fork_rng(devices=[]):
        try:
            return build_model(config)
        except (TypeError, ValueError, RuntimeError, ConfigError) as error:
            raise CheckpointError(f"{path}: no model can be built from it ({error})") from error
