"""SALM: sentences and spatial recordings as vectors of one space, and the arithmetic between them.

Source: the SALM paper, equations 1 to 3; `salm.models.losses` has its training objective.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from salm.models.audio_encoder import AudioEncoder, Tokens
from salm.models.calibration import Calibration
from salm.models.text_encoder import TextEncoder


@dataclass(frozen=True)
class AudioParts:
    """What the model knows of a batch of clips. Embeddings are not normalised; `doa` has unit length.

    In a model that `salm train balance` has calibrated both parts are as `Calibration` makes them.

    In a model with one branch alone the other embedding is zero, and the joint embedding is that branch's (times s for
    the spatial one); without a spatial branch `doa` means nothing.

    Attributes:
        semantic: what sounds, E_ASe (batch, 512).
        spatial: where it sounds from, E_ASp (batch, 512).
        joint: semantic + s * spatial, E_JA (batch, 512), equation 2.
        doa: direction of arrival (x, y, z), (batch, 3).
    """

    semantic: Float[Tensor, "*batch embedding"]
    spatial: Float[Tensor, "*batch embedding"]
    joint: Float[Tensor, "*batch embedding"]
    doa: Float[Tensor, "*batch 3"]


class Projection(nn.Sequential):
    """Two-layer MLP: linear, ReLU, linear (the layout of LAION-CLAP's projections)."""

    def __init__(self, in_width: int, out_width: int, hidden_width: int) -> None:
        super().__init__(nn.Linear(in_width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, out_width))


class SALM(nn.Module):
    """The model: two towers, projections to the shared space, the spatial weight s and the DOA head.

    What the semantic branch and `TimbrePooling` heard have a projection each; the semantic embedding is then the sum of
    their unit vectors. A projection of both together leans on the branch, which knows the training sounds by heart.

    Args:
        query_bank: labels in the bank of `Calibration`, which the paper does not have; 0 for a model without it.
    """

    def __init__(
        self,
        audio_encoder: AudioEncoder,
        text_encoder: TextEncoder,
        *,
        embedding_width: int = 512,
        query_bank: int = 0,
    ) -> None:
        super().__init__()
        self.audio_encoder = audio_encoder
        self.text_encoder = text_encoder
        self.semantic_projection, self.spatial_projection = (
            None if branch is None else Projection(width, embedding_width, embedding_width)
            for branch, width in (
                (audio_encoder.semantic, audio_encoder.out_width),
                (audio_encoder.spatial, audio_encoder.spatial_width),
            )
        )
        self.timbre_projection = (
            None
            if audio_encoder.timbre is None
            else Projection(audio_encoder.timbre.out_width, embedding_width, embedding_width)
        )
        self.text_projection = Projection(text_encoder.out_width, embedding_width, embedding_width)
        self.doa_head = Projection(embedding_width, 3, embedding_width)
        self.spatial_weight = nn.Parameter(torch.ones(embedding_width))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.calibration = Calibration(query_bank, embedding_width) if query_bank else None
        self.embedding_width = embedding_width

    def encode_audio(
        self, features: Float[Tensor, "batch 7 frames mels"], tokens: tuple[Tokens, Tokens] | None = None
    ) -> AudioParts:
        """Embeddings and DOA of clips given as feature maps; `tokens`: see `AudioEncoder.pool`."""
        return self.project_audio(*self.audio_encoder.pool(features, tokens))

    def encode_semantic(
        self, features: Float[Tensor, "batch 1 frames mels"], tokens: tuple[Tokens, Tokens] | None = None
    ) -> Float[Tensor, "batch embedding"]:
        """Unnormalised semantic embedding of clips that have no spatial channels: see `AudioEncoder.pool_mono`."""
        semantic = self._project_semantic(self.audio_encoder.pool_mono(features, tokens))
        return semantic if self.calibration is None else self.calibration.semantic(semantic)

    def project_audio(
        self, semantic: Float[Tensor, "*batch semantic_width"], spatial: Float[Tensor, "*batch spatial_width"]
    ) -> AudioParts:
        """Embeddings and DOA from the two sides' vectors, as `AudioEncoder.pool` gives them.

        A semantic branch of zeros was silent, and says nothing beside `TimbrePooling`.
        """
        semantic, spatial = (
            self._project_semantic(semantic),
            self._project(self.spatial_projection, spatial),
        )
        doa = functional.normalize(self.doa_head(spatial).float(), dim=-1)
        if self.calibration is not None:
            semantic, spatial = self.calibration.semantic(semantic), self.calibration.spatial(spatial)
        return AudioParts(semantic, spatial, self.join(semantic, spatial), doa)

    def _project_semantic(self, pooled: Tensor) -> Tensor:
        if self.timbre_projection is None:
            return self._project(self.semantic_projection, pooled)
        branch, timbre = pooled.tensor_split([self.audio_encoder.out_width], dim=-1)
        spoke = (branch != 0).any(dim=-1, keepdim=True)
        embedding = functional.normalize(self._project(self.semantic_projection, branch), dim=-1)
        return embedding * spoke + functional.normalize(self.timbre_projection(timbre), dim=-1)

    def _project(self, projection: nn.Module | None, pooled: Tensor) -> Tensor:
        if projection is None:
            return pooled.new_zeros(*pooled.shape[:-1], self.embedding_width)
        return projection(pooled)

    def join(
        self, semantic: Float[Tensor, "*batch embedding"], spatial: Float[Tensor, "*batch embedding"]
    ) -> Float[Tensor, "*batch embedding"]:
        """Joint embedding, equation 2: E_JA = E_ASe + s * E_ASp."""
        return semantic + self.spatial_weight * spatial

    def edit_direction(
        self,
        semantic: Float[Tensor, "*batch embedding"],
        spatial: Float[Tensor, "*batch embedding"],
        direction: Float[Tensor, "*#batch embedding"],
    ) -> Float[Tensor, "*batch embedding"]:
        """Joint embedding with the spatial part replaced by a direction's text embedding, equation 3.

        E_JA~ = E_ASe + s * (|E_ASp| / |E_TDi|) E_TDi; all inputs unnormalised, `direction` from `encode_text`.
        A calibrated model leaves out the dimension that all sentences share: it says nothing of a direction.
        """
        if self.calibration is not None:
            direction = self.calibration.direction(direction)
        length = spatial.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True)
        return self.join(semantic, length * direction)

    def encode_text(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch embedding"]:
        """Unnormalised embeddings of tokenised sentences."""
        sentences = self.text_projection(self.text_encoder(ids, mask))
        return sentences if self.calibration is None else self.calibration.text(sentences)
