"""The numbers that an evaluation prints, as pure functions of arrays.

Retrieval. Scores are (queries, gallery), higher is nearer; relevance is boolean of that shape, with at least one
relevant item for every query. `rank_relevance` sorts each query's gallery once; every retrieval metric takes its result
and is the mean over the queries, in [0, 1]. Items of equal score are ranked with the relevant ones last, so that a
model that cannot tell items apart gains nothing by it.

Classification. Classes are integers from 0. Rows of a confusion matrix are the true class, columns the predicted one.

Directions. Unit vectors (x, y, z) of `salm.geometry` go in; summaries are in degrees, as they are printed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salm.geometry import angle_between, border_distance


def rank_relevance(scores: NDArray, relevance: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Relevance (queries, gallery) of each query's items from the nearest to the farthest.

    Raises:
        ValueError: shapes differ, a score is not finite, or a query has no relevant item.
    """
    if scores.ndim != 2 or scores.shape != relevance.shape or scores.size == 0:
        raise ValueError(f"expected scores and relevance of one shape (queries, gallery), got {scores.shape} and "
                         f"{relevance.shape}")  # fmt: skip
    if not np.all(np.isfinite(scores)):
        raise ValueError("a score is not finite")
    relevance = relevance.astype(bool)
    hopeless = np.flatnonzero(~relevance.any(axis=1))
    if len(hopeless):
        raise ValueError(f"query {hopeless[0]} has no relevant item; leave it out")
    order = np.lexsort((relevance, -scores), axis=-1)
    return np.take_along_axis(relevance, order, axis=1)


def recall_at_k(ranked: NDArray[np.bool_], k: int) -> float:
    """R@k of the text-audio retrieval papers: share of the queries with a relevant item among the first k.

    Where each query has one relevant item this is recall in the usual sense. Source: LAION-CLAP (Wu et al. 2023), whose
    several captions of one clip are each a query for the clip, and all relevant to it.
    """
    return float(ranked[:, : _positive(k)].any(axis=1).mean())


def precision_at_k(ranked: NDArray[np.bool_], k: int) -> float:
    """Mean share of relevant items among the first k; a gallery smaller than k counts as filled with wrong ones."""
    return float(ranked[:, : _positive(k)].sum(axis=1).mean() / k)


def best_precision_at_k(ranked: NDArray[np.bool_], k: int) -> float:
    """The highest `precision_at_k` that any order reaches: below 1 where queries have fewer than k relevant items."""
    return float(np.minimum(ranked.sum(axis=1), _positive(k)).mean() / k)


def average_precision(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision (queries,): mean over a query's relevant items of the precision at the rank of each.

    No interpolation, the whole gallery counts. Source: Manning et al., Introduction to Information Retrieval, 8.4.
    """
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    return np.asarray((precision * ranked).sum(axis=1) / ranked.sum(axis=1))


def mean_average_precision(ranked: NDArray[np.bool_]) -> float:
    """Mean of `average_precision` over the queries (mAP)."""
    return float(average_precision(ranked).mean())


def chance_precision(ranked: NDArray[np.bool_]) -> float:
    """Precision at any k that a random order is expected to reach: the share of relevant items."""
    return float(ranked.mean())


def chance_average_precision(ranked: NDArray[np.bool_]) -> float:
    """Mean average precision that a random order is expected to reach.

    With R relevant of N items it is ``(H + (R - 1) / (N - 1) * (N - H)) / N``, where ``H = 1 + 1/2 + ... + 1/N``: the
    expectation of the definition, since another item is relevant at each earlier rank with (R - 1) / (N - 1).
    """
    size = ranked.shape[1]
    if size == 1:
        return 1.0
    harmonic = float(np.sum(1.0 / np.arange(1, size + 1)))
    relevant = ranked.sum(axis=1)
    return float(np.mean((harmonic + (relevant - 1) / (size - 1) * (size - harmonic)) / size))


def accuracy(true: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Share of the predicted classes that are right.

    Raises:
        ValueError: nothing to score, or other shapes than (items,) twice.
    """
    _check_classes(true, predicted)
    return float(np.mean(true == predicted))


def balanced_accuracy(true: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Mean over the true classes that occur of the accuracy within each: frequent classes weigh no more than rare."""
    _check_classes(true, predicted)
    return float(np.mean([np.mean(predicted[true == label] == label) for label in np.unique(true)]))


def confusion_matrix(true: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """Counts (num_classes, num_classes): row = true class, column = predicted class.

    Raises:
        ValueError: a class is not in [0, num_classes), or as `accuracy`.
    """
    _check_classes(true, predicted)
    if min(true.min(), predicted.min()) < 0 or max(true.max(), predicted.max()) >= num_classes:
        raise ValueError(f"expected classes in [0, {num_classes})")
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes), np.int64)


def away_from_borders(azimuth_rad: NDArray, margin_rad: float) -> NDArray[np.bool_]:
    """Which azimuths are at least `margin_rad` from every border between two sectors (1e-9 rad of rounding aside)."""
    return np.asarray(border_distance(azimuth_rad) >= margin_rad - 1e-9)


@dataclass(frozen=True)
class AngularErrors:
    """Angles between estimated and true directions of `count` items, in degrees."""

    count: int
    median_deg: float
    mean_deg: float
    p90_deg: float


def angular_errors(estimated: NDArray, true: NDArray) -> AngularErrors:
    """Summary of the angles between two arrays (items, 3) of direction vectors; p90 interpolates linearly.

    Raises:
        ValueError: nothing to summarise, or other shapes.
    """
    if estimated.shape != true.shape or true.ndim != 2 or true.shape[1] != 3 or len(true) == 0:
        raise ValueError(f"expected two arrays (items, 3) of directions, got {estimated.shape} and {true.shape}")
    degrees = np.degrees(angle_between(estimated, true))
    median, p90 = np.percentile(degrees, [50, 90])
    return AngularErrors(len(degrees), float(median), float(degrees.mean()), float(p90))


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    return k


def _check_classes(true: NDArray, predicted: NDArray) -> None:
    if true.ndim != 1 or true.shape != predicted.shape or len(true) == 0:
        raise ValueError(f"expected two arrays (items,) of classes, got {true.shape} and {predicted.shape}")
