"""Metrics in closed form and against slow oracles that follow the definitions word by word."""

import math
from itertools import permutations

import numpy as np
import pytest

from salm import metrics
from salm.geometry import unit_vector


def random_case(seed, queries=7, gallery=23):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 9, (queries, gallery)) / 8.0  # many ties
    relevance = generator.random((queries, gallery)) < 0.2
    relevance[:, generator.integers(gallery)] = True
    return scores, relevance


def slow_order(scores, relevant):
    """Ranks by the definition: higher score first, and of equal scores the irrelevant one."""
    return sorted(range(len(scores)), key=lambda item: (-scores[item], relevant[item]))


def slow_average_precision(scores, relevant):
    order = slow_order(scores, relevant)
    precisions = []
    for rank, item in enumerate(order, start=1):
        if relevant[item]:
            precisions.append(sum(relevant[other] for other in order[:rank]) / rank)
    return sum(precisions) / sum(relevant)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_metrics_match_their_definitions(seed):
    scores, relevance = random_case(seed)
    ranked = metrics.rank_relevance(scores, relevance)
    slow = [slow_average_precision(s, r) for s, r in zip(scores.tolist(), relevance.tolist(), strict=True)]
    np.testing.assert_allclose(metrics.average_precision(ranked), slow, rtol=1e-12)
    assert metrics.mean_average_precision(ranked) == pytest.approx(np.mean(slow), rel=1e-12)
    for k in (1, 5, 10, 40):
        tops = [
            [r[item] for item in slow_order(s, r)[:k]] for s, r in zip(scores.tolist(), relevance.tolist(), strict=True)
        ]
        assert metrics.recall_at_k(ranked, k) == pytest.approx(np.mean([any(top) for top in tops]), rel=1e-12)
        assert metrics.precision_at_k(ranked, k) == pytest.approx(np.mean([sum(top) / k for top in tops]), rel=1e-12)


def test_paired_recall_equals_the_usual_argsort_of_the_clap_papers():
    scores = np.random.default_rng(0).normal(size=(40, 40))
    ranked = metrics.rank_relevance(scores, np.eye(40, dtype=bool))
    place = np.array([list(np.argsort(-row)).index(i) for i, row in enumerate(scores)])
    for k in (1, 5, 10):
        assert metrics.recall_at_k(ranked, k) == np.mean(place < k)


def test_one_relevant_item_at_rank_r_gives_ap_of_one_over_r():
    scores = -np.arange(6.0)[None].repeat(6, axis=0)
    ranked = metrics.rank_relevance(scores, np.eye(6, dtype=bool))
    np.testing.assert_allclose(metrics.average_precision(ranked), 1 / np.arange(1, 7))


def test_equal_scores_gain_nothing():
    relevance = np.array([[True, True, False, False, False]])
    ranked = metrics.rank_relevance(np.zeros((1, 5)), relevance)
    assert ranked.tolist() == [[False, False, False, True, True]]
    assert metrics.recall_at_k(ranked, 3) == 0.0


def test_perfect_order_reaches_the_best_precision():
    relevance = np.array([[True, False, True, False], [False, False, False, True]])
    ranked = metrics.rank_relevance(relevance.astype(float), relevance)
    assert metrics.mean_average_precision(ranked) == 1.0
    assert metrics.precision_at_k(ranked, 2) == metrics.best_precision_at_k(ranked, 2) == 0.75


@pytest.mark.parametrize(("relevant", "size"), [(1, 1), (1, 5), (2, 5), (3, 6), (4, 4)])
def test_chance_is_the_mean_over_all_orders(relevant, size):
    items = [True] * relevant + [False] * (size - relevant)
    orders = np.array(list(permutations(items)))
    assert metrics.chance_average_precision(orders[:1]) == pytest.approx(metrics.mean_average_precision(orders))
    assert metrics.chance_precision(orders[:1]) == pytest.approx(metrics.precision_at_k(orders, 1))


@pytest.mark.parametrize(
    ("scores", "relevance", "message"),
    [
        (np.zeros((2, 3)), np.ones((3, 2), bool), "one shape"),
        (np.zeros((0, 3)), np.ones((0, 3), bool), "one shape"),
        (np.array([[math.nan, 1.0]]), np.ones((1, 2), bool), "not finite"),
        (np.zeros((2, 2)), np.array([[True, False], [False, False]]), "query 1 has no relevant"),
    ],
)
def test_impossible_retrieval_is_refused(scores, relevance, message):
    with pytest.raises(ValueError, match=message):
        metrics.rank_relevance(scores, relevance)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        metrics.recall_at_k(np.ones((1, 1), bool), 0)


def test_accuracies_and_confusion_in_closed_form():
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert metrics.accuracy(true, predicted) == 0.75
    assert metrics.balanced_accuracy(true, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.confusion_matrix(true, predicted, 3).tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_confusion_matches_a_loop():
    generator = np.random.default_rng(1)
    true, predicted = generator.integers(0, 8, (2, 300))
    slow = np.zeros((8, 8), int)
    for row, column in zip(true, predicted, strict=True):
        slow[row, column] += 1
    fast = metrics.confusion_matrix(true, predicted, 8)
    assert np.array_equal(fast, slow)
    assert np.trace(fast) / fast.sum() == pytest.approx(metrics.accuracy(true, predicted))


def test_impossible_classes_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        metrics.confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="two arrays"):
        metrics.accuracy(np.array([], int), np.array([], int))


def test_angular_errors_of_known_angles():
    degrees = np.arange(11.0)  # 0, 1, ..., 10: median 5, 90th percentile 9
    front = np.tile([1.0, 0.0, 0.0], (11, 1))
    summary = metrics.angular_errors(unit_vector(np.radians(degrees), 0.0), front)
    assert summary.count == 11
    assert (summary.median_deg, summary.mean_deg, summary.p90_deg) == pytest.approx((5.0, 5.0, 9.0), abs=1e-9)
    with pytest.raises(ValueError, match="directions"):
        metrics.angular_errors(front[:0], front[:0])


def test_borders_are_at_odd_multiples_of_22_5_degrees():
    azimuth_rad = np.radians([0.0, 17.5, 17.6, 22.5, 27.4, 27.5, -157.5, 180.0])
    away = metrics.away_from_borders(azimuth_rad, math.radians(5.0))
    assert away.tolist() == [True, True, False, False, False, True, False, True]
