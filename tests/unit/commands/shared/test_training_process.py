from __future__ import annotations

import logging
import os

import pytest
import torch

from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.commands.shared.training import training_process
from chexmix_cli.core import runtime
from chexmix_cli.core.settings.training import LoopSettings
from chexmix_cli.core.train import precision


@pytest.mark.parametrize(
    ("has_bfloat16", "asked", "quiet", "count"),
    [
        (False, "bfloat16", False, 1),
        (False, "bfloat16", True, 0),
        (False, "float32", False, 0),
        (True, "bfloat16", False, 0),
        (False, "auto", False, 0),
    ],
)
def test_a_precision_that_is_slow_here_is_warned_of(monkeypatch, capsys, has_bfloat16, asked, quiet, count):
    monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(precision, "flop_rate", lambda dtype, device: 2.0 if dtype == torch.bfloat16 else 1.0)
    train = LoopSettings(steps=1, batch_size=1, micro_batch_size=1, precision=asked)
    with training_process(RunOptions(device="cpu", is_quiet=quiet), train) as (place, console):
        assert place.type == "cpu"
        assert console.is_quiet is quiet
    said = capsys.readouterr().err
    assert said.count("this CPU is not faster in bfloat16: --dtype float32 is") == count
    logging.getLogger("chexmix").handlers.clear()


@pytest.mark.parametrize("is_asked", [False, True])
def test_determinism_is_asked_for_and_ends_with_the_run(monkeypatch, is_asked):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    train = LoopSettings(steps=1, batch_size=1, micro_batch_size=1, deterministic=is_asked)
    with training_process(RunOptions(device="cpu", is_quiet=True), train):
        assert torch.are_deterministic_algorithms_enabled() is is_asked
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is is_asked
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    logging.getLogger("chexmix").handlers.clear()
