"""Metrics of many columns of scores at once, under any weighting of the items, so that a bootstrap is cheap.

Everything is sorted once; a resample is a weight for each item (how often it was drawn). N items, M columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Bins of equal width of the calibration error.
CALIBRATION_BINS = 15


class RankedScores:
    """Columns of scores against 0/1 labels.

    Args:
        score_NM: scores; of any kind for ranks, probabilities for the rest.
        label_NM: 1, 0, or NaN where an item does not count in a column.
    """

    def __init__(self, score_NM: Floats, label_NM: Floats) -> None:
        has_NM = ~np.isnan(label_NM)
        label_NM = np.where(has_NM, label_NM, 0.0)
        self._score_NM, self._label_NM, self._has_NM = score_NM, label_NM, has_NM.astype(np.float64)
        self._order_NM = np.argsort(score_NM, axis=0, kind="stable")
        sorted_NM = np.take_along_axis(score_NM, self._order_NM, axis=0)
        self._start_NM, self._end_NM = _tie_bounds(sorted_NM)
        self._positive_NM = np.take_along_axis(label_NM * self._has_NM, self._order_NM, axis=0)
        self._negative_NM = np.take_along_axis((1 - label_NM) * self._has_NM, self._order_NM, axis=0)

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many items are positive and negative, each (M,)."""
        return self._positive_NM.sum(0).astype(np.int64), self._negative_NM.sum(0).astype(np.int64)

    def auroc(self, weight_N: Floats) -> Floats:
        """Return P(s+ > s-) + P(s+ = s-) / 2 of each column, (M,); NaN where one class is missing."""
        positive_NM, below_NM = self._weighted(weight_N)
        rank_NM = 0.5 * (_at(below_NM, self._start_NM) + _at(below_NM, self._end_NM))
        return _divide((positive_NM * rank_NM).sum(0), positive_NM.sum(0) * below_NM[-1])

    def auprc(self, weight_N: Floats) -> Floats:
        """Return the average precision of each column, (M,); items of one score count together. NaN as in auroc."""
        positive_NM, below_NM = self._weighted(weight_N)
        missed_NM = _running(positive_NM)
        total_M, negatives_M = missed_NM[-1], below_NM[-1]
        hits_NM = total_M - _at(missed_NM, self._start_NM)
        called_NM = hits_NM + negatives_M - _at(below_NM, self._start_NM)
        found_M = (positive_NM * _divide(hits_NM, called_NM, 0.0)).sum(0)
        return np.where(negatives_M > 0, _divide(found_M, total_M), np.nan)

    def f1(self, weight_N: Floats, threshold_M: Floats) -> Floats:
        """Return F1 with scores of the threshold or more called present, (M,).

        NaN where there is no positive, however many are called present: recall is not defined there.
        """
        called_NM = (self._score_NM >= threshold_M) * self._has_NM
        hits_M = weight_N @ (called_NM * self._label_NM)
        positives_M = weight_N @ (self._label_NM * self._has_NM)
        return np.where(positives_M > 0, _divide(2 * hits_M, weight_N @ called_NM + positives_M), np.nan)

    def brier(self, weight_N: Floats) -> Floats:
        """Return the mean squared error of the probabilities, (M,)."""
        error_NM = (self._score_NM - self._label_NM) ** 2 * self._has_NM
        return _divide(weight_N @ error_NM, weight_N @ self._has_NM)

    def calibration_error(self, weight_N: Floats) -> Floats:
        """Return the expected calibration error, (M,): probabilities against shares of positives, by bins."""
        bin_NM = np.clip((self._score_NM * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
        gap_NM = (self._score_NM - self._label_NM) * self._has_NM
        total_M = sum(np.abs(weight_N @ (gap_NM * (bin_NM == number))) for number in range(CALIBRATION_BINS))
        return _divide(np.asarray(total_M), weight_N @ self._has_NM)

    def roc_points(self, column: int) -> tuple[Floats, Floats]:
        """Return false and true positive rates of one column from (0, 0) to (1, 1), one point a distinct score."""
        hits_T, alarms_T = self._steps(column)
        return alarms_T / alarms_T[-1], hits_T / hits_T[-1]

    def pr_points(self, column: int) -> tuple[Floats, Floats]:
        """Return recall and precision of one column, one point a distinct score, by falling score."""
        hits_T, alarms_T = self._steps(column)
        return hits_T[1:] / hits_T[-1], hits_T[1:] / (hits_T[1:] + alarms_T[1:])

    def _steps(self, column: int) -> tuple[Floats, Floats]:
        """Return hits and false alarms as the threshold falls, from 0, at the end of every run of ties."""
        positive_N, negative_N = self._positive_NM[::-1, column], self._negative_NM[::-1, column]
        # Read backwards, a run of equal scores ends where it starts read forwards.
        start_N = self._start_NM[::-1, column]
        last_T = np.flatnonzero(start_N == np.arange(len(start_N))[::-1])
        hits_T, alarms_T = np.cumsum(positive_N)[last_T], np.cumsum(negative_N)[last_T]
        # A score that only items without a label have is not a step.
        is_step_T = np.diff(hits_T + alarms_T, prepend=0.0) > 0
        return np.append(0.0, hits_T[is_step_T]), np.append(0.0, alarms_T[is_step_T])

    def _weighted(self, weight_N: Floats) -> tuple[Floats, Floats]:
        """Return each sorted item's weight as a positive, (N, M), and running sums of negatives, (N + 1, M)."""
        weight_NM = weight_N[self._order_NM]
        return weight_NM * self._positive_NM, _running(weight_NM * self._negative_NM)


def _tie_bounds(sorted_NM: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each index of sorted columns where its run of equal values starts, and where it ends (exclusive)."""
    count = len(sorted_NM)
    place_N1 = np.arange(count)[:, None]
    is_new_NM = np.ones(sorted_NM.shape, bool)
    is_new_NM[1:] = sorted_NM[1:] != sorted_NM[:-1]
    start_NM = np.maximum.accumulate(np.where(is_new_NM, place_N1, 0), axis=0)
    is_last_NM = np.ones(sorted_NM.shape, bool)
    is_last_NM[:-1] = is_new_NM[1:]
    end_NM = np.minimum.accumulate(np.where(is_last_NM, place_N1 + 1, count)[::-1], axis=0)[::-1]
    return start_NM, end_NM


def _running(value_NM: Floats) -> Floats:
    running_NM = np.zeros((len(value_NM) + 1, value_NM.shape[1]))
    np.cumsum(value_NM, axis=0, out=running_NM[1:])
    return running_NM


def _at(running_NM: Floats, place_NM: NDArray[np.int64]) -> Floats:
    found: Floats = np.take_along_axis(running_NM, place_NM, axis=0)
    return found


def _divide(over: Floats, under: Floats, otherwise: float = np.nan) -> Floats:
    """Return a quotient of arrays of one shape, and ``otherwise`` where there is nothing to divide by."""
    found: Floats = np.divide(over, under, out=np.full(over.shape, otherwise), where=under > 0)
    return found
