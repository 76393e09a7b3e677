"""SALM's training objective over one (joint) batch: the paper's three terms, and those of the knowledge transfer."""

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from salm.config import BRANCHES
from salm.geometry import SECTORS
from salm.models.losses import (
    LossWeights,
    Targets,
    classification_loss,
    contrastive_loss,
    doa_loss,
    same_meaning,
)
from salm.models.salm import SALM, AudioParts

MAX_SCALE = 100.0
"""Upper bound of the inverse temperature, as in CLIP."""
JOINT_TERMS = ("joint", "scenes", "edited")
CONTRASTIVE_TERMS = ("semantic", "labels", *JOINT_TERMS)


class Outcome(NamedTuple):
    """What the towers made of a batch of sounds, beside what is true of them; one row for each sound.

    Attributes:
        semantic, spatial: vectors of the two branches before the projections.
        arrival: the encoder's own estimates of the direction, none without `ArrivalPooling`.
        captions: text embeddings of the caption, and of the spatial caption where it is needed.
        labels, sectors: numbers. `doa`: unit vectors.
        teacher, tags: the audio teacher's outputs; NaN for sounds that it has not heard.
    """

    semantic: Float[Tensor, "sounds width"]
    spatial: Float[Tensor, "sounds spatial_width"]
    arrival: Float[Tensor, "sounds stages 3"]
    captions: Float[Tensor, "sounds kinds embedding"]
    labels: Int[Tensor, "sounds"]
    sectors: Int[Tensor, "sounds"]
    doa: Float[Tensor, "sounds 3"]
    teacher: Float[Tensor, "sounds teacher_width"]
    tags: Float[Tensor, "sounds tags"]


class Heads(Protocol):
    """What the objective needs besides the towers' outputs; `SalmTraining` has it."""

    model: SALM
    teacher_head: nn.Linear | None
    tag_head: nn.Linear | None

    def prompts(self) -> Tensor:
        """Embeddings of the eight directions' prompts."""

    def fixed_texts(self, kind: str) -> Tensor:
        """Embeddings of all `"labels"`, or of all `"scenes"` (each label in the eight directions)."""


class Objective:
    """Weighted terms of the loss, see `LossWeights`.

    Args:
        weights: of the terms; a term of weight 0 that costs something is left out.
        targets: what items of the same meaning in a batch are, see `salm.models.losses`.
        contrastive_steps, semantic_steps: see `SalmTraining`.
    """

    def __init__(
        self, weights: LossWeights, targets: Targets, contrastive_steps: tuple[int, int], semantic_steps: int
    ) -> None:
        self.weights, self.targets = weights, targets
        self.contrastive_steps, self.semantic_steps = contrastive_steps, semantic_steps

    def terms(self, outcome: Outcome, heads: Heads, *, semantic_alone: bool) -> dict[str, Tensor]:
        """The unweighted terms by name; `semantic_alone` leaves out all that need the spatial branch."""
        model = heads.model
        parts = model.project_audio(outcome.semantic, outcome.spatial)
        scale = model.log_temperature.exp().clamp(max=MAX_SCALE)
        has_semantic, has_spatial = (getattr(model.audio_encoder, name) is not None for name in BRANCHES)
        terms: dict[str, Tensor] = {}
        if has_semantic:
            terms |= self._meaning_terms(parts, outcome, heads, scale) | self._teacher_terms(outcome, heads)
        if not semantic_alone:
            terms |= self._joint_terms(parts, outcome, heads, scale, has_spatial)
        return terms

    def total(self, terms: dict[str, Tensor], step: int) -> Tensor:
        """The weighted sum at a training step."""
        return torch.stack([self._weight(name, step) * value for name, value in terms.items()]).sum()

    def _weight(self, term: str, step: int) -> float:
        weight = float(getattr(self.weights, term))
        if term not in CONTRASTIVE_TERMS:
            return weight
        first, full = self.contrastive_steps
        since = step - (self.semantic_steps if term in JOINT_TERMS else 0)
        return weight * min(1.0, max(0.0, (since - first) / (full - first)))

    def _meaning_terms(self, parts: AudioParts, outcome: Outcome, heads: Heads, scale: Tensor) -> dict[str, Tensor]:
        same = outcome.labels[:, None] == outcome.labels[None]
        terms = {"semantic": contrastive_loss(parts.semantic, outcome.captions[:, 0], scale, same, self.targets)}
        if self.weights.labels:
            names = heads.fixed_texts("labels")
            terms["labels"] = classification_loss(parts.semantic, names, scale, outcome.labels)
        return terms

    def _joint_terms(
        self, parts: AudioParts, outcome: Outcome, heads: Heads, scale: Tensor, has_spatial: bool
    ) -> dict[str, Tensor]:
        labels, sectors = outcome.labels, outcome.sectors
        same = same_meaning(labels, sectors, labels, sectors)
        terms = {"joint": contrastive_loss(parts.joint, outcome.captions[:, 1], scale, same, self.targets)}
        if has_spatial:
            terms["doa"] = doa_loss(parts.doa, outcome.doa)
        if self.weights.arrival and outcome.arrival.shape[1]:
            terms["arrival"] = doa_loss(outcome.arrival, outcome.doa[:, None])
        if self.weights.prompts:
            prompts = heads.prompts()
            located = (parts.joint, parts.spatial) if has_spatial else (parts.joint,)
            losses = [classification_loss(embedding, prompts, scale, sectors) for embedding in located]
            terms["prompts"] = torch.stack(losses).mean()
        if self.weights.scenes:
            scenes = labels * len(SECTORS) + sectors
            terms["scenes"] = classification_loss(parts.joint, heads.fixed_texts("scenes"), scale, scenes)
        if self.weights.edited and has_spatial:
            terms["edited"] = self._edited_term(parts, outcome, heads, scale)
        return terms

    def _edited_term(self, parts: AudioParts, outcome: Outcome, heads: Heads, scale: Tensor) -> Tensor:
        """As the scenes' term, with each sound moved to one of the seven other sectors, these in turn."""
        turn = torch.arange(len(outcome.sectors), device=outcome.sectors.device) % (len(SECTORS) - 1)
        wanted = (outcome.sectors + 1 + turn) % len(SECTORS)
        edited = heads.model.edit_direction(parts.semantic, parts.spatial, heads.prompts()[wanted])
        scenes = outcome.labels * len(SECTORS) + wanted
        return classification_loss(edited, heads.fixed_texts("scenes"), scale, scenes)

    def _teacher_terms(self, outcome: Outcome, heads: Heads) -> dict[str, Tensor]:
        """Losses against the audio teacher, over the sounds that it has heard."""
        heard = ~torch.isnan(outcome.teacher).any(dim=1)
        terms: dict[str, Tensor] = {}
        if not heard.any():
            return terms
        if heads.teacher_head is not None:
            embedding = heads.teacher_head(outcome.semantic[heard]).float()
            terms["teacher"] = functional.mse_loss(embedding, outcome.teacher[heard])
        if heads.tag_head is not None:
            logits = heads.tag_head(outcome.semantic[heard]).float()
            terms["tags"] = functional.binary_cross_entropy_with_logits(logits, outcome.tags[heard])
        return terms
