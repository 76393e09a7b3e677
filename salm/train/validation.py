"""Scores on validation scenes, between two epochs of training."""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def validation_scores(
    seen: Mapping[str, Tensor], labels: Float[Tensor, "labels width"], prompts: Float[Tensor, "8 width"]
) -> dict[str, Tensor]:
    """Zero-shot label and direction accuracy of each embedding, and the median error of localisation.

    Args:
        seen: of all clips "semantic", "joint", "spatial" embeddings, "doa", and the truth: "true_doa", "label",
            "sector".
        labels, prompts: text embeddings of all labels and of the eight directions' prompts.
    """
    labels, prompts = functional.normalize(labels, dim=-1), functional.normalize(prompts, dim=-1)
    cosine = (functional.normalize(seen["doa"], dim=-1) * seen["true_doa"]).sum(-1).clamp(-1, 1)
    right = {
        "label": (seen["semantic"] @ labels.T).argmax(-1) == seen["label"],
        "label_joint": (seen["joint"] @ labels.T).argmax(-1) == seen["label"],
        "sector_joint": (seen["joint"] @ prompts.T).argmax(-1) == seen["sector"],
        "sector_spatial": (seen["spatial"] @ prompts.T).argmax(-1) == seen["sector"],
    }
    scores = {name: hits.float().mean() for name, hits in right.items()}
    return scores | {"doa_median_deg": cosine.acos().median() * (180 / math.pi)}
