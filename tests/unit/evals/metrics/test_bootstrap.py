"""Intervals by patient: what is drawn together, what they cover, what is undefined."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.evals.metrics.bootstrap import (
    Resampler,
    bootstrap,
    group_numbers,
    paired_difference,
    percentile_intervals,
)


def test_items_without_a_patient_are_alone():
    assert group_numbers(["a", None, "b", "a", None]).tolist() == [0, 1, 2, 0, 3]


def test_a_patient_is_drawn_whole():
    groups = np.array([4, 1, 4, 2, 1, 4])
    resampler = Resampler(groups, seed=3)
    assert resampler.num_groups == 3
    sizes = set()
    for number in range(50):
        drawn = resampler.indices(number)
        sizes.add(len(drawn))
        times = np.bincount(drawn, minlength=6)
        assert times[0] == times[2] == times[5]
        assert times[1] == times[4]
        assert times[0] + times[1] + times[3] == 3
    assert len(sizes) > 1
    assert resampler.indices(7).tolist() == Resampler(groups, seed=3).indices(7).tolist()
    assert any(resampler.indices(n).tolist() != Resampler(groups, seed=4).indices(n).tolist() for n in range(5))


def test_the_interval_of_a_mean_is_the_one_statistics_gives():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    found = percentile_intervals(
        bootstrap(np.arange(400), lambda index: np.array([values[index].mean()]), resamples=2000, seed=1)
    )[0]
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(400)
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.012)


def test_images_of_one_patient_widen_the_interval():
    """Each patient's value ten times over: by image the interval would be a third as wide."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=60), 10)

    def width(groups):
        low, high = percentile_intervals(
            bootstrap(groups, lambda index: np.array([values[index].mean()]), resamples=500, seed=0)
        )[0]
        return high - low

    assert width(np.repeat(np.arange(60), 10)) > 2.5 * width(np.arange(600))


def test_undefined_resamples_are_left_out_and_too_few_give_no_interval():
    values = np.full((200, 2), np.nan)
    values[:150, 0] = np.linspace(0, 1, 150)
    values[:50, 1] = 1.0
    first, second = percentile_intervals(values)
    assert first == pytest.approx((0.025, 0.975))
    assert second is None


def test_a_paired_difference_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    base = rng.normal(scale=5, size=300)
    values = np.stack((base, base + 0.2 + rng.normal(scale=0.1, size=300)))
    found = paired_difference(np.arange(300), lambda index: values[:, index].mean(axis=1), resamples=500, seed=0)
    assert found.difference == pytest.approx(0.2, abs=0.02)
    assert found.interval is not None
    assert found.interval[0] > 0.15
    assert found.p_value == pytest.approx(2 / 501)
    same = paired_difference(np.arange(300), lambda index: np.array([base[index].mean()] * 2), resamples=200, seed=0)
    assert (same.difference, same.p_value) == (0.0, 1.0)
