from __future__ import annotations

import logging

import pytest

from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.commands.shared.ranks import training_process
from chexmix_cli.core import runtime


@pytest.mark.parametrize(
    ("has_bfloat16", "precision", "quiet", "count"),
    [
        (False, "bfloat16", False, 1),
        (False, "bfloat16", True, 0),
        (False, "float32", False, 0),
        (True, "bfloat16", False, 0),
    ],
)
def test_a_precision_that_is_slow_here_is_warned_of(monkeypatch, capsys, has_bfloat16, precision, quiet, count):
    monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda: has_bfloat16)
    with training_process(RunOptions(device="cpu", is_quiet=quiet), precision) as (place, console):
        assert place.type == "cpu"
        assert console.is_quiet is quiet
    said = capsys.readouterr().err
    assert said.count("does not multiply in bfloat16: --set train.precision=float32 is faster here") == count
    logging.getLogger("chexmix").handlers.clear()
