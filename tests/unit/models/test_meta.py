"""Modules without memory: the shapes of sound ones, and nothing drawn."""

from __future__ import annotations

import torch
from torch import nn

from chexmix_cli.core.models.meta import on_meta_device


def _modules() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(3, 2), nn.Embedding(5, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4), nn.GroupNorm(2, 4)])


def test_modules_have_shapes_and_no_values():
    with on_meta_device():
        empty = _modules()
    sound = _modules().state_dict()
    assert {name: (value.shape, value.dtype) for name, value in empty.state_dict().items()} == {
        name: (value.shape, value.dtype) for name, value in sound.items()
    }
    assert all(value.is_meta for value in empty.state_dict().values())


def test_nothing_is_drawn_and_later_modules_are_as_ever():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with on_meta_device():
        _modules()
    assert torch.equal(torch.get_rng_state(), before)
    after = nn.Linear(3, 2)
    torch.manual_seed(3)
    assert torch.equal(after.weight, nn.Linear(3, 2).weight)
