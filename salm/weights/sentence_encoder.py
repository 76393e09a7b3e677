"""Sentences to vectors by numpy: the text side of a checkpoint, for queries.

They are what `Embedder.encode_text` gives, but for rounding (a test compares both). A query of the command line is
answered in less time than torch takes to be imported.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from salm.config import COMMON, LAYER_NORM_EPS, ModelConfig
from salm.errors import CheckpointError
from salm.geometry import spell_out_directions
from salm.text.tokenizer import PAD_ID, as_sentences
from salm.weights.files import WEIGHTS_FILE, Shape, check_fit, fingerprint, read_config, read_tokenizer

PREFIXES = ("text_encoder.", "text_projection.")
NUMPY_DTYPES = ("F16", "F32", "F64")
"""Safetensors' names of what numpy can read."""

Rows = Float[NDArray, "rows width"]


def is_for_numpy(folder: Path) -> bool:
    """Whether numpy can read a checkpoint's text side: bfloat16 it cannot. A damaged one `SentenceEncoder` refuses."""
    try:
        with safe_open(folder / WEIGHTS_FILE, "numpy") as file:
            return all(file.get_slice(name).get_dtype() in NUMPY_DTYPES for name in _names(file))
    except (OSError, SafetensorError):
        return True


class SentenceEncoder:
    """The text side of a model: RoBERTa, its projection, and the calibration's part in them.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointError: a file is missing, damaged or does not fit the configuration.
    """

    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        self._tokenizer = read_tokenizer(folder, self.config)
        self._weights = _read_weights(folder / WEIGHTS_FILE, self.config)
        self.model_id = f"{self.config.name}:{fingerprint(folder)}"

    def encode_text(self, texts: str | Sequence[str]) -> Float[NDArray[np.float32], "sentences width"]:
        """L2-normalised embeddings of sentences, in their order; a single one gives (1, width).

        Raises:
            SalmError: a sentence is empty or no text.
        """
        sentences = as_sentences(texts)
        vectors = np.zeros((len(sentences), self.config.embedding_width), np.float32)
        for row, sentence in enumerate(sentences):
            pooled = self._pooled(np.array(self._tokenizer.ids(spell_out_directions(sentence))))
            vectors[row] = self._linear("text_projection.2", self._linear("text_projection.0", pooled).clip(min=0))[0]
        if self.config.query_bank:
            vectors[:, :-1] = _normalised(vectors[:, :-1])
            vectors[:, -1] = COMMON
        return _normalised(vectors)

    def _pooled(self, ids: Int[NDArray, "tokens"]) -> Float[NDArray, "1 width"]:
        """As `salm.models.text_encoder.Roberta`, of one sentence without padding."""
        place, real = "text_encoder.roberta.embeddings", ids != PAD_ID
        positions = real.cumsum() * real + PAD_ID
        tokens = self._weights[f"{place}.word_embeddings.weight"][ids]
        tokens = tokens + self._weights[f"{place}.token_type_embeddings.weight"][0]
        tokens = tokens + self._weights[f"{place}.position_embeddings.weight"][positions]
        tokens = self._norm(f"{place}.LayerNorm", tokens)
        for number in range(self.config.text.depth):
            is_last = number == self.config.text.depth - 1
            tokens = self._layer(
                f"text_encoder.roberta.encoder.layer.{number}", tokens[:1] if is_last else tokens, tokens
            )
        return np.tanh(self._linear("text_encoder.roberta.pooler.dense", tokens))

    def _layer(
        self, place: str, queries: Float[NDArray, "queries width"], tokens: Float[NDArray, "tokens width"]
    ) -> Float[NDArray, "queries width"]:
        query, key, value = (
            self._linear(f"{place}.attention.self.{name}", rows)
            .reshape(len(rows), self.config.text.num_heads, -1)
            .swapaxes(0, 1)
            for name, rows in (("query", queries), ("key", tokens), ("value", tokens))
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        mixed = self._linear(f"{place}.attention.output.dense", mixed.swapaxes(0, 1).reshape(len(queries), -1))
        attended = self._norm(f"{place}.attention.output.LayerNorm", mixed + queries)
        hidden = _gelu(self._linear(f"{place}.intermediate.dense", attended))
        return self._norm(f"{place}.output.LayerNorm", self._linear(f"{place}.output.dense", hidden) + attended)

    def _linear(self, place: str, rows: Float[NDArray, "rows inputs"]) -> Float[NDArray, "rows outputs"]:
        return rows @ self._weights[f"{place}.weight"].T + self._weights[f"{place}.bias"]

    def _norm(self, place: str, rows: Rows) -> Rows:
        centred = rows - rows.mean(axis=1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
        return centred / deviation * self._weights[f"{place}.weight"] + self._weights[f"{place}.bias"]


def _gelu(rows: Rows) -> Rows:
    erf = np.fromiter(map(math.erf, (rows.ravel() * math.sqrt(0.5)).tolist()), np.float32, rows.size)
    return rows * (erf.reshape(rows.shape) + np.float32(1)) * np.float32(0.5)


def _normalised(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)


def _names(file: Any) -> list[str]:
    return [name for name in file.keys() if name.startswith(PREFIXES)]  # noqa: SIM118


def _read_weights(path: Path, config: ModelConfig) -> Mapping[str, NDArray[np.float32]]:
    try:
        with safe_open(path, "numpy") as file:
            weights = {name: file.get_tensor(name).astype(np.float32) for name in _names(file)}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or download it again") from error
    check_fit(path, _shapes(config), {name: value.shape for name, value in weights.items()})
    return weights


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    """What `salm.models` gives the weights of the text side."""
    text, out = config.text, config.embedding_width
    width, hidden = text.width, text.hidden_width
    linear = {"pooler.dense": (width, width)}
    norms = ["embeddings"]
    for number in range(text.depth):
        layer = f"encoder.layer.{number}"
        linear |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.output.dense": (width, hidden)}
        linear |= {f"{layer}.intermediate.dense": (hidden, width)}
        norms += [f"{layer}.attention.output", f"{layer}.output"]
    linear = {f"text_encoder.roberta.{name}": shape for name, shape in linear.items()}
    linear |= {"text_projection.0": (out, width), "text_projection.2": (out, out)}
    shapes: dict[str, Shape] = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {
        f"text_encoder.roberta.{name}.LayerNorm.{part}": (width,) for name in norms for part in ("weight", "bias")
    }
    rows = {"word": text.vocabulary_size, "token_type": 1, "position": text.max_tokens + PAD_ID + 1}
    return shapes | {
        f"text_encoder.roberta.embeddings.{name}_embeddings.weight": (count, width) for name, count in rows.items()
    }
