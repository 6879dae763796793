"""``tools/train_cnn_baseline.py``: what a step learns from, and a run that goes on where it was interrupted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import train_cnn_baseline as tool  # noqa: E402


@pytest.fixture
def options():
    return argparse.Namespace(seed=3, steps=4, batch=2)


def data():
    rng = np.random.default_rng(0)
    films_NYX = rng.integers(0, 256, (5, 28, 28)).astype(np.uint8)
    return films_NYX, np.array([[1, np.nan], [0, 1], [1, 0], [0, np.nan], [np.nan, np.nan]], np.float32)


def test_an_interrupted_run_ends_where_an_undisturbed_one_does(options, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_CHECKPOINT_EVERY", 2)
    whole, halted = (tmp_path / name for name in ("whole", "halted"))
    whole.mkdir()
    halted.mkdir()
    expected = tool.train("masked", *data(), whole, options).state_dict()
    draw = tool.batch_of

    def interrupted(step, count, given):
        if step == 3:
            raise KeyboardInterrupt
        return draw(step, count, given)

    monkeypatch.setattr(tool, "batch_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tool.train("masked", *data(), halted, options)
    monkeypatch.setattr(tool, "batch_of", draw)
    found = tool.train("masked", *data(), halted, options).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_label_that_is_not_stated_teaches_nothing(options, tmp_path):
    films_NYX, target_NK = data()
    model = tool.train("clean", films_NYX, np.full_like(target_NK, np.nan), tmp_path, options)
    torch.manual_seed(options.seed)
    fresh = tool.network(target_NK.shape[1])
    # Decay shrinks all weights alike; nothing else moves them.
    shrunk = model[-1].weight / fresh[-1].weight
    torch.testing.assert_close(shrunk, shrunk.mean().expand_as(shrunk))


def test_every_row_comes_once_an_epoch(options):
    places = np.concatenate([tool.batch_of(step, 6, options) for step in range(6)])
    assert sorted(places[:6]) == sorted(places[6:12]) == list(range(6))
    assert places[:6].tolist() != places[6:12].tolist()


def test_hidden_cells_hold_the_mean_of_the_visible_ones():
    films_B1YX = torch.rand(2, 1, 56, 56)
    is_masked_BP = tool.random_masks(2, torch.Generator().manual_seed(0))
    assert 0 < is_masked_BP.mean() < tool._MOST_HIDDEN
    is_masked_BYX = torch.from_numpy(is_masked_BP.reshape(2, 28, 28).repeat(2, 1).repeat(2, 2))
    seen_BYX = tool.hidden(films_B1YX, is_masked_BP)[:, 0]
    assert torch.equal(seen_BYX[~is_masked_BYX], films_B1YX[:, 0][~is_masked_BYX])
    for seen_YX, film_YX, is_masked_YX in zip(seen_BYX, films_B1YX[:, 0], is_masked_BYX, strict=True):
        torch.testing.assert_close(seen_YX[is_masked_YX], film_YX[~is_masked_YX].mean().expand(is_masked_YX.sum()))
