"""How the semantic and the spatial part make the joint embedding, settled after the training.

Training sounds are known by heart, held-out ones are not: there the joint embedding tells directions apart less well
than the spatial one, because its semantic part, unsure of the sound, also leans towards some direction. So the semantic
part loses all that tells the eight prompts apart. A `Calibration` then brings both parts to one scale. The weight s of
equation 2 (E_JA = E_ASe + s * E_ASp) now decides only how much a search for "<label> from the <direction>" heeds the
one and the other: it becomes equal in all dimensions, and is set, with the calibration's sharpness, by such searches
among scenes of held-out sounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from salm.config import ModelConfig
from salm.data.batches import collate
from salm.data.datamodule import SceneDataModule
from salm.errors import ConfigError
from salm.geometry import SECTORS, azimuth_elevation, border_distance, direction_prompt, sector_index
from salm.metrics import mean_average_precision, rank_relevance
from salm.models.calibration import Calibration
from salm.models.salm import SALM, Projection
from salm.progress import Progress
from salm.weights.checkpoint import Checkpoint

WEIGHTS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.85, 1.0)
"""Tried for s."""
SHARPNESSES = (20.0, 30.0, 40.0, 50.0, 60.0)
"""Tried for the calibration."""
SAME_SEARCH = 0.003
"""Mean average precisions that differ by less are as good as each other. The smaller s is then taken: what directions
do not need is left to what sounds, by which captions and edited scenes are told apart."""
BORDER_MARGIN_DEG = 5.0
"""Scenes closer to a border between two sectors do not count: a small error flips their class."""


@dataclass(frozen=True)
class BalanceSettings:
    """What `salm train balance` needs.

    Attributes:
        start: checkpoint folder of the trained model. `export_to`: folder for the balanced one.
        manifest, cache, num_rooms, rt60_s: as in the training (`SceneDataModule`), whose validation sounds are taken.
        num_scenes: validation scenes to measure on.
        labels: text file of the labels that are searched for, one in each line; None: all of the scenes.
        tolerance: how much worse than the spatial embedding's accuracy at directions the joint one's may be.
    """

    start: str
    export_to: str
    manifest: str
    cache: str = ".cache/salm"
    num_rooms: int = 1_000
    rt60_s: tuple[float, float] = (0.1, 0.8)
    num_scenes: int = 768
    labels: str | None = None
    tolerance: float = 0.01


class Heard(NamedTuple):
    """The parts of the audio embeddings of some scenes, not calibrated, and what is true of them.

    `clear`: scenes that are not close to a border between two sectors.
    """

    semantic: Float[Tensor, "scenes width"]
    spatial: Float[Tensor, "scenes width"]
    labels: Int[Tensor, "scenes"]
    sectors: Int[Tensor, "scenes"]
    clear: Bool[Tensor, "scenes"]


class Trial(NamedTuple):
    """What the joint embedding reaches with one calibration and weight.

    `direction`: accuracy among the eight prompts; `search`: mean average precision of the queries.
    """

    direction: float
    search: float


class Balance(NamedTuple):
    """What was chosen, the spatial embedding's accuracy at directions, and all trials by sharpness and weight."""

    sharpness: float
    weight: float
    calibration: Calibration
    spatial: float
    trials: dict[tuple[float, float], Trial]


@torch.no_grad()
def make_neutral(projection: Projection, prompts: Float[Tensor, "8 width"]) -> None:
    """Change the last layer of a projection so that its embedding fits all directions' prompts equally well.

    Whatever the sound, the product of the embedding with every normalised prompt is then the same.
    """
    prompts = functional.normalize(prompts, dim=-1)
    _, _, basis = torch.linalg.svd(prompts - prompts.mean(dim=0), full_matrices=False)
    basis = basis[: len(SECTORS) - 1]  # the last one spans nothing: the differences add up to zero
    last: Any = projection[-1]
    for values in (last.weight, last.bias):
        values -= basis.T @ (basis @ values)


