"""Pixels as indices into their distinct values, so that point-wise arithmetic runs once a value, in float64.

A film of ten million pixels has at most 65,536 values: rescaling, windows, percentiles and inversion cost nothing, need
no float copy of the film, and lose nothing to rounding. Shape letters: L levels (distinct values, ascending).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Above this span an array's values are collected by sorting instead of counted in a table.
_TABLE_SPAN = 1 << 17


@dataclass(frozen=True, slots=True)
class Levels:
    """An array of numbers, any shape, as ``stored_L[index]``.

    Attributes:
        index: of the array's shape, unsigned integers.
        stored_L: values as stored, ascending, float64; some may not occur.
        counts_L: how many pixels hold each, padding left out, int64.
        is_padding: of the array's shape, True where a pixel is no part of the picture; None when all are.
    """

    index: NDArray[np.unsignedinteger]
    stored_L: NDArray[np.float64]
    counts_L: NDArray[np.int64]
    is_padding: NDArray[np.bool_] | None = None

    @property
    def num_occurring(self) -> int:
        """Return how many levels some pixel of the picture holds."""
        return int(np.count_nonzero(self.counts_L))

    def paint(self, table_L: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the 8-bit array in which each level has its entry of a table, and padding is black."""
        painted: NDArray[np.uint8] = table_L[self.index]
        if self.is_padding is not None:
            painted[self.is_padding] = 0
        return painted


def count_levels(array: NDArray[np.generic], is_padding: NDArray[np.bool_] | None = None) -> Levels:
    """Return an array of finite integers or floats as levels.

    Args:
        array: any shape, at least one element.
        is_padding: of the same shape; None is no padding.
    """
    if is_padding is not None and not is_padding.any():
        is_padding = None
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.integer) and int(high) - int(low) < _TABLE_SPAN:
        # Python's integers: numpy's would wrap at the ends of a small signed type.
        stored_L = np.arange(int(low), int(high) + 1, dtype=np.float64)
        wide = np.int32 if array.dtype.itemsize <= 2 else np.int64
        index = np.subtract(array, int(low), dtype=wide).astype(np.min_scalar_type(len(stored_L) - 1))
    else:
        distinct_L, positions = np.unique(array, return_inverse=True)
        stored_L, index = distinct_L.astype(np.float64), positions.reshape(array.shape).astype(np.uint32)
    counted = index.ravel() if is_padding is None else index[~is_padding]
    return Levels(index, stored_L, np.bincount(counted, minlength=len(stored_L)), is_padding)


def percentiles(values_L: NDArray[np.float64], counts_L: NDArray[np.int64], percents: Sequence[float]) -> list[float]:
    """Return percentiles of values that occur ``counts_L`` times each, bit-equal to ``numpy.percentile`` of them all.

    Args:
        values_L: in any order.
        counts_L: of each; at least one is above 0.
        percents: 0 to 100; linear interpolation between neighbours.
    """
    order_L = np.argsort(values_L, kind="stable")
    ends_L = np.cumsum(counts_L[order_L])
    last = int(ends_L[-1]) - 1
    results = []
    for percent in percents:
        position = last * (percent / 100)
        below = int(np.floor(position))
        places = np.searchsorted(ends_L, [below, min(below + 1, last)], side="right")
        low, high = values_L[order_L[places]]
        share = position - below
        # numpy interpolates from the nearer end; the two forms differ in the last bit.
        results.append(float(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)))
    return results
