"""Retrieval over a scene manifest, by two protocols.

Labels and sectors (`evaluate_queries`): "dog barking from the northwest" is asked for every label and every sector that
has such a scene; a scene is relevant if one of its sources has that label and truly lies in that sector. All scenes of
the manifest are the gallery, those of other labels are distractors.

Captions (`evaluate_captions`): the paper's R@1/5/10. Every spatial caption of every scene is a query for its scene, and
every scene a query for its captions. Captions need not be unique: any scene with the very same caption is a hit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import salm.metrics as metrics
from salm.errors import ManifestError
from salm.evaluate.report import Table, percent
from salm.evaluate.scenes import Gallery, Model, sectors_by_label, text_embeddings
from salm.geometry import SECTORS, Sector

KS = (1, 5, 10)
CURVE_LENGTH = 50
PLAIN_FORMS = ("{label} from the {compass}",)
VARIED_FORMS = (
    "find a clip where {label} reaches me from the {compass}",
    "which recording has {label} over to the {compass} side?",
    "{label} approaching out of the {compass}",
    "does anything sound like {label} due {compass} of here?",
    "{place}, {label}",
    "is that {label} {place}?",
    "play me {label} that goes on {place}",
    "we noticed {label} {place}",
)
"""Sentences that training never makes (`salm.text.captions`): half in compass words, half in words of the body."""
_PLACES = (
    "dead ahead", "diagonally ahead to my left", "directly to our left", "diagonally behind to my left",
    "in back of us", "diagonally behind to my right", "directly to our right", "diagonally ahead to my right",
)  # fmt: skip
PHRASINGS = {"plain": PLAIN_FORMS, "varied": VARIED_FORMS}


@dataclass(frozen=True)
class Curves:
    """Means over the queries at k = 1, 2, 3, ... (at most `CURVE_LENGTH`, or the gallery's size).

    Attributes:
        recall: share of the queries with a relevant item among the first k.
        chance_recall: what a random order is expected to reach.
        best_precision: what a perfect order reaches.
    """

    recall: tuple[float, ...]
    chance_recall: tuple[float, ...]
    precision: tuple[float, ...]
    best_precision: tuple[float, ...]


@dataclass(frozen=True)
class QueryScores:
    """Means over the queries of one phrasing.

    Attributes:
        best_precision: what a perfect order reaches; some queries have fewer than k relevant scenes.
        label_at_1, sector_at_1: share of the first hits with the right label, or with the right sector.
        precision_at_1_by_label, precision_at_1_by_form: where it succeeds and fails.
    """

    num_queries: int
    gallery_size: int
    precision: dict[int, float]
    mean_average_precision: float
    best_precision: dict[int, float]
    chance_precision: float
    chance_average_precision: float
    label_at_1: float
    sector_at_1: float
    precision_at_1_by_label: dict[str, float]
    precision_at_1_by_form: dict[str, float]
    curves: Curves


@dataclass(frozen=True)
class CaptionScores:
    """R@k of one direction of search; `num_distinct_captions` below `num_captions` means captions are not unique."""

    num_queries: int
    gallery_size: int
    num_captions: int
    num_distinct_captions: int
    recall: dict[int, float]
    mean_average_precision: float
    curves: Curves


@dataclass(frozen=True)
class RetrievalResult:
    """Everything `salm eval retrieval` prints.

    Attributes:
        kept: score of the varied queries divided by that of the plain ones; empty unless both were asked.
        captions: empty where the manifest has no spatial captions.
    """

    embedding: str
    labels: tuple[str, ...]
    queries: dict[str, QueryScores]
    kept: dict[str, float | None]
    captions: dict[str, CaptionScores]

    def tables(self) -> list[Table]:
        """Label-and-sector queries, then the paper's protocol."""
        return [_query_table(self), *([_caption_table(self)] if self.captions else [])]


def evaluate_retrieval(
    gallery: Gallery,
    model: Model,
    labels: Sequence[str],
    *,
    embedding: str = "joint",
    phrasings: Sequence[str] = ("plain", "varied"),
) -> RetrievalResult:
    """Both protocols.

    Args:
        labels: to ask for; all scenes stay in the gallery.
        embedding: of the scenes: "joint", "semantic" or "spatial".
        phrasings: keys of `PHRASINGS`.
    """
    vectors = gallery.embedding(embedding)
    queries = {name: evaluate_queries(gallery, vectors, model, labels, PHRASINGS[name]) for name in phrasings}
    captions = evaluate_captions(gallery, vectors, model)
    return RetrievalResult(embedding, tuple(labels), queries, _kept(queries), captions)


def evaluate_queries(
    gallery: Gallery, vectors: NDArray, model: Model, labels: Sequence[str], forms: Sequence[str]
) -> QueryScores:
    """Label-and-sector relevance for queries of all given forms.

    Raises:
        ManifestError: no scene has any of the labels.
    """
    contents = [sectors_by_label(scene) for scene in gallery.scenes]
    asked = [(label, sector) for label in labels for sector in SECTORS
             if any((label, sector.index) in content for content in contents)]  # fmt: skip
    if not asked:
        raise ManifestError(f"{gallery.manifest}: no scene of any of the {len(labels)} labels; name others")
    queries = [(form, label, sector) for form in forms for label, sector in asked]
    texts = [query_text(form, label, sector) for form, label, sector in queries]
    relevance = np.array([[(label, sector.index) in content for content in contents] for label, sector in asked])
    scores = text_embeddings(model, texts) @ vectors.T
    ranked = metrics.rank_relevance(scores, np.tile(relevance, (len(forms), 1)))
    answered = list(zip(queries, [contents[row] for row in scores.argmax(axis=1)], strict=True))
    first = ranked[:, 0]
    return QueryScores(
        num_queries=len(queries),
        gallery_size=len(contents),
        precision={k: metrics.precision_at_k(ranked, k) for k in KS},
        mean_average_precision=metrics.mean_average_precision(ranked),
        best_precision={k: metrics.best_precision_at_k(ranked, k) for k in KS},
        chance_precision=metrics.chance_precision(ranked),
        chance_average_precision=metrics.chance_average_precision(ranked),
        label_at_1=_share(label in {name for name, _ in top} for (_, label, _), top in answered),
        sector_at_1=_share(sector.index in {index for _, index in top} for (_, _, sector), top in answered),
        precision_at_1_by_label=_means([label for _, label, _ in queries], first),
        precision_at_1_by_form=_means([form for form, _, _ in queries], first),
        curves=_curves(ranked),
    )


def query_text(form: str, label: str, sector: Sector) -> str:
    """A form of `PHRASINGS` as a sentence about a label and a sector."""
    return form.format(label=label, compass=sector.compass, place=_PLACES[sector.index])


def evaluate_captions(gallery: Gallery, vectors: NDArray, model: Model) -> dict[str, CaptionScores]:
    """R@1/5/10 text-to-audio and audio-to-text over the scenes that have spatial captions; empty without any."""
    rows = [row for row, scene in enumerate(gallery.scenes) if scene.spatial_captions]
    if not rows:
        return {}
    of_scene = [set(gallery.scenes[row].spatial_captions) for row in rows]
    captions = [caption for row in rows for caption in gallery.scenes[row].spatial_captions]
    relevance = np.array([[caption in own for own in of_scene] for caption in captions])
    scores = text_embeddings(model, captions) @ vectors[rows].T
    return {
        "text_to_audio": _caption_scores(scores, relevance, captions),
        "audio_to_text": _caption_scores(scores.T, relevance.T, captions),
    }


def _caption_scores(scores: NDArray, relevance: NDArray, captions: Sequence[str]) -> CaptionScores:
    ranked = metrics.rank_relevance(scores, relevance)
    return CaptionScores(
        num_queries=scores.shape[0],
        gallery_size=scores.shape[1],
        num_captions=len(captions),
        num_distinct_captions=len(set(captions)),
        recall={k: metrics.recall_at_k(ranked, k) for k in KS},
        mean_average_precision=metrics.mean_average_precision(ranked),
        curves=_curves(ranked),
    )


def _curves(ranked: NDArray[np.bool_]) -> Curves:
    ks = range(1, min(CURVE_LENGTH, ranked.shape[1]) + 1)
    return Curves(
        recall=tuple(metrics.recall_at_k(ranked, k) for k in ks),
        chance_recall=_chance_recall(ranked, len(ks)),
        precision=tuple(metrics.precision_at_k(ranked, k) for k in ks),
        best_precision=tuple(metrics.best_precision_at_k(ranked, k) for k in ks),
    )


def _chance_recall(ranked: NDArray[np.bool_], length: int) -> tuple[float, ...]:
    """A random order misses a query's R relevant of N items k times with ``prod (N - R - i) / (N - i)`` over i < k."""
    size, drawn = ranked.shape[1], np.arange(length)
    irrelevant = size - ranked.sum(axis=1, keepdims=True)
    missed = np.cumprod(np.maximum(irrelevant - drawn, 0) / (size - drawn), axis=1)
    return tuple((1.0 - missed.mean(axis=0)).tolist())


def _kept(queries: dict[str, QueryScores]) -> dict[str, float | None]:
    if not {"plain", "varied"} <= set(queries):
        return {}
    plain, varied = queries["plain"], queries["varied"]
    pairs = {f"precision_at_{k}": (varied.precision[k], plain.precision[k]) for k in KS}
    pairs["mean_average_precision"] = (varied.mean_average_precision, plain.mean_average_precision)
    return {name: part / whole if whole else None for name, (part, whole) in pairs.items()}


def _share(hits: Iterable[bool]) -> float:
    return float(np.mean(list(hits)))


def _means(keys: Sequence[str], values: NDArray) -> dict[str, float]:
    """Mean of the values of each key, in the order of the keys."""
    names = np.array(keys)
    return {key: float(values[names == key].mean()) for key in dict.fromkeys(keys)}


def _query_table(result: RetrievalResult) -> Table:
    header = ("queries", "P@1", "P@5", "P@10", "mAP", "label@1", "sector@1", "number")
    rows = []
    for name, scores in result.queries.items():
        precision = [percent(scores.precision[k]) for k in KS]
        others = (scores.mean_average_precision, scores.label_at_1, scores.sector_at_1)
        rows.append((name, *precision, *map(percent, others), str(scores.num_queries)))
    if result.kept:
        cells = ("" if share is None else percent(share) for share in result.kept.values())
        rows.append(("varied / plain", *cells, "", "", ""))
    scores = next(iter(result.queries.values()))
    best = [percent(scores.best_precision[k]) for k in KS]
    rows.append(("best possible", *best, "100.0", "100.0", "100.0", ""))
    chance = percent(scores.chance_precision)
    rows.append(("chance", chance, chance, chance, percent(scores.chance_average_precision), "", "12.5", ""))
    title = (
        f'"<label> from the <direction>", {result.embedding} embedding, {len(result.labels)} labels, '
        f"gallery of {scores.gallery_size} scenes, in %"
    )
    return Table(title, header, tuple(rows))


def _caption_table(result: RetrievalResult) -> Table:
    rows = tuple(
        (name.replace("_", "-"), *(percent(scores.recall[k]) for k in KS), percent(scores.mean_average_precision),
         str(scores.num_queries), str(scores.gallery_size))
        for name, scores in result.captions.items()
    )  # fmt: skip
    scores = result.captions["text_to_audio"]
    unique = scores.num_distinct_captions == scores.num_captions
    note = "unique captions" if unique else (
        f"{scores.num_distinct_captions} of {scores.num_captions} captions distinct: an identical caption is a hit"
    )  # fmt: skip
    title = f"Spatial captions, {result.embedding} embedding, {scores.gallery_size} scenes, in % ({note})"
    return Table(title, ("search", "R@1", "R@5", "R@10", "mAP", "queries", "gallery"), rows)
