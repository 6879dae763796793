"""Batches made ahead by other processes: the same run to the bit, errors as they are, and no hang when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from small_runs import make_trainer, metrics

from chexmix_cli.core.errors import DataError, MachineError, Reason, WorkerBugError
from chexmix_cli.core.train.checkpoint import list_checkpoints
from chexmix_cli.core.train.examples.prefetch import _Ahead, _Calls, made_ahead

#: What another library could quote of a file.
NAME = "Doe^Jane"


class Double:
    """Picklable; knows numbers below 6 only, and 5 not at all."""

    def __call__(self, number):
        if number == 4:
            raise DataError(Reason.CORRUPT, "no picture", where="film4")
        if number == 5:
            raise ValueError(NAME)
        return torch.full((3,), 2 * number)


def test_without_processes_things_are_made_when_they_are_asked_for():
    asked = []
    with made_ahead(asked.append, range(3), 0) as ahead:
        next(ahead)
        assert asked == [0]


def test_what_is_drawn_after_a_pass_is_as_without_processes():
    """Weights may be drawn after films are read."""
    before = torch.get_rng_state()
    with made_ahead(abs, range(-2, 0), 1) as ahead:
        assert list(ahead) == [2, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_travel_as_they_are_and_quote_nothing_of_others():
    ahead = _Ahead.__new__(_Ahead)
    ahead._iterator = map(_Calls(Double()).__getitem__, (1, 4, 5))
    assert next(ahead).tolist() == [2, 2, 2]
    with pytest.raises(DataError, match="film4: no picture"):
        next(ahead)
    with pytest.raises(WorkerBugError, match="ValueError") as caught:
        next(ahead)
    assert NAME not in str(caught.value)


def test_a_run_is_the_same_to_the_bit_with_processes_that_are_killed_and_resumed_with_others(tmp_path):
    """Two processes, both killed after step 2; the run keeps what it did, and one process goes on."""
    alone = make_trainer("tokenizer", tmp_path / "alone")
    alone.run(resume=False)
    handler = signal.getsignal(signal.SIGCHLD)

    def kill(record):
        if record.get("step") == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    out = tmp_path / "ahead"
    with pytest.raises(MachineError, match=r"a process that prepares batches ended \(signal 9\)") as caught:
        make_trainer("tokenizer", out, kill, workers=2).run(resume=False)
    assert "--resume goes on" in caught.value.hint
    done = int(list_checkpoints(out / "checkpoints")[-1].name.removeprefix("checkpoint-"))
    # What waited in the queue was used: at most two batches of each process.
    assert 2 <= done <= 6
    assert signal.getsignal(signal.SIGCHLD) == handler
    resumed = make_trainer("tokenizer", out, workers=1)
    assert resumed.run(resume=True)
    assert not multiprocessing.active_children()
    assert metrics(out) == metrics(tmp_path / "alone")
    expected = alone.task.module.state_dict()
    for name, tensor in resumed.task.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_film_that_cannot_be_read_ends_the_run_with_what_was_learnt(tmp_path):
    trainer = make_trainer("tokenizer", tmp_path, checkpoint_every=100, validate_every=100)
    prepare, calls = trainer.task.examples.prepare, []

    def fails(indices, generator, own):
        calls.append(indices)
        if len(calls) == 4:
            raise DataError(Reason.NOT_FOUND, "no such file", where="film3")
        return prepare(indices, generator, own)

    trainer.task.examples.prepare = fails
    with pytest.raises(DataError, match="film3: no such file"):
        trainer.run(resume=False)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-00000003"]
