"""The text tower: a RoBERTa encoder and its pooled output.

Written out here, because importing transformers' own takes three times as long as torch itself, and who loads a model
waits for it. Names of the weights, their order and their start are those of `transformers.RobertaModel`.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from salm.config import LAYER_NORM_EPS
from salm.text.tokenizer import PAD_ID

Tokens = Float[Tensor, "batch tokens width"]


@dataclass(frozen=True)
class RobertaSizes:
    """Sizes by the names of transformers' `RobertaConfig`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


class Embeddings(nn.Module):
    """Word, position and (constant) type of every token, layer-normed."""

    def __init__(self, sizes: RobertaSizes, num_positions: int, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.word_embeddings = nn.Embedding(sizes.vocab_size, width, padding_idx=PAD_ID)
        self.token_type_embeddings = nn.Embedding(1, width)
        self.LayerNorm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.position_embeddings = nn.Embedding(num_positions, width, padding_idx=PAD_ID)

    def forward(self, ids: Int[Tensor, "batch tokens"]) -> Tokens:
        real = ids.ne(PAD_ID).long()
        positions = real.cumsum(dim=1) * real + PAD_ID
        words = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class SelfAttention(nn.Module):
    """Multi-head attention of some tokens (`queries`) to all."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "batch queries width"],
        tokens: Tokens,
        mask: Bool[Tensor, "batch 1 1 tokens"],
    ) -> Float[Tensor, "batch queries width"]:
        query, key, value = (
            layer(values).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, values in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """Linear, added to what came in, layer-normed."""

    def __init__(self, in_width: int, width: int, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Float[Tensor, "batch queries hidden"], residual: Float[Tensor, "batch queries width"]
    ) -> Float[Tensor, "batch queries width"]:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class Layer(nn.Module):
    """Attention and an MLP, each followed by a layer norm."""

    def __init__(self, sizes: RobertaSizes, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.attention: Any = nn.Module()
        self.attention.add_module("self", SelfAttention(width, sizes.num_attention_heads, dropout))
        self.attention.output = Output(width, width, dropout, layer_norm_eps)
        self.intermediate: Any = nn.Module()
        self.intermediate.dense = nn.Linear(width, sizes.intermediate_size)
        self.output = Output(sizes.intermediate_size, width, dropout, layer_norm_eps)

    def forward(
        self,
        queries: Float[Tensor, "batch queries width"],
        tokens: Tokens,
        mask: Bool[Tensor, "batch 1 1 tokens"],
    ) -> Float[Tensor, "batch queries width"]:
        attended = self.attention.output(self.attention.self(queries, tokens, mask), queries)
        return self.output(functional.gelu(self.intermediate.dense(attended)), attended)


class Roberta(nn.Module):
    """RoBERTa (Liu et al. 2019) with its pooler; `config` holds its sizes."""

    def __init__(self, sizes: RobertaSizes, *, num_positions: int, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.config = sizes
        self.embeddings = Embeddings(sizes, num_positions, dropout, layer_norm_eps)
        self.encoder: Any = nn.Module()
        self.encoder.layer = nn.ModuleList(
            Layer(sizes, dropout, layer_norm_eps) for _ in range(sizes.num_hidden_layers)
        )
        self.pooler: Any = nn.Module()
        self.pooler.dense = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.apply(_init_weights)

    def forward(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """The pooled first token."""
        tokens = self.embeddings(ids)
        seen = mask.bool()[:, None, None]
        *layers, last = self.encoder.layer
        for layer in layers:
            tokens = layer(tokens, tokens, seen)
        first = last(tokens[:, :1], tokens, seen)  # nothing else of the last layer is pooled
        return self.pooler.dense(first[:, 0]).tanh()


class TextEncoder(nn.Module):
    """RoBERTa with a pooler; weights of the Hugging Face layout load into `roberta`.

    Args:
        vocabulary_size: tokens known to the tokenizer.
        width, depth, num_heads, hidden_width: sizes of the transformer.
        max_tokens: longest sentence, start and end tokens included.
        dropout: of hidden states and attention, in training only.
        layer_norm_eps: 1e-5 in RoBERTa; `ClapModel` repositories state 1e-12.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        width: int,
        depth: int,
        num_heads: int,
        hidden_width: int,
        max_tokens: int,
        dropout: float = 0.1,
        layer_norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        if width % num_heads or depth < 1:
            raise ValueError(f"expected at least one layer and heads that divide {width}, got {depth} and {num_heads}")
        self.roberta = Roberta(
            RobertaSizes(vocabulary_size, width, depth, num_heads, hidden_width),
            num_positions=max_tokens + PAD_ID + 1,
            dropout=dropout,
            layer_norm_eps=layer_norm_eps,
        )
        self.max_tokens = max_tokens
        self.out_width = width

    def forward(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """Pooled sentence vectors; `mask` is 1 at tokens and 0 at padding."""
        return self.roberta(ids, mask)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx])
