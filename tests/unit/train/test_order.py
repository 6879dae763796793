"""Data order and schedule are functions of (seed, step)."""

from __future__ import annotations

import math

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings
from chexmix_cli.core.train.optimizer import build_optimizer, learning_rate
from chexmix_cli.core.train.order import batch_indices, step_generator, step_seed


def test_every_epoch_sees_every_example_once():
    drawn = [index for step in range(21) for index in batch_indices(seed=4, step=step, batch_size=5, num_examples=7)]
    for epoch in range(15):
        assert sorted(drawn[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14]


def test_a_batch_may_be_larger_than_the_data():
    assert len(batch_indices(seed=0, step=3, batch_size=10, num_examples=3)) == 10


def test_order_depends_on_seed_alone():
    first, again, other = (batch_indices(seed=seed, step=9, batch_size=8, num_examples=100) for seed in (1, 1, 2))
    assert first == again != other


def test_steps_have_independent_randomness():
    first, again, second = (torch.rand(4, generator=step_generator(0, step)) for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_micro_batches_have_seeds_of_their_own():
    """By its place in the step's whole batch, so that it is the same on every rank of every world."""
    seeds = [step_seed(0, 5), step_seed(0, 5, 0), step_seed(0, 5, 1), step_seed(0, 6, 0)]
    assert len(set(seeds)) == 4
    assert seeds == [step_seed(0, 5), step_seed(0, 5, 0), step_seed(0, 5, 1), step_seed(0, 6, 0)]


def test_schedule_warms_up_and_decays_towards_the_minimum():
    settings = OptimizerSettings(learning_rate=1.0, min_learning_rate=0.1, warmup_steps=4)
    rates = [learning_rate(settings, step, 14) for step in range(15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[9] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 5 / 10)))
    # Behind the last of 14 steps.
    assert rates[14] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(4, 1), (8, 7), (8, 8), (1, 0), (100, 10)])
def test_every_step_learns_where_the_minimum_is_zero(schedule, steps, warmup):
    settings = OptimizerSettings(learning_rate=1e-3, min_learning_rate=0.0, warmup_steps=warmup, schedule=schedule)
    rates = [learning_rate(settings, step, steps) for step in range(steps)]
    assert min(rates) > 0
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_wsd_warms_up_stays_and_falls_over_the_last_share():
    settings = OptimizerSettings(
        learning_rate=1.0, min_learning_rate=0.2, warmup_steps=2, schedule="wsd", decay_share=0.25
    )
    rates = [learning_rate(settings, step, 16) for step in range(17)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:13] == [1.0] * 11
    assert rates[13:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patience": -1}, "train.patience: is -1; expected 0 or more"),
        ({"validation_batches": -1}, "train.validation_batches: is -1; expected 0 or more"),
        ({"ema_decay": 1.0}, "train.ema_decay: is 1.0; expected 0 or more, below 1"),
    ],
)
def test_settings_of_the_loop_are_checked(values, message):
    with pytest.raises(SettingsError, match=message):
        LoopSettings(steps=1, batch_size=1, micro_batch_size=1, **values)


def test_the_share_of_decay_is_checked():
    with pytest.raises(SettingsError, match=r"optimizer.decay_share: is 1.5; expected 0..1"):
        OptimizerSettings(learning_rate=1.0, decay_share=1.5)


def test_only_matrices_decay(trained_model):
    decoder = Decoder(trained_model.decoder)
    optimizer = build_optimizer(decoder, OptimizerSettings(learning_rate=1.0, weight_decay=0.5))
    decayed = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    names = {name for name, parameter in decoder.named_parameters() if id(parameter) in decayed}
    assert names == {"head.weight"} | {
        f"blocks.{layer}.{part}.weight" for layer in range(2) for part in ("input_proj", "output_proj")
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(decoder.parameters()))