def choose(
    heard: Heard,
    labels: Float[Tensor, "bank width"],
    prompts: Float[Tensor, "8 width"],
    queries: Float[Tensor, "labels 8 width"],
    tolerance: float,
    wanted: Int[Tensor, "wanted"] | None = None,
) -> Balance:
    """The calibration and s with the best searches, of those that leave directions nearly as good as the spatial part.

    Of several with the same searches (`SAME_SEARCH`) the one with the smallest s.

    Args:
        labels: text embeddings of the calibration's bank. `prompts`: of the eight directions.
        queries: text embeddings of every label from every direction; those that no scene answers do not count.
        wanted: numbers of the labels that are searched for; None: all.

    Returns:
        Those with the best directions where none are good enough.
    """
    asked = torch.unique(heard.labels * len(SECTORS) + heard.sectors)
    if wanted is not None:
        asked = asked[torch.isin(asked // len(SECTORS), wanted)]
    relevant = (heard.labels * len(SECTORS) + heard.sectors)[None] == asked[:, None]

    def fit(sharpness: float, weight: float) -> Calibration:
        return Calibration.fit(
            labels, prompts, heard.semantic, heard.spatial, sharpness=sharpness, spatial_weight=weight
        )

    def accuracy(embedding: Tensor, prompts: Tensor) -> float:
        right = (embedding @ functional.normalize(prompts, dim=-1).T).argmax(dim=-1) == heard.sectors
        return float(right[heard.clear].float().mean())

    spatial, trials = accuracy(heard.spatial, prompts), dict[tuple[float, float], Trial]()
    for sharpness, weight in product(SHARPNESSES, WEIGHTS):
        found = fit(sharpness, weight)
        joint = functional.normalize(found.semantic(heard.semantic) + weight * found.spatial(heard.spatial), dim=-1)
        ranked = rank_relevance((found.text(queries).flatten(0, 1)[asked] @ joint.T).numpy(), relevant.numpy())
        trials[sharpness, weight] = Trial(accuracy(joint, found.text(prompts)), mean_average_precision(ranked))
    good = [pair for pair, trial in trials.items() if trial.direction >= spatial - tolerance]
    if good:
        enough = max(trials[pair].search for pair in good) - SAME_SEARCH
        as_good = [pair for pair in good if trials[pair].search >= enough]
        chosen = min(as_good, key=lambda pair: (pair[1], -trials[pair].search))
    else:
        chosen = max(trials, key=lambda pair: trials[pair].direction)
    return Balance(*chosen, fit(*chosen), spatial, trials)


@torch.inference_mode()
def balance(
    checkpoint: Checkpoint, settings: BalanceSettings, progress: Progress | None = None
) -> tuple[ModelConfig, Balance]:
    """Give the checkpoint's model the `Calibration` and the s that find validation scenes best, and its configuration.

    Raises:
        ConfigError: the model has one branch alone.
    """
    model = checkpoint.model
    if model.semantic_projection is None or model.spatial_projection is None:
        raise ConfigError(f"{settings.start}: a model with one branch has nothing to balance")
    data = SceneDataModule(
        manifest=settings.manifest, cache=settings.cache, num_rooms=settings.num_rooms, rt60_s=settings.rt60_s
    )
    data.setup()
    wanted = None if settings.labels is None else _wanted(settings.labels, data.validation.labels)
    model.calibration = None

    def embed(sentences: Sequence[str]) -> Tensor:
        return model.encode_text(*checkpoint.tokenizer(sentences))

    prompts, labels = embed([direction_prompt(sector) for sector in SECTORS]), embed(data.training.labels)
    for projection in (model.semantic_projection, model.timbre_projection):
        if projection is not None:
            make_neutral(projection, prompts)
    queries = [embed([f"{label} from the {sector.compass}" for sector in SECTORS]) for label in data.validation.labels]
    heard = _hear(model, data, settings.num_scenes, progress)
    found = choose(heard, labels, prompts, torch.stack(queries), settings.tolerance, wanted)
    model.calibration = found.calibration
    model.spatial_weight.fill_(found.weight)
    return replace(checkpoint.config, query_bank=len(labels)), found


def _hear(model: SALM, data: SceneDataModule, num_scenes: int, progress: Progress | None) -> Heard:
    """Validation scenes as the model hears them."""
    parts, doa, labels = [], [], []
    for start in range(0, num_scenes, data.batch_size):
        batch = collate([data.validation[start + number] for number in range(data.batch_size)])
        parts.append(model.encode_audio(batch.features))
        doa.append(batch.doa[:, 0])
        labels.append(batch.labels[:, 0])
        if progress is not None:
            progress(min(start + data.batch_size, num_scenes), num_scenes)
    azimuth_rad, _ = azimuth_elevation(torch.cat(doa).numpy())
    return Heard(
        torch.cat([part.semantic for part in parts]),
        torch.cat([part.spatial for part in parts]),
        torch.cat(labels),
        torch.from_numpy(sector_index(azimuth_rad)),
        torch.from_numpy(border_distance(azimuth_rad) >= np.deg2rad(BORDER_MARGIN_DEG)),
    )


def _wanted(path: str, labels: Sequence[str]) -> Int[Tensor, "wanted"]:
    """Numbers of the labels in a text file; those that no validation sound has are left out."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; expected one label in each line (balance.labels)")
    names = {line.strip() for line in Path(path).read_text().splitlines()}
    found = [number for number, label in enumerate(labels) if label in names]
    if not found:
        raise ConfigError(f"{path}: none of its labels is among those of the validation sounds")
    return torch.tensor(found)
