"""Moving a sound to another direction in the embedding alone: is the edited scene's caption found?

Captions to choose from: every distinct caption of the scenes (the first of each) in each of the eight directions,
"<caption> from the <compass>". A scene's joint embedding is the query; a hit is its own caption with the wanted
direction. Three ways, as in figure 2 of the SALM paper:

- None: the embedding as it is, wanted direction = the true one.
- Swap: the spatial part of another scene that lies in the wanted direction takes the place of the scene's own.
- Change: the direction's sentence takes its place (equation 3).

Swap and Change ask for each of the seven other directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

import salm.metrics as metrics
from salm.evaluate.report import Table, percent
from salm.evaluate.scenes import Gallery, Model, azimuths_rad, normalised, single_source_rows, text_embeddings
from salm.geometry import SECTORS, Sector, find_sector, sector_index
from salm.manifest import Scene
from salm.models.salm import AudioParts
from salm.text.captions import strip_direction

KS = (1, 5, 10)


@dataclass(frozen=True)
class EditScores:
    """Recall of the wanted caption, and how often the first hit has the wanted direction, or the scene's caption."""

    num_edits: int
    recall: dict[int, float]
    direction_at_1: float
    caption_at_1: float


@dataclass(frozen=True)
class EditingResult:
    """Everything `salm eval editing` prints; `kept` is R@k of each way divided by R@k of None."""

    num_scenes: int
    num_captions: int
    ways: dict[str, EditScores]
    kept: dict[str, dict[int, float | None]]

    def tables(self) -> list[Table]:
        """One row for each way."""
        rows = []
        for name, scores in self.ways.items():
            kept = self.kept[name][1]
            shares = (*(scores.recall[k] for k in KS), kept, scores.direction_at_1, scores.caption_at_1)
            cells = ("" if share is None else percent(share) for share in shares)
            rows.append((name, *cells, str(scores.num_edits)))
        title = (
            f"Direction editing: the edited caption among {self.num_captions} "
            f"({self.num_captions // len(SECTORS)} captions in 8 directions), in %"
        )
        header = ("editing", "R@1", "R@5", "R@10", "R@1 / None", "direction@1", "caption@1", "edits")
        return [Table(title, header, tuple(rows))]


def evaluate_editing(gallery: Gallery, model: Model, *, seed: int = 0) -> EditingResult:
    """None, Swap and Change over all scenes with one source.

    Args:
        seed: chooses the scenes whose spatial parts are swapped in. A direction in which no scene lies is not swapped.

    Raises:
        ManifestError: no scene has a single source.
    """
    rows = single_source_rows(gallery.scenes, gallery.manifest)
    scenes = [gallery.scenes[row] for row in rows]
    sector = sector_index(azimuths_rad(scenes))
    captions = [plain_caption(scene) for scene in scenes]
    distinct = list(dict.fromkeys(captions))
    caption = np.array([distinct.index(text) for text in captions])
    texts = text_embeddings(model, [directed_caption(text, where) for text in distinct for where in SECTORS])
    pieces: dict[str, list[tuple[NDArray, NDArray, NDArray]]] = {
        "None": [(gallery.joint[rows], caption, sector)],
        "Swap": [],
        "Change": [],
    }
    generator = np.random.default_rng(seed)
    for where in SECTORS:
        moved, donors = np.flatnonzero(sector != where.index), np.flatnonzero(sector == where.index)
        if not len(moved):
            continue
        wanted = np.full(len(moved), where.index)
        pieces["Change"].append((change(gallery, model, rows[moved], where), caption[moved], wanted))
        if len(donors):
            donor = rows[donors[generator.integers(len(donors), size=len(moved))]]
            pieces["Swap"].append((swap(gallery, rows[moved], donor), caption[moved], wanted))
    ways = {name: _score(piece, texts) for name, piece in pieces.items() if piece}
    whole = ways["None"].recall
    kept = {name: {k: s.recall[k] / whole[k] if whole[k] else None for k in KS} for name, s in ways.items()}
    return EditingResult(len(rows), len(texts), ways, kept)


def plain_caption(scene: Scene) -> str:
    """The scene's first caption, without directions and full stop."""
    text = scene.captions[0]
    stripped = strip_direction(text) if find_sector(text) else text
    return (stripped or scene.sources[0].label).strip().rstrip(".")


def directed_caption(caption: str, sector: Sector) -> str:
    """The caption of the same sound from a sector."""
    return f"{caption} from the {sector.compass}"


def change(gallery: Gallery, model: Model, rows: NDArray[np.int64], sector: Sector) -> NDArray[np.float32]:
    """Unnormalised joint embeddings of scenes whose spatial part is a direction's sentence: the model's equation 3."""
    parts = gallery.parts()
    chosen = torch.from_numpy(rows)
    some = AudioParts(*(getattr(parts, name)[chosen] for name in ("semantic", "spatial", "joint", "doa")))
    return np.asarray(model.edit_direction(some, sector.compass, normalize_embeddings=False), np.float32)


def swap(gallery: Gallery, rows: NDArray[np.int64], donors: NDArray[np.int64]) -> NDArray[np.float32]:
    """Joint embeddings of scenes with the donors' spatial parts: by equation 2, s * E_ASp = E_JA - E_ASe."""
    return gallery.semantic[rows] + (gallery.joint[donors] - gallery.semantic[donors])


def _score(pieces: Sequence[tuple[NDArray, NDArray, NDArray]], texts: NDArray) -> EditScores:
    vectors, caption, sector = (np.concatenate(column) for column in zip(*pieces, strict=True))
    scores = normalised(vectors) @ texts.T
    relevance = np.arange(scores.shape[1]) == (caption * len(SECTORS) + sector)[:, None]
    ranked = metrics.rank_relevance(scores, relevance)
    first_caption, first_sector = np.divmod(scores.argmax(axis=1), len(SECTORS))
    return EditScores(
        num_edits=len(scores),
        recall={k: metrics.recall_at_k(ranked, k) for k in KS},
        direction_at_1=metrics.accuracy(sector, first_sector),
        caption_at_1=metrics.accuracy(caption, first_caption),
    )
