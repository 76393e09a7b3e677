"""Named sizes, and the one place where a configuration becomes modules."""

from collections.abc import Callable

from salm.config import AudioEncoderConfig, ModelConfig, TextEncoderConfig
from salm.errors import ConfigError
from salm.models.audio_encoder import AudioEncoder
from salm.models.salm import SALM
from salm.models.text_encoder import TextEncoder


def salm_base() -> ModelConfig:
    """The paper's sizes: two HTSAT branches of width 96 (768 at the end), RoBERTa-base."""
    return ModelConfig(name="salm-base")


def salm_small() -> ModelConfig:
    """The same architecture at a size that trains and runs on a CPU: about 19 M parameters."""
    return ModelConfig(
        name="salm-small",
        audio=AudioEncoderConfig(
            width=48, depths=(2, 2, 2, 2), num_heads=(2, 4, 8, 16), arrival_channels=8, timbre_channels=24
        ),
        text=TextEncoderConfig(
            vocabulary_size=8_192, width=256, depth=4, num_heads=4, hidden_width=1024, max_tokens=64, dropout=0.0
        ),
    )


def salm_tiny() -> ModelConfig:
    """A few thousand parameters, for tests and for trying a pipeline; it knows nothing."""
    return ModelConfig(
        name="salm-tiny",
        embedding_width=512,
        audio=AudioEncoderConfig(width=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)),
        text=TextEncoderConfig(
            vocabulary_size=1_024, width=32, depth=2, num_heads=2, hidden_width=64, max_tokens=64, dropout=0.0
        ),
    )


SIZES: dict[str, Callable[[], ModelConfig]] = {
    "salm-base": salm_base,
    "salm-small": salm_small,
    "salm-tiny": salm_tiny,
}


def named_config(name: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        ConfigError: no such size; the message lists the valid names.
    """
    if name not in SIZES:
        raise ConfigError(f"unknown model size {name!r}; expected one of {', '.join(SIZES)}")
    return SIZES[name]()


def build_model(config: ModelConfig) -> SALM:
    """A model of the configured sizes with fresh weights."""
    audio, text = config.audio, config.text
    return SALM(
        AudioEncoder(
            width=audio.width,
            depths=audio.depths,
            num_heads=audio.num_heads,
            window=audio.window,
            num_mels=config.features.num_mels,
            branches=audio.branches,
            arrival_channels=audio.arrival_channels,
            timbre_channels=audio.timbre_channels,
        ),
        TextEncoder(
            vocabulary_size=text.vocabulary_size,
            width=text.width,
            depth=text.depth,
            num_heads=text.num_heads,
            hidden_width=text.hidden_width,
            max_tokens=text.max_tokens,
            dropout=text.dropout,
        ),
        embedding_width=config.embedding_width,
        query_bank=config.query_bank,
    )
