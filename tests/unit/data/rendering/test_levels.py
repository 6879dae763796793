from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.data.rendering.levels import count_levels, percentiles


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32])
def test_painting_each_level_with_itself_gives_the_array_back(dtype):
    generator = np.random.default_rng(3)
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        low, high = max(bounds.min, -40_000), min(bounds.max, 40_000)
        array = generator.integers(low, high, size=(37, 23), endpoint=True, dtype=dtype)
        array[0, :2] = low, high
    else:
        array = generator.normal(size=(37, 23)).astype(dtype)
    levels = count_levels(array)
    assert np.array_equal(levels.stored_L[levels.index], array.astype(np.float64))
    assert levels.counts_L.sum() == array.size


def test_values_too_far_apart_for_a_table_are_sorted_instead():
    array = np.array([[0, 2_000_000_000], [-2_000_000_000, 5]], dtype=np.int32)
    levels = count_levels(array)
    assert levels.stored_L.tolist() == [-2_000_000_000, 0, 5, 2_000_000_000]
    assert np.array_equal(levels.stored_L[levels.index], array)


def test_padding_is_not_counted_and_is_painted_black():
    array = np.array([[5, 6], [6, 9]], dtype=np.uint16)
    levels = count_levels(array, array == 9)
    assert levels.counts_L.tolist() == [1, 2, 0, 0, 0]
    assert levels.num_occurring == 2
    assert levels.paint(np.full(5, 200, dtype=np.uint8)).tolist() == [[200, 200], [200, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_equal_numpy_bit_for_bit(seed):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(1, 400))
    array = generator.integers(-300, 300, size=size).astype(np.int16)
    levels = count_levels(array)
    values_L = levels.stored_L * -0.37 + 11.3 if seed % 2 else levels.stored_L
    percents = [0.0, 0.5, 1.0, 17.3, 50.0, 99.0, 99.5, 100.0]
    expected = np.percentile(values_L[levels.index], percents)
    assert percentiles(values_L, levels.counts_L, percents) == expected.tolist()
