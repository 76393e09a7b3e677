"""What a model is made of, as frozen values: read from and written to `config.json` and YAML, and nothing else.

Only the builders (`salm.models.builders`) turn these into modules; every module takes plain values.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from salm.errors import ConfigError

T = TypeVar("T")
BRANCHES = ("semantic", "spatial")
"""The two branches of the audio tower."""


@dataclass(frozen=True)
class FeatureConfig:
    """What a waveform goes through before the model; stored with every checkpoint."""

    sample_rate_hz: int = 24_000
    clip_s: float = 10.0
    fft_samples: int = 1024
    hop_samples: int = 240
    num_mels: int = 64
    min_frequency_hz: float = 20.0
    max_frequency_hz: float = 12_000.0

    def __post_init__(self) -> None:
        _check_numbers("features", self)
        if self.max_frequency_hz > self.sample_rate_hz / 2 or self.min_frequency_hz >= self.max_frequency_hz:
            raise ConfigError(
                f"features: mel bands from {self.min_frequency_hz} to {self.max_frequency_hz} Hz do not fit below "
                f"half the sample rate, {self.sample_rate_hz / 2} Hz"
            )

    @property
    def clip_samples(self) -> int:
        """Samples of one model input."""
        return round(self.clip_s * self.sample_rate_hz)

    @property
    def num_frames(self) -> int:
        """Frames of one model input (a centred STFT has one more than whole hops)."""
        return self.clip_samples // self.hop_samples + 1


@dataclass(frozen=True)
class AudioEncoderConfig:
    """Sizes of each of the two HTSAT branches; `num_heads` and `depths` have one entry per stage.

    `branches` may name one of the two alone: the paper's SALM-s is "spatial", its LAION-CLAP baseline "semantic".
    The paper does not have the other two, which stand beside a branch where they are above 0: `arrival_channels` is the
    width of a learned weighting of the intensity vectors (`salm.models.arrival`), `timbre_channels` that of a
    convolutional network over the log-mel map of W (`salm.models.timbre`).
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 8
    branches: tuple[str, ...] = BRANCHES
    arrival_channels: int = 0
    timbre_channels: int = 0

    def __post_init__(self) -> None:
        _check_numbers("audio", self)
        if not self.branches or not set(self.branches) <= set(BRANCHES):
            raise ConfigError(f"audio.branches: expected one or both of {', '.join(BRANCHES)}, got {self.branches!r}")
        if len(self.depths) != len(self.num_heads):
            raise ConfigError(f"audio: {len(self.depths)} depths but {len(self.num_heads)} head counts")


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the RoBERTa text encoder; `max_tokens` counts the start and end tokens."""

    vocabulary_size: int = 50_265
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    hidden_width: int = 3072
    max_tokens: int = 77
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_numbers("text", self)
        if self.width % self.num_heads:
            raise ConfigError(f"text: width {self.width} is not a multiple of {self.num_heads} heads")
        if not self.dropout < 1.0:
            raise ConfigError(f"text.dropout: expected a value in [0, 1), got {self.dropout}")


LAYER_NORM_EPS = 1e-5
"""Of the text tower, as in RoBERTa."""
COMMON = 0.3
"""Of a calibrated model (`salm.models.calibration`): last dimension of every sentence, whose others have unit length. A
clip's last dimension thereby counts for all sentences."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a SALM model; the defaults are the paper's sizes.

    `query_bank` is the number of labels that `salm train balance` calibrates by (`salm.models.calibration`), 0 before.
    """

    name: str = "salm-base"
    embedding_width: int = 512
    query_bank: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    audio: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def __post_init__(self) -> None:
        _check_numbers("model", self)


MAY_BE_ZERO = ("dropout", "arrival_channels", "timbre_channels", "query_bank")
"""Numbers that need not be positive."""


def _check_numbers(where: str, config: Any) -> None:
    """Check every number of a configuration: whole where it is declared so, finite, and positive."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.type not in (int, float, tuple[int, ...]):
            continue
        if item.type == tuple[int, ...] and not isinstance(value, tuple):
            raise ConfigError(f"{where}.{item.name}: expected a list of whole numbers, got {value!r}")
        kind = "number" if item.type is float else "whole number"
        allowed = (int, float) if item.type is float else (int,)
        for number in value if isinstance(value, tuple) else (value,):
            is_number = isinstance(number, allowed) and not isinstance(number, bool) and math.isfinite(number)
            if not is_number or number < 0 or (number == 0 and item.name not in MAY_BE_ZERO):
                raise ConfigError(f"{where}.{item.name}: expected a positive {kind}, got {number!r}")


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a configuration dataclass from a mapping, nested ones included.

    Raises:
        ConfigError: a key is unknown or a value is not valid; the message starts with `where`.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        nested = known[name].type
        if is_dataclass(nested) and isinstance(nested, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}.{name}: expected a mapping, got {value!r}")
            value = from_mapping(nested, value, f"{where}.{name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain mapping that `from_mapping` reads back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
