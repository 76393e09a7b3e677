"""The training objective: contrastive losses between sounds and sentences, and the direction of arrival.

Source: SALM paper, section on training: L = (L_CL + L_sCL) / 2 + L_DOA.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from salm.errors import ConfigError, DependencyError

Targets = Literal["instance", "masked", "multi_positive"]
"""What an item of the same meaning elsewhere in the batch is: a negative, left out, or a further positive."""
TARGETS: tuple[Targets, ...] = ("instance", "masked", "multi_positive")
ANY = -1
"""A sentence without a label (or without a direction) matches any."""


def contrastive_loss(
    audio: Float[Tensor, "batch width"],
    text: Float[Tensor, "batch width"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "batch batch"] | None = None,
    targets: str = "multi_positive",
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE over a batch of pairs; embeddings need not be normalised.

    Args:
        audio, text: row i of each belongs together.
        scale: inverse temperature.
        same: `same[i, j]` is true where text j also describes sound i; needed unless targets is `"instance"`.
        targets: `"instance"` is plain InfoNCE (open_clip's `ClipLoss`); `"masked"` drops pairs of the same meaning
            from the negatives; `"multi_positive"` takes the mean log-probability over all true pairs (SupCon's L_out,
            Khosla et al. 2020).

    Returns:
        The mean of both directions; log(batch) for zero embeddings under plain InfoNCE.
    """
    if targets not in TARGETS:
        raise ConfigError(f"unknown contrastive targets {targets!r}; expected one of {', '.join(TARGETS)}")
    audio, text = _normalize(audio), _normalize(text)
    if targets == "instance":
        return _clip_loss(audio, text, scale)
    if same is None:
        raise ConfigError(f"contrastive targets {targets!r} need the matrix of equal meanings")
    logits = _similarity(audio, text, scale)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = same | own
    if targets == "masked":
        logits = logits.masked_fill(same & ~own, float("-inf"))
        same = own
    return (_mean_log_loss(logits, same) + _mean_log_loss(logits.T, same.T)) / 2


def same_meaning(
    labels: Int[Tensor, "audio"],
    sectors: Int[Tensor, "audio"],
    text_labels: Int[Tensor, "text"],
    text_sectors: Int[Tensor, "text"],
) -> Bool[Tensor, "audio text"]:
    """Which sentences describe which sounds: label and sector agree, unless the sentence leaves one open (`ANY`)."""
    label_fits = (labels[:, None] == text_labels[None]) | (text_labels[None] == ANY)
    sector_fits = (sectors[:, None] == text_sectors[None]) | (text_sectors[None] == ANY)
    return label_fits & sector_fits


def classification_loss(
    audio: Float[Tensor, "batch width"],
    prompts: Float[Tensor, "classes width"],
    scale: Float[Tensor, ""],
    classes: Int[Tensor, "batch"],
) -> Float[Tensor, ""]:
    """Cross-entropy of zero-shot classification among prompts' embeddings."""
    return functional.cross_entropy(_similarity(_normalize(audio), _normalize(prompts), scale), classes)


def doa_loss(predicted: Float[Tensor, "*batch 3"], target: Float[Tensor, "*#batch 3"]) -> Float[Tensor, ""]:
    """Mean cosine distance of directions: 0 where they agree, 1 at a right angle, 2 where they are opposite."""
    return (1 - functional.cosine_similarity(predicted, target, dim=-1)).mean()


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective's terms; the first three are the paper's, the others are SALM's knowledge transfer.

    Attributes:
        semantic: L_CL, semantic embedding against the caption.
        joint: L_sCL, joint embedding against the spatial caption.
        doa: L_DOA.
        prompts: zero-shot direction among the eight prompts, from the joint and from the spatial embedding.
        teacher: mean squared error to the audio teacher's standardised embedding.
        tags: binary cross-entropy to the audio teacher's tags.
        labels: zero-shot label among all labels of the training sounds, from the semantic embedding.
        scenes: zero-shot label and direction, "<label> from the <direction>", from the joint embedding.
        edited: the same after a change to another direction (equation 3), so that what a sound is stays in the
            semantic part.
        arrival: as `doa`, of both estimates of the weighted intensity (`salm.models.arrival`).
        hints: squared error of `TimbrePooling`'s maps at each resolution against the audio teacher's
            (`salm.train.hints`), in scenes of `SceneMix.hints`.
    """

    semantic: float = 0.5
    joint: float = 0.5
    doa: float = 1.0
    prompts: float = 0.0
    teacher: float = 0.0
    tags: float = 0.0
    labels: float = 0.0
    scenes: float = 0.0
    edited: float = 0.0
    arrival: float = 0.0
    hints: float = 0.0


def _normalize(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)


def _similarity(audio: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Scaled cosines in float32, under autocast too: bf16 would round logits of 50 to steps of 0.25."""
    with torch.autocast(audio.device.type, enabled=False):
        return scale.float() * audio @ text.T


def _mean_log_loss(logits: Tensor, positive: Tensor) -> Tensor:
    log_probability = logits.log_softmax(dim=-1).masked_fill(~positive, 0.0)
    return -(log_probability.sum(dim=-1) / positive.sum(dim=-1)).mean()


def _clip_loss(audio: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    try:
        from open_clip.loss import ClipLoss
    except ImportError as error:
        raise DependencyError('plain InfoNCE needs open_clip_torch: pip install "salm[train]"') from error
    return ClipLoss()(audio, text, scale)
