"""What each of two processes does for test_distributed.py; started by ``two_ranks`` there.

usage: python rank_program.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from small_runs import STAGES, make_trainer

from chexmix_cli.core.train import loop
from chexmix_cli.core.train.distributed import barrier, is_main, joined, rank
from chexmix_cli.core.train.loop import Trainer

STEPS = 6


def stop_at(trainer: Trainer, step: int) -> None:
    """Let rank 1, and no other, be told to stop in a step."""
    select = trainer.task.select

    def stopping(number: int) -> list[int]:
        if number == step and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return select(number)

    trainer.task.select = stopping


def trainer(stage: str, out: Path, parallel: str, **loop: Any) -> Trainer:
    # Sharded, every process but the first gets its values from that.
    has_values = parallel == "ddp" or is_main()
    return make_trainer(stage, out, steps=STEPS, parallel=parallel, ema_decay=0.5, has_values=has_values, **loop)


def main(folder: Path) -> None:
    for parallel in ("ddp", "fsdp"):
        for stage in STAGES:
            assert trainer(stage, folder / f"{parallel}-{stage}", parallel).run(resume=False)
        stopped = trainer("2", folder / f"{parallel}-stopped", parallel)
        stop_at(stopped, 2)
        assert not stopped.run(resume=False)
        # What one process began.
        assert trainer("2", folder / f"one-{parallel}", parallel).run(resume=True)
    gathered = trainer("1", folder / "fsdp-bfloat16", "fsdp", precision="bfloat16")
    assert gathered.run(resume=False)
    block = gathered.task.blocks[0]
    block.unshard()
    # What travels has half the bytes, what is trained and kept has all of them.
    assert block.input_proj.weight.dtype == torch.bfloat16
    assert block.norm.weight.dtype == torch.float32
    block.reshard()
    assert {parameter.dtype for parameter in gathered.task.module.parameters()} == {torch.float32}
    # What two processes began with the whole model on each.
    if is_main():
        shutil.copytree(folder / "ddp-stopped", folder / "ddp-fsdp")
    barrier()
    assert trainer("2", folder / "ddp-fsdp", "fsdp").run(resume=True)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    loop.write_curves = lambda records, path, **how: None  # slower than all the steps
    with joined("cpu"):
        main(Path(sys.argv[1]))
