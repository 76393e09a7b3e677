"""Weights of others -> SALM's modules: PSELDNets' EINV2-HTSAT, LAION-CLAP, and transformers' `ClapModel`.

Each key map is explicit; what is left out is named with its reason, anything else is an error (`salm.weights.foreign`).
`read_*` give the module and the report of what was used; `*_from_*` the module alone. `salm.weights.initialise` puts
them into a SALM model.
"""

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from salm.errors import CheckpointError, ConfigError
from salm.models.audio_encoder import AudioEncoder, MapNorm
from salm.models.htsat import HTSAT
from salm.models.salm import Projection
from salm.models.text_encoder import PAD_ID, TextEncoder
from salm.weights.foreign import ForeignState, Report, Rules, htsat_sizes, match_keys, read_state

NUM_MAPS = 7
ROBERTA_HEAD_WIDTH = 64
"""Width of an attention head in every released RoBERTa: the only size that the weights do not tell."""
_NORM = r"(weight|bias|running_mean|running_var)"

PSELDNETS_RULES: Rules = (
    (rf"net\.scalar\.(\d+)\.{_NORM}", r"scalar.\1.\2"),
    (r"net\.sed_encoder\.(.+)", r"semantic.\1"),
    (r"net\.doa_encoder\.(.+)", r"spatial.\1"),
    (r"net\.stitch1\.(\d+)\.weight", r"stitches.\1.weight"),
)
PSELDNETS_IGNORED = {
    r".*\.relative_position_index": "rebuilt from the window's size",
    r".*\.attn_mask": "rebuilt from the window's size",
    r".*\.num_batches_tracked": "counters of training steps",
    r"net\.(?:sed|doa)_tscam_conv\.(?:weight|bias)": "heads of the original task",
}
LAION_RULES: Rules = (
    (rf"(?:module\.)?audio_branch\.bn0\.{_NORM}", r"map_norm.norm.\1"),
    (r"(?:module\.)?audio_branch\.((?:patch_embed\.(?:proj|norm)|layers|norm)\..+)", r"htsat.\1"),
    (r"(?:module\.)?text_branch\.(.+)", r"text_encoder.roberta.\1"),
    (r"(?:module\.)?((?:audio|text)_projection\.[02]\.(?:weight|bias))", r"\1"),
)
LAION_IGNORED = {
    r".*\.relative_position_index": "rebuilt from the window's size",
    r".*\.attn_mask": "rebuilt from the window's size",
    r".*\.num_batches_tracked": "counters of training steps",
    r"(?:module\.)?audio_branch\.(?:tscam_conv|head)\..+": "heads of the original task",
    r"(?:module\.)?audio_branch\.(?:spectrogram|logmel)_extractor\..+": "the original feature extractor",
    r"(?:module\.)?(?:audio|text)_transform\..+": "heads for tuning on one modality",
    r"(?:module\.)?logit_scale_[at]": "temperatures of the original training",
    r"(?:module\.)?text_branch\.embeddings\.(?:position_ids|token_type_ids)": "constants",
}
_HF_LAYER = r"audio_model\.audio_encoder\.(layers\.\d+\.blocks\.\d+)\."
HF_RULES: Rules = (
    (rf"audio_model\.audio_encoder\.batch_norm\.{_NORM}", r"map_norm.norm.\1"),
    (rf"{_HF_LAYER}layernorm_before\.(.+)", r"htsat.\1.norm1.\2"),
    (rf"{_HF_LAYER}layernorm_after\.(.+)", r"htsat.\1.norm2.\2"),
    (rf"{_HF_LAYER}attention\.self\.relative_position_bias_table", r"htsat.\1.attn.relative_position_bias_table"),
    (rf"{_HF_LAYER}attention\.self\.(query|key|value)\.(weight|bias)", r"htsat.\1.attn.qkv.\2.\3"),
    (rf"{_HF_LAYER}attention\.output\.dense\.(.+)", r"htsat.\1.attn.proj.\2"),
    (rf"{_HF_LAYER}intermediate\.dense\.(.+)", r"htsat.\1.mlp.fc1.\2"),
    (rf"{_HF_LAYER}output\.dense\.(.+)", r"htsat.\1.mlp.fc2.\2"),
    (r"audio_model\.audio_encoder\.(layers\.\d+\.downsample\.(?:reduction|norm)\..+)", r"htsat.\1"),
    (r"audio_model\.audio_encoder\.((?:patch_embed\.(?:proj|norm)|norm)\..+)", r"htsat.\1"),
    (r"text_model\.(.+)", r"text_encoder.roberta.\1"),
    (r"((?:audio|text)_projection)\.linear1\.(.+)", r"\1.0.\2"),
    (r"((?:audio|text)_projection)\.linear2\.(.+)", r"\1.2.\2"),
)
HF_IGNORED = {
    r".*\.relative_position_index": "rebuilt from the window's size",
    r".*\.num_batches_tracked": "counters of training steps",
    r"logit_scale_[at]": "temperatures of the original training",
    r"text_model\.embeddings\.(?:position_ids|token_type_ids)": "constants",
}
HF_AUDIO = {
    "enable_fusion": False,
    "spec_size": 256,
    "patch_size": 4,
    "patch_embed_input_channels": 1,
    "hidden_act": "gelu",
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-5,
    "projection_hidden_act": "relu",
}
"""Values of a `ClapAudioConfig` that SALM's HTSAT has built in."""
HF_TEXT = {"hidden_act": "gelu", "pad_token_id": PAD_ID, "type_vocab_size": 1, "projection_hidden_act": "relu"}
"""The same of a `ClapTextConfig`."""


