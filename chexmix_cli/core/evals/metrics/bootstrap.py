"""Intervals by patient: images of one patient are drawn together, since they are not independent of each other.

N items, G patients, M numbers of a statistic, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.settings.evaluation import BootstrapSettings

#: Takes the indices of a resample (each item as often as it was drawn), gives numbers; NaN where one is undefined.
Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]

_LEVEL = 0.95
#: Fewer usable resamples than this give no interval.
_FEWEST = 100


def group_numbers(keys: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Return a number for each item, (N,) int64, in the order keys are first met; an item without a key is alone."""
    numbers: dict[Hashable, int] = {}
    named = [("alone", index) if key is None else ("key", key) for index, key in enumerate(keys)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in named], np.int64)


class Resampler:
    """Draws patients with replacement.

    Args:
        groups_N: patient of each item, any whole numbers.
        seed: of the draws; resample i is the same for the same seed and grouping.
    """

    def __init__(self, groups_N: NDArray[np.int64], seed: int) -> None:
        self._order_N = np.argsort(groups_N, kind="stable")
        _, self._start_G, self._count_G = np.unique(groups_N[self._order_N], return_index=True, return_counts=True)
        self._seed = seed

    @property
    def num_groups(self) -> int:
        """Return the number of patients."""
        return len(self._count_G)

    def indices(self, number: int) -> NDArray[np.int64]:
        """Return the indices of the items of one resample, (items drawn,), each as often as its patient was drawn."""
        rng = np.random.default_rng([self._seed, number])
        drawn_G = rng.integers(self.num_groups, size=self.num_groups)
        count_G = self._count_G[drawn_G]
        # Runs of consecutive indices in the sorted order, one for each drawn patient.
        shift_G = self._start_G[drawn_G] - np.concatenate(([0], np.cumsum(count_G)[:-1]))
        found: NDArray[np.int64] = self._order_N[np.repeat(shift_G, count_G) + np.arange(count_G.sum())]
        return found


def bootstrap(groups_N: NDArray[np.int64], statistic: Statistic, *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the statistic of every resample, (R, M) float64."""
    resampler = Resampler(groups_N, seed)
    return np.stack([np.atleast_1d(statistic(resampler.indices(number))) for number in range(resamples)])


def percentile_intervals(values_RM: NDArray[np.float64]) -> list[tuple[float, float] | None]:
    """Return the 95 % percentile interval of each number; resamples where it is NaN are left out.

    None where fewer than 100 resamples have a value: an interval of a handful says nothing.
    """
    intervals: list[tuple[float, float] | None] = []
    for value_R in values_RM.T:
        usable = value_R[~np.isnan(value_R)]
        if len(usable) < _FEWEST:
            intervals.append(None)
            continue
        low, high = np.quantile(usable, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        intervals.append((float(low), float(high)))
    return intervals


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """B minus A on the same items.

    Attributes:
        difference: on the items as they are.
        interval: 95 % by patient, or None.
        p_value: two-sided, share of resamples on the other side of 0, at least 1 / (resamples + 1).
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float


def paired_difference(
    groups_N: NDArray[np.int64], statistic: Statistic, *, resamples: int, seed: int
) -> PairedDifference:
    """Return how two results differ on the same items.

    Args:
        groups_N: patient of each item.
        statistic: gives (A, B) of a resample.
        resamples: draws.
        seed: of the draws.
    """
    value_a, value_b = (float(value) for value in statistic(np.arange(len(groups_N))))
    values_R2 = bootstrap(groups_N, statistic, resamples=resamples, seed=seed)
    difference_R = values_R2[:, 1] - values_R2[:, 0]
    usable = difference_R[~np.isnan(difference_R)]
    beyond = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (len(usable) + 1))
    return PairedDifference(value_b - value_a, percentile_intervals(difference_R[:, None])[0], p_value)


def weighted_intervals(
    groups_N: NDArray[np.int64],
    numbers: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    shape: tuple[int, ...],
    settings: BootstrapSettings,
) -> NDArray[np.object_]:
    """Return the 95 % interval of each of an array of numbers, or None, in the array's shape.

    Args:
        groups_N: patient of each item.
        numbers: gives them for weights of the items, (N,): how often a resample has drawn each.
        shape: of the numbers.
        settings: of the bootstrap; without resamples there are no intervals.
    """
    found = np.full(shape, None, object)
    if settings.resamples:
        values_RM = bootstrap(
            groups_N,
            lambda index: numbers(np.bincount(index, minlength=len(groups_N)).astype(np.float64)).ravel(),
            resamples=settings.resamples,
            seed=settings.seed,
        )
        flat = found.reshape(-1)
        for place, interval in enumerate(percentile_intervals(values_RM)):
            flat[place] = interval
    return found
