"""The two parts of a joint embedding brought to one scale, so that clips can be ranked against each other.

Contrastive training asks which sentence fits a clip best; a search asks which clip fits a sentence best. There a clip
that lies a little closer to every sentence comes first too often (a hub), and the balance of a clip's two parts follows
lengths that mean nothing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.config import COMMON
from salm.geometry import SECTORS

PART_OF_QUERY = math.sqrt(0.5)
"""How much of "dog barking from the northwest", a normalised sum, is its meaning, and how much its direction."""


class Calibration(nn.Module):
    """Unit lengths for both parts, and what a clip has in common with all sentences taken off its products with them.

    - The semantic part gets unit length. The spatial part is projected to what tells the eight directions apart, and
      then gets unit length: what it says of the sound is the other part's affair.
    - A sentence gets unit length, and `COMMON` as its last dimension. A part's last dimension thereby lowers its
      products with all sentences, by its soft maximum over a bank of them, as far as that differs from the typical one:
      the labels for the semantic part, the directions' prompts for the spatial one. So a clip that fits one sentence
      well is found before one that fits many.

    The soft maximum of a product x over the bank is log(sum(exp(sharpness * x))) / sharpness.

    Source: querybank normalisation, Bogolin et al. 2022 (inverted softmax: Smith et al. 2017), here a part
    of the vectors, so that any index and any cosine has it.

    Args:
        num_labels: sentences of the bank.
        width: of the embeddings, the last dimension included.
    """

    def __init__(self, num_labels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(num_labels, width - 1))
        self.register_buffer("directions", torch.zeros(len(SECTORS), width - 1))
        self.register_buffer("span", torch.zeros(len(SECTORS), width - 1))
        self.register_buffer("sharpness", torch.ones(2))
        self.register_buffer("typical", torch.zeros(2))
        self.labels: Tensor
        self.directions: Tensor
        self.span: Tensor  # an orthonormal basis of the directions' prompts
        self.sharpness: Tensor
        self.typical: Tensor

    @classmethod
    def fit(
        cls,
        labels: Float[Tensor, "labels width"],
        directions: Float[Tensor, "8 width"],
        semantic: Float[Tensor, "clips width"],
        spatial: Float[Tensor, "clips width"],
        *,
        sharpness: float,
        spatial_weight: float,
    ) -> "Calibration":
        """The calibration of a model.

        Args:
            labels, directions: embeddings of the labels and of the directions' prompts.
            semantic, spatial: parts of some clips, which say what is typical.
            sharpness: of the soft maximum over the labels; that over the directions is `spatial_weight` as sharp.
            spatial_weight: s of equation 2, equal in all dimensions.
        """
        found = cls(len(labels), labels.shape[1])
        found.labels, found.directions = _others(labels), _others(directions)
        found.span = torch.linalg.qr(found.directions.T).Q.T.contiguous()
        found.sharpness = torch.tensor([sharpness, sharpness * spatial_weight])
        products = (_others(semantic) @ found.labels.T, found._pointing(spatial) @ found.directions.T)
        found.typical = torch.stack(
            [_soft_maximum(*pair).mean() for pair in zip(products, found.sharpness, strict=True)]
        )
        return found

    def text(self, sentences: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The calibrated embeddings of sentences."""
        others = _others(sentences)
        return torch.cat([others, torch.full_like(others[..., :1], COMMON)], dim=-1)

    def direction(self, sentences: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Embeddings of sentences about a direction as spatial parts of clips: without the last dimension."""
        others = _others(sentences)
        return torch.cat([others, torch.zeros_like(others[..., :1])], dim=-1)

    def semantic(self, part: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The calibrated semantic part."""
        meaning = _others(part)
        excess = _soft_maximum(meaning @ self.labels.T, self.sharpness[0]) - self.typical[0]
        return torch.cat([meaning, -PART_OF_QUERY / COMMON * excess], dim=-1)

    def spatial(self, part: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The calibrated spatial part."""
        direction = self._pointing(part)
        excess = _soft_maximum(direction @ self.directions.T, self.sharpness[1]) - self.typical[1]
        return torch.cat([direction, -PART_OF_QUERY / COMMON * excess], dim=-1)

    def _pointing(self, part: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch others"]:
        return functional.normalize(part[..., :-1] @ self.span.T @ self.span, dim=-1)


def _others(vectors: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch others"]:
    """All dimensions but the last, at unit length."""
    return functional.normalize(vectors[..., :-1], dim=-1)


def _soft_maximum(
    products: Float[Tensor, "*batch sentences"], sharpness: Float[Tensor, ""]
) -> Float[Tensor, "*batch one"]:
    return torch.logsumexp(sharpness * products, dim=-1, keepdim=True) / sharpness