class ClapTowers(nn.Module):
    """The two towers of LAION-CLAP: one HTSAT branch over stretched log-mel maps, and RoBERTa.

    Embeddings are the projections' output as it is, like SALM's own and the reference numbers; `ClapModel`'s
    `get_*_features` are these divided by their lengths.
    """

    def __init__(self, htsat: HTSAT, text_encoder: TextEncoder, *, num_mels: int, embedding_width: int) -> None:
        super().__init__()
        self.map_norm = MapNorm(1, num_mels)
        self.htsat = htsat
        self.text_encoder = text_encoder
        self.audio_projection = Projection(htsat.out_width, embedding_width, embedding_width)
        self.text_projection = Projection(text_encoder.out_width, embedding_width, embedding_width)

    def pool_audio(self, logmel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch width"]:
        """The audio tower's vector before the projection."""
        return self.htsat(self.map_norm.image(logmel, stretched=True)).mean(dim=1)

    def embed_audio(self, logmel: Float[Tensor, "batch 1 frames mels"]) -> Float[Tensor, "batch embedding"]:
        """Unnormalised audio embeddings."""
        return self.audio_projection(self.pool_audio(logmel))

    def embed_text(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch embedding"]:
        """Unnormalised text embeddings."""
        return self.text_projection(self.text_encoder(ids, mask))


def audio_encoder_from_pseldnets(path: str | Path) -> AudioEncoder:
    """The dual encoder of a PSELDNets EINV2-HTSAT checkpoint, in the checkpoint's own sizes and evaluation mode.

    Its semantic branch ("sed") reads the four log-mel maps, its spatial branch ("doa") all seven.

    Raises:
        CheckpointError: not such a checkpoint; the message lists missing or unexpected keys.
    """
    return read_pseldnets(path)[0]


def read_pseldnets(path: str | Path) -> tuple[AudioEncoder, Report]:
    """As `audio_encoder_from_pseldnets`, with the report of what was used and what was left out."""
    state = match_keys(str(path), read_state(path), PSELDNETS_RULES, PSELDNETS_IGNORED)
    for name in ("weight", "bias", "running_mean", "running_var"):
        state.join([f"scalar.{number}.{name}" for number in range(NUM_MAPS)], f"map_norm.norm.{name}")
    try:
        encoder = AudioEncoder(
            **htsat_sizes(state, "semantic."),
            num_semantic_maps=state.find("semantic.patch_embed.proj.weight").shape[1],
            num_mels=len(state.find("map_norm.norm.weight")) // NUM_MAPS,
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    state.load_into(encoder)
    return encoder.eval(), state.report


def clap_from_laion(path: str | Path, *, text_heads: int | None = None) -> ClapTowers:
    """The towers of a LAION-CLAP `.pt` file (HTSAT and RoBERTa), in its own sizes and evaluation mode.

    Args:
        path: the file; one trained with feature fusion is refused.
        text_heads: attention heads of the text tower; by default RoBERTa's 64 channels per head, but at least two.

    Raises:
        CheckpointError: not such a checkpoint; the message lists missing or unexpected keys.
    """
    return read_laion_clap(path, text_heads=text_heads)[0]


def read_laion_clap(path: str | Path, *, text_heads: int | None = None) -> tuple[ClapTowers, Report]:
    """As `clap_from_laion`, with the report of what was used and what was left out."""
    state = match_keys(str(path), read_state(path), LAION_RULES, LAION_IGNORED)
    width = state.find("text_encoder.roberta.embeddings.word_embeddings.weight").shape[1]
    return _towers(state, text_heads or max(2, width // ROBERTA_HEAD_WIDTH), layer_norm_eps=1e-5), state.report


def clap_from_hf(name_or_path: str | Path) -> ClapTowers:
    """The towers of a Hugging Face `ClapModel` repository or folder, in its own sizes and evaluation mode.

    Raises:
        CheckpointError: not found, not a `ClapModel`, or one of a kind that SALM's HTSAT is not.
    """
    return read_hf_clap(name_or_path)[0]


def read_hf_clap(name_or_path: str | Path) -> tuple[ClapTowers, Report]:
    """As `clap_from_hf`, with the report of what was used and what was left out."""
    from transformers import ClapConfig, ClapModel

    source = str(name_or_path)
    try:
        kind = ClapConfig.get_config_dict(source)[0].get("model_type")
        if kind != "clap":
            raise CheckpointError(f"{source}: expected a ClapModel, got model type {kind!r}")
        loaded: Any = ClapModel.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{source}: no ClapModel here or on the Hugging Face hub ({reason})") from error
    model, loading = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        raise CheckpointError(f"{source}: its weights do not fit its configuration: {wrong}")
    return towers_from_clap_model(model, source)


def towers_from_clap_model(model: Any, source: str) -> tuple[ClapTowers, Report]:
    """The towers of a loaded `transformers.ClapModel`, with the report of what was used and what was left out.

    Raises:
        CheckpointError: a model of a kind that SALM's HTSAT is not (feature fusion, other patches).
    """
    text = model.config.text_config
    for part, values, built_in in (("audio", model.config.audio_config, HF_AUDIO), ("text", text, HF_TEXT)):
        for name, expected in built_in.items():
            if getattr(values, name) != expected:
                raise CheckpointError(
                    f"{source}: {part}_config.{name} is {getattr(values, name)!r}, SALM converts {expected!r} alone"
                )
    state = match_keys(source, model.state_dict(), HF_RULES, HF_IGNORED)
    for query in [key for key in state.weights if ".qkv.query." in key]:
        parts = [query.replace(".query.", f".{name}.") for name in ("query", "key", "value")]
        state.join(parts, query.replace(".query.", "."))
    return _towers(state, text.num_attention_heads, layer_norm_eps=text.layer_norm_eps), state.report


def read_clap(name_or_path: str | Path) -> tuple[ClapTowers, Report]:
    """The towers of a LAION-CLAP file, or else of a `ClapModel` folder or repository, with the report."""
    return (read_laion_clap if Path(name_or_path).is_file() else read_hf_clap)(name_or_path)


def _towers(state: ForeignState, text_heads: int, *, layer_norm_eps: float) -> ClapTowers:
    roberta = "text_encoder.roberta."
    vocabulary_size, width = state.find(f"{roberta}embeddings.word_embeddings.weight").shape
    numbers = [int(key.split(".")[4]) for key in state.weights if key.startswith(f"{roberta}encoder.layer.")]
    positions = len(state.find(f"{roberta}embeddings.position_embeddings.weight"))
    if width % text_heads:
        raise CheckpointError(f"{state.source}: text width {width} is not a multiple of {text_heads} heads")
    try:
        htsat = HTSAT(num_maps=1, **htsat_sizes(state, "htsat."))
    except ConfigError as error:
        raise CheckpointError(f"{state.source}: {error}") from error
    text_encoder = TextEncoder(
        vocabulary_size=vocabulary_size,
        width=width,
        depth=1 + max(numbers, default=0),
        num_heads=text_heads,
        hidden_width=state.find(f"{roberta}encoder.layer.0.intermediate.dense.weight").shape[0],
        max_tokens=positions - PAD_ID - 1,
        layer_norm_eps=layer_norm_eps,
    )
    towers = ClapTowers(
        htsat,
        text_encoder,
        num_mels=len(state.find("map_norm.norm.weight")),
        embedding_width=state.find("audio_projection.0.weight").shape[0],
    )
    state.load_into(towers)
    return towers.eval()
