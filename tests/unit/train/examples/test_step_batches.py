"""A step's batch is a function of the step: the same whoever makes it, in whatever order, and however it is shared."""

from __future__ import annotations

import pickle

import pytest
import torch
from small_runs import STAGES, make_trainer

from chexmix_cli.core.train import distributed
from chexmix_cli.core.train.examples.step_batches import StepBatches
from chexmix_cli.core.train.objectives import Documents


def contents(batch):
    """Return what a model sees of a batch: padding is none of it."""
    if isinstance(batch, Documents):
        input_1T, target_1T = batch.flat()
        return [input_1T, target_1T, torch.tensor(batch.lengths), torch.tensor(batch.rows)]
    return [batch]


def assert_same(one, other):
    assert one.indices == other.indices
    assert (one.state == other.state).all()
    for mine, theirs in zip(contents(one.batch), contents(other.batch), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_does_not_depend_on_who_makes_it_or_what_was_made_before(stage, tmp_path):
    trainer = make_trainer(stage, tmp_path)
    here = StepBatches(trainer.task.examples, trainer.train)
    there = pickle.loads(pickle.dumps(here))
    made = {step: here(step) for step in range(4)}
    for step in (3, 0, 2, 2):
        assert_same(there(step), made[step])
    assert made[0].indices != made[1].indices
    # What comes after the preparation (a codebook's choice) draws on, and not the same again.
    assert not torch.equal(made[0].generator().get_state(), torch.Generator().manual_seed(0).get_state())


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_prepare_their_own_rows_of_the_same_batch(stage, tmp_path, monkeypatch):
    trainer = make_trainer(stage, tmp_path)
    examples, size = trainer.task.examples, trainer.train.micro_batch_size
    whole = StepBatches(examples, trainer.train)(1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = trainer.task.split(whole.batch, size)
    assert len(parts) == 2
    for number, part in enumerate(parts):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        batches = StepBatches(examples, trainer.train)
        assert batches.numbers == range(number, number + 1)
        own = batches(1)
        assert own.indices == whole.indices
        assert (own.state == whole.state).all()
        for mine, theirs in zip(contents(own.batch), contents(part), strict=True):
            assert torch.equal(mine, theirs)
