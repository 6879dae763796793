"""What each of two processes does for test_distributed.py; started by ``two_ranks`` there.

usage: python rank_program.py FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from small_runs import STAGES, make_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.train import loop
from chexmix_cli.core.train.distributed import barrier, is_main, joined, rank
from chexmix_cli.core.train.loop import Trainer

STEPS = 6


def stop_at(trainer: Trainer, step: int) -> None:
    """Let rank 1, and no other, be told to stop in a step."""
    select = trainer.task.examples.select

    def stopping(number: int) -> list[int]:
        if number == step and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return select(number)

    trainer.task.examples.select = stopping


def lose_at(trainer: Trainer, step: int) -> None:
    """Let rank 1, and no other, find a film of a step gone."""
    examples = trainer.task.examples
    prepare = examples.prepare

    def losing(indices: list[int], *how: Any) -> Any:
        if rank() == 1 and indices == examples.select(step):
            raise DataError(Reason.NOT_FOUND, "no such file", where="film3")
        return prepare(indices, *how)

    examples.prepare = losing


def prepare_ahead(folder: Path) -> None:
    """Run with a process that prepares each rank's batches; and until one of them cannot be."""
    assert trainer("2", folder / "ddp-ahead", "ddp", workers=1).run(resume=False)
    lost = trainer("tokenizer", folder / "ddp-lost", "ddp", checkpoint_every=100, validate_every=100)
    lose_at(lost, 4)
    try:
        lost.run(resume=False)
    except DataError as error:
        (folder / f"lost-{rank()}").write_text(str(error))


def trainer(stage: str, out: Path, parallel: str, **loop: Any) -> Trainer:
    # Sharded, every process but the first gets its values from that.
    has_values = parallel == "ddp" or is_main()
    return make_trainer(stage, out, steps=STEPS, parallel=parallel, ema_decay=0.5, has_values=has_values, **loop)


class Collectives(TorchDispatchMode):
    """Counts what is gathered, reduced and summed while the block runs: bytes of whole tensors, and calls."""

    NAMES = {"_allgather_base_": "gathered", "_reduce_scatter_base_": "reduced", "allreduce_": "summed"}

    def __init__(self) -> None:
        super().__init__()
        self.found = {name: [0, 0] for name in self.NAMES.values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = self.NAMES.get(func._schema.name.removeprefix("c10d::"))
        if name is not None:
            tensors = [part for part in args[:2] if isinstance(part, torch.Tensor)] or args[0]
            count = self.found[name]
            count[0] += max(tensor.numel() * tensor.element_size() for tensor in tensors)
            count[1] += 1
        return func(*args, **(kwargs or {}))


def count_collectives(folder: Path, parallel: str) -> None:
    """Write what one step's first micro-batch of a rank sends, in bfloat16."""
    run = trainer("1", folder / f"count-{parallel}", parallel, precision="bfloat16")
    task = run.task
    micros = task.split(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 1)
    with Collectives() as collectives:
        run.layout.backward(micros[rank()], 1, step=0, is_last=True)
    if is_main():
        (folder / f"{parallel}-collectives.json").write_text(json.dumps(collectives.found))


def main(folder: Path) -> None:
    for parallel in ("ddp", "fsdp"):
        count_collectives(folder, parallel)
    for parallel in ("ddp", "fsdp"):
        for stage in STAGES:
            assert trainer(stage, folder / f"{parallel}-{stage}", parallel).run(resume=False)
        stopped = trainer("2", folder / f"{parallel}-stopped", parallel)
        stop_at(stopped, 2)
        assert not stopped.run(resume=False)
        # What one process began.
        assert trainer("2", folder / f"one-{parallel}", parallel).run(resume=True)
    prepare_ahead(folder)
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
