"""Masks of image positions: nested, as large as asked, shaped as named, of their own image only."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.position_masks import PATTERNS, hidden_positions, hiding_order

RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("grid", [1, 2, 7, 16])
def test_an_order_is_a_permutation_and_its_masks_are_nested(pattern, grid):
    order = hiding_order(pattern, grid, seed=0, key="film")
    assert sorted(order.tolist()) == list(range(grid**2))
    masks = [hidden_positions(order, ratio) for ratio in RATIOS]
    for ratio, mask in zip(RATIOS, masks, strict=True):
        assert mask.sum() == round(ratio * grid**2)
    for smaller, larger in zip(masks, masks[1:], strict=False):
        assert (larger | smaller == larger).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_hangs_on_seed_pattern_and_key_only(pattern):
    first = hiding_order(pattern, 16, seed=0, key="a").tolist()
    assert hiding_order(pattern, 16, seed=0, key="a").tolist() == first
    assert hiding_order(pattern, 16, seed=1, key="a").tolist() != first
    assert hiding_order(pattern, 16, seed=0, key="b").tolist() != first


def test_random_hides_every_position_equally_often():
    hidden = sum(hidden_positions(hiding_order("random", 8, seed=s, key="x"), 0.25).astype(int) for s in range(2000))
    assert np.abs(hidden / 2000 - 0.25).max() < 0.05


@pytest.mark.parametrize("seed", range(20))
def test_a_block_is_a_square_inside_the_image_but_for_its_last_ring(seed):
    order = hiding_order("block", 16, seed=seed, key="x")
    for side in (1, 3, 5, 9):
        hidden = hidden_positions(order, side**2 / 256).reshape(16, 16)
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert len(rows) == len(columns) == side
        assert hidden.sum() == side**2


def test_blocks_start_everywhere():
    starts = {int(hiding_order("block", 4, seed=seed, key="x")[0]) for seed in range(400)}
    assert starts == set(range(16))


def test_a_border_goes_from_the_edges_inwards():
    hidden = hidden_positions(hiding_order("border", 6, seed=0, key="x"), 20 / 36).reshape(6, 6)
    assert hidden[[0, -1]].all()
    assert hidden[:, [0, -1]].all()
    assert not hidden[1:-1, 1:-1].any()


def test_unknown_patterns_and_ratios_are_refused():
    with pytest.raises(SettingsError, match="unknown mask pattern 'stripes'"):
        hiding_order("stripes", 4, seed=0, key="x")  # type: ignore[arg-type]
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match=r"expected 0\.\.1"):
            hidden_positions(np.arange(4), ratio)
