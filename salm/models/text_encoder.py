"""The text tower: a RoBERTa encoder and its pooled output."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

PAD_ID = 1
"""RoBERTa's padding token; its position numbers start behind it."""


class TextEncoder(nn.Module):
    """RoBERTa (Liu et al. 2019) with a pooler; weights of the Hugging Face layout load into `roberta`.

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
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.roberta = RobertaModel(
            RobertaConfig(
                vocab_size=vocabulary_size,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=num_heads,
                intermediate_size=hidden_width,
                max_position_embeddings=max_tokens + PAD_ID + 1,
                type_vocab_size=1,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                layer_norm_eps=layer_norm_eps,
            )
        )
        self.max_tokens = max_tokens
        self.out_width = width

    def forward(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """Pooled sentence vectors; `mask` is 1 at tokens and 0 at padding."""
        return self.roberta(input_ids=ids, attention_mask=mask).pooler_output
