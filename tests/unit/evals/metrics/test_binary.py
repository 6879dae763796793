"""Metrics of many columns against scikit-learn and by hand: ties, one class, missing labels, weights as repetition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from chexmix_cli.core.evals.metrics.binary import RankedScores

NAN = np.nan


def drawn(seed, count=60, columns=5):
    """Return scores with many ties and labels with gaps."""
    rng = np.random.default_rng(seed)
    score_NM = np.round(rng.uniform(size=(count, columns)), 1)
    label_NM = (rng.uniform(size=(count, columns)) < score_NM).astype(float)
    label_NM[rng.uniform(size=label_NM.shape) < 0.2] = NAN
    return score_NM, label_NM


def test_auroc_is_the_share_of_pairs_in_order_and_half_of_the_ties():
    score_N, label_N = [0.1, 0.4, 0.4, 0.8, 0.9], [0, 1, 0, 0, 1]
    pairs = [
        (s, t)
        for s, a in zip(score_N, label_N, strict=True)
        if a
        for t, b in zip(score_N, label_N, strict=True)
        if not b
    ]
    by_hand = sum((s > t) + 0.5 * (s == t) for s, t in pairs) / len(pairs)
    found = RankedScores(np.array(score_N)[:, None], np.array(label_N, float)[:, None]).auroc(np.ones(5))
    assert by_hand == 0.75
    assert found.tolist() == [0.75]


@pytest.mark.parametrize("seed", range(4))
def test_all_metrics_are_those_of_scikit_learn(seed):
    score_NM, label_NM = drawn(seed)
    ranked, ones = RankedScores(score_NM, label_NM), np.ones(len(score_NM))
    for column in range(score_NM.shape[1]):
        has = ~np.isnan(label_NM[:, column])
        label, score = label_NM[has, column], score_NM[has, column]
        assert ranked.auroc(ones)[column] == pytest.approx(roc_auc_score(label, score))
        assert ranked.auprc(ones)[column] == pytest.approx(average_precision_score(label, score))
        assert ranked.f1(ones, np.full(5, 0.5))[column] == pytest.approx(f1_score(label, score >= 0.5))
        assert ranked.brier(ones)[column] == pytest.approx(brier_score_loss(label, score))
        x, y = ranked.roc_points(column)
        wanted_x, wanted_y, _ = roc_curve(label, score, drop_intermediate=False)
        assert np.allclose(x, wanted_x)
        assert np.allclose(y, wanted_y)
        precision, recall, _ = precision_recall_curve(label, score)
        x, y = ranked.pr_points(column)
        assert np.allclose(x[::-1], recall[:-1])
        assert np.allclose(y[::-1], precision[:-1])


def test_a_weight_is_so_many_copies():
    score_NM, label_NM = drawn(7)
    weight_N = np.random.default_rng(1).integers(0, 4, len(score_NM))
    copied = RankedScores(np.repeat(score_NM, weight_N, axis=0), np.repeat(label_NM, weight_N, axis=0))
    ranked, ones = RankedScores(score_NM, label_NM), np.ones(weight_N.sum())
    weight_N = weight_N.astype(float)
    assert np.allclose(ranked.auroc(weight_N), copied.auroc(ones))
    assert np.allclose(ranked.auprc(weight_N), copied.auprc(ones))
    assert np.allclose(ranked.f1(weight_N, np.full(5, 0.3)), copied.f1(ones, np.full(5, 0.3)))
    assert np.allclose(ranked.brier(weight_N), copied.brier(ones))
    assert np.allclose(ranked.calibration_error(weight_N), copied.calibration_error(ones))


def test_a_bad_order_by_hand():
    """The highest score is of a negative, the lowest of a positive: what a total misses at either end shows."""
    ranked = RankedScores(np.array([[0.1], [0.4], [0.6], [0.9]]), np.array([[1.0], [0.0], [1.0], [0.0]]))
    assert ranked.auroc(np.ones(4)).tolist() == [0.25]  # of four pairs 0.6 > 0.4 alone
    assert ranked.auprc(np.ones(4)).tolist() == [0.5]  # precision 1 / 2 at the first positive, 2 / 4 at the second
    alarms_T, hits_T = ranked.roc_points(0)
    assert (alarms_T.tolist(), hits_T.tolist()) == ([0, 0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5, 1])
    recall_T, precision_T = ranked.pr_points(0)
    assert (recall_T.tolist(), precision_T.tolist()) == ([0, 0.5, 0.5, 1], [0, 1 / 2, 1 / 3, 2 / 4])


def test_one_item_of_each_class_is_enough_and_a_score_without_a_label_counts_nowhere():
    ranked = RankedScores(np.array([[0.2], [0.7], [0.9]]), np.array([[0.0], [1.0], [NAN]]))
    for metric in (ranked.auroc, ranked.auprc, lambda weight_N: ranked.f1(weight_N, np.array([0.5]))):
        assert metric(np.ones(3)).tolist() == [1.0]


def test_calibration_error_by_hand():
    """Bins of a fifteenth: two in the first, one each in the second, the last but one and, 1.0 itself, the last."""
    score_NM = np.array([[0.02], [0.04], [0.1], [0.9], [1.0]])
    label_NM = np.array([[0.0], [1.0], [0.0], [1.0], [0.0]])
    by_hand = abs(0.02 + 0.04 - 1) / 5 + 0.1 / 5 + abs(0.9 - 1) / 5 + 1.0 / 5
    assert RankedScores(score_NM, label_NM).calibration_error(np.ones(5))[0] == pytest.approx(by_hand)


def test_what_is_not_defined_is_nan_and_never_a_number():
    """The traps: AUROC with one class, F1 with no positive (0 or 1 by convention elsewhere), nothing at all."""
    score_NM = np.array([[0.2, 0.2, 0.2], [0.9, 0.9, 0.9]])
    label_NM = np.array([[0.0, 1.0, NAN], [0.0, 1.0, NAN]])
    ranked, ones = RankedScores(score_NM, label_NM), np.ones(2)
    assert np.isnan(ranked.auroc(ones)).all()
    assert np.isnan(ranked.auprc(ones)).all()
    f1_M = ranked.f1(ones, np.full(3, 0.5))
    assert np.isnan(f1_M[[0, 2]]).all()
    assert f1_M[1] == pytest.approx(2 / 3)
    assert np.isnan(ranked.brier(ones)).tolist() == [False, False, True]
    assert np.isnan(ranked.calibration_error(ones)).tolist() == [False, False, True]
    assert [counts.tolist() for counts in ranked.counts()] == [[0, 2, 0], [2, 0, 0]]
    assert all(counts.dtype == np.int64 for counts in ranked.counts())
