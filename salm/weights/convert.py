"""Weights of others -> SALM's modules: PSELDNets' EINV2-HTSAT and LAION-CLAP, key by key.

Every key of a foreign checkpoint is used, or ignored by name (`IGNORED`), or an error. Files are read with
`weights_only=True`.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from salm.errors import CheckpointError
from salm.models.audio_encoder import AudioEncoder, MapNorm
from salm.models.htsat import HTSAT, fold_image, stretch_time
from salm.models.salm import Projection
from salm.models.text_encoder import PAD_ID, TextEncoder

IGNORED = (
    r"relative_position_index$",  # rebuilt from the window's size
    r"attn_mask$",
    r"tscam_conv\.",  # classification heads of the original task
    r"(?:^|\.)head\.",
    r"num_batches_tracked$",
    r"spectrogram_extractor\.",  # SALM computes its own features
    r"logmel_extractor\.",
    r"_transform\.",  # LAION-CLAP's heads for single-modality tuning
    r"logit_scale_[at]$",
    r"embeddings\.position_ids$",
)
"""Patterns of keys that are left out, and why."""
NUM_MAPS = 7


def audio_encoder_from_pseldnets(path: str | Path) -> AudioEncoder:
    """The dual encoder of a PSELDNets EINV2-HTSAT checkpoint, in the checkpoint's own sizes and evaluation mode.

    Its semantic branch ("sed") reads the four log-mel maps, its spatial branch ("doa") all seven.

    Raises:
        CheckpointError: not such a checkpoint; the message lists missing or unexpected keys.
    """
    state = {re.sub(r"^net\.", "", key): value for key, value in _read(path).items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("scalar.") or _is_ignored(key):
            continue
        key = re.sub(r"^sed_encoder\.", "semantic.", key)
        key = re.sub(r"^doa_encoder\.", "spatial.", key)
        renamed[re.sub(r"^stitch1\.", "stitches.", key)] = value
    for name in ("weight", "bias", "running_mean", "running_var"):
        parts = [state[key] for number in range(NUM_MAPS) if (key := f"scalar.{number}.{name}") in state]
        if len(parts) < NUM_MAPS:
            raise CheckpointError(f"{path}: no scalar.0 to scalar.{NUM_MAPS - 1}.{name}; expected EINV2-HTSAT")
        renamed[f"map_norm.norm.{name}"] = torch.cat(parts)
    encoder = AudioEncoder(
        **_htsat_sizes(path, renamed, "semantic."),
        num_semantic_maps=_find(path, renamed, "semantic.patch_embed.proj.weight").shape[1],
        num_mels=len(renamed["map_norm.norm.weight"]) // NUM_MAPS,
    )
    _load(path, encoder, renamed)
    return encoder.eval()


class ClapTowers(nn.Module):
    """The two towers of LAION-CLAP: one HTSAT branch over stretched log-mel maps, and RoBERTa."""

    def __init__(self, htsat: HTSAT, text_encoder: TextEncoder, *, num_mels: int, embedding_width: int) -> None:
        super().__init__()
        self.map_norm = MapNorm(1, num_mels)
        self.htsat = htsat
        self.text_encoder = text_encoder
        self.audio_projection = Projection(htsat.out_width, embedding_width, embedding_width)
        self.text_projection = Projection(text_encoder.out_width, embedding_width, embedding_width)

    def pool_audio(self, logmel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch width"]:
        """The audio tower's vector before the projection."""
        maps = stretch_time(self.map_norm(logmel.transpose(-1, -2)))
        return self.htsat(fold_image(maps)).mean(dim=1)

    def embed_audio(self, logmel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch embedding"]:
        """L2-normalised audio embeddings."""
        return functional.normalize(self.audio_projection(self.pool_audio(logmel)), dim=-1)

    def embed_text(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised text embeddings."""
        return functional.normalize(self.text_projection(self.text_encoder(ids, mask)), dim=-1)


def clap_from_laion(path: str | Path) -> ClapTowers:
    """The towers of a LAION-CLAP `.pt` file, in the checkpoint's own sizes and evaluation mode.

    Raises:
        CheckpointError: not such a checkpoint; the message lists missing or unexpected keys.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in _read(path).items():
        if _is_ignored(key):
            continue
        key = re.sub(r"^module\.", "", key)
        key = re.sub(r"^audio_branch\.bn0\.", "map_norm.norm.", key)
        key = re.sub(r"^audio_branch\.", "htsat.", key)
        renamed[re.sub(r"^text_branch\.", "text_encoder.roberta.", key)] = value
    roberta = "text_encoder.roberta."
    words = _find(path, renamed, f"{roberta}embeddings.word_embeddings.weight")
    hidden = _find(path, renamed, f"{roberta}encoder.layer.0.intermediate.dense.weight")
    depth = 1 + max(int(key.split(".")[4]) for key in renamed if key.startswith(f"{roberta}encoder.layer."))
    towers = ClapTowers(
        HTSAT(num_maps=1, **_htsat_sizes(path, renamed, "htsat.")),
        TextEncoder(
            vocabulary_size=words.shape[0],
            width=words.shape[1],
            depth=depth,
            num_heads=max(1, words.shape[1] // ROBERTA_HEAD_WIDTH) if words.shape[1] >= 128 else SMALL_HEADS,
            hidden_width=hidden.shape[0],
            max_tokens=_find(path, renamed, f"{roberta}embeddings.position_embeddings.weight").shape[0] - PAD_ID - 1,
        ),
        num_mels=len(_find(path, renamed, "map_norm.norm.weight")),
        embedding_width=_find(path, renamed, "audio_projection.0.weight").shape[0],
    )
    _load(path, towers, renamed)
    return towers.eval()


ROBERTA_HEAD_WIDTH = 64
"""Width of an attention head in every released RoBERTa: the only size that the weights do not tell."""
SMALL_HEADS = 2
"""Heads of encoders narrower than two such heads (test fixtures)."""


def _read(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: not a PyTorch checkpoint of plain tensors ({type(error).__name__})") from error
    state = document.get("state_dict", document) if isinstance(document, Mapping) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dictionary of tensors, or one under `state_dict`")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _is_ignored(key: str) -> bool:
    return any(re.search(pattern, key) for pattern in IGNORED)


def _find(path: str | Path, state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"{path}: no {key}; another layout ({', '.join(list(state)[:3])}, ...)")
    return state[key]


def _htsat_sizes(path: str | Path, state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Width, depths, heads and window of an HTSAT branch, read off its weights."""
    blocks = [key.removeprefix(f"{prefix}layers.") for key in state if key.startswith(f"{prefix}layers.")]
    places = [re.match(r"(\d+)\.blocks\.(\d+)\.", key) for key in blocks]
    found = {(int(place[1]), int(place[2])) for place in places if place}
    if not found:
        raise CheckpointError(f"{path}: no {prefix}layers.*.blocks.*; expected HTSAT weights")
    stages = range(1 + max(stage for stage, _ in found))
    tables = [state[f"{prefix}layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    return {
        "width": _find(path, state, f"{prefix}patch_embed.proj.weight").shape[0],
        "depths": tuple(sum(1 for place in found if place[0] == stage) for stage in stages),
        "num_heads": tuple(table.shape[1] for table in tables),
        "window": (round(tables[0].shape[0] ** 0.5) + 1) // 2,
    }


def _load(path: str | Path, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    missing = sorted(key for key in own if key not in state and not _is_ignored(key))
    surplus = sorted(key for key in state if key not in own)
    if missing or surplus:
        raise CheckpointError(
            f"{path}: {len(missing)} keys missing {missing[:4]}, {len(surplus)} unexpected {surplus[:4]}; "
            "only the keys in salm.weights.convert.IGNORED may be left over"
        )
    try:
        module.load_state_dict({key: state.get(key, own[key]) for key in own})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: sizes do not fit together ({str(error).splitlines()[1].strip()})") from error
