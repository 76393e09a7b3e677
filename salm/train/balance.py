"""What the semantic and the spatial part say of directions in the joint embedding, settled after the training.

Training sounds are known by heart, held-out ones are not: there the joint embedding tells directions apart less well
than the spatial one, because its semantic part, unsure of the sound, also leans towards some direction. First the
semantic part loses all that tells the eight prompts apart; if that is not enough, as measured on held-out sounds, the
weight s of equation 2 (E_JA = E_ASe + s * E_ASp) grows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from salm.data.datamodule import SceneDataModule
from salm.data.dataset import collate
from salm.geometry import SECTORS, azimuth_elevation, border_distance, direction_prompt, sector_index
from salm.models.salm import Projection
from salm.progress import Progress
from salm.weights.checkpoint import Checkpoint

FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
BORDER_MARGIN_DEG = 5.0
"""Scenes closer to a border between two sectors do not count: a small error flips their class."""


@dataclass(frozen=True)
class BalanceSettings:
    """What `salm train balance` needs.

    Attributes:
        start: checkpoint folder of the trained model. `export_to`: folder for the balanced one.
        manifest, cache, num_rooms, rt60_s: as in the training (`SceneDataModule`), whose validation sounds are taken.
        num_scenes: validation scenes to measure on.
        tolerance: how much worse than the spatial embedding's accuracy the joint one's may be.
    """

    start: str
    export_to: str
    manifest: str
    cache: str = ".cache/salm"
    num_rooms: int = 1_000
    rt60_s: tuple[float, float] = (0.1, 0.8)
    num_scenes: int = 768
    tolerance: float = 0.01


class Heard(NamedTuple):
    """The parts of the audio embeddings of some scenes, unnormalised, and the true sectors."""

    semantic: Float[Tensor, "scenes width"]
    spatial: Float[Tensor, "scenes width"]
    sectors: Int[Tensor, "scenes"]


class Balance(NamedTuple):
    """The factor for s, the spatial embedding's accuracy, and the joint one's with each of the factors tried."""

    factor: float
    spatial: float
    joint: dict[float, float]


@torch.no_grad()
def make_neutral(projection: Projection, prompts: Float[Tensor, "8 width"]) -> None:
    """Change the last layer of the semantic projection so that its embedding fits all directions' prompts equally well.

    Whatever the sound, the product of the embedding with every normalised prompt is then the same.
    """
    prompts = functional.normalize(prompts, dim=-1)
    _, _, basis = torch.linalg.svd(prompts - prompts.mean(dim=0), full_matrices=False)
    basis = basis[: len(SECTORS) - 1]  # the last one spans nothing: the differences add up to zero
    last: Any = projection[-1]
    for values in (last.weight, last.bias):
        values -= basis.T @ (basis @ values)


def choose_factor(
    heard: Heard,
    weight: Float[Tensor, "width"],
    prompts: Float[Tensor, "8 width"],
    tolerance: float,
) -> Balance:
    """The smallest of `FACTORS` for s with which the joint embedding is about as good at directions as the spatial one.

    Args:
        weight: s of equation 2. `prompts`: text embeddings of the eight directions.

    Returns:
        The last factor where none is enough.
    """
    prompts = functional.normalize(prompts, dim=-1)

    def accuracy(embedding: Tensor) -> float:
        return float(((embedding @ prompts.T).argmax(dim=-1) == heard.sectors).float().mean())

    spatial, joint = accuracy(heard.spatial), dict[float, float]()
    for factor in FACTORS:
        joint[factor] = accuracy(heard.semantic + factor * weight * heard.spatial)
        if joint[factor] >= spatial - tolerance:
            break
    return Balance(factor, spatial, joint)


@torch.inference_mode()
def balance(checkpoint: Checkpoint, settings: BalanceSettings, progress: Progress | None = None) -> Balance:
    """Make the model's semantic part neutral, measure on validation scenes, and multiply s by the chosen factor."""
    data = SceneDataModule(
        manifest=settings.manifest, cache=settings.cache, num_rooms=settings.num_rooms, rt60_s=settings.rt60_s
    )
    data.setup()
    model = checkpoint.model
    prompts = model.encode_text(*checkpoint.tokenizer([direction_prompt(sector) for sector in SECTORS]))
    assert model.semantic_projection is not None
    make_neutral(model.semantic_projection, prompts)
    parts, doa = [], []
    for start in range(0, settings.num_scenes, data.batch_size):
        batch = collate([data.validation[start + number] for number in range(data.batch_size)])
        parts.append(model.encode_audio(batch.features))
        doa.append(batch.doa[:, 0])
        if progress is not None:
            progress(min(start + data.batch_size, settings.num_scenes), settings.num_scenes)
    azimuth_rad, _ = azimuth_elevation(torch.cat(doa).numpy())
    clear = torch.from_numpy(border_distance(azimuth_rad) >= np.deg2rad(BORDER_MARGIN_DEG))
    heard = Heard(
        torch.cat([part.semantic for part in parts])[clear],
        torch.cat([part.spatial for part in parts])[clear],
        torch.from_numpy(sector_index(azimuth_rad))[clear],
    )
    found = choose_factor(heard, model.spatial_weight, prompts, settings.tolerance)
    model.spatial_weight.mul_(found.factor)
    return found
