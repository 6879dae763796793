"""What a run computes in: ``train.precision``, and what ``auto`` comes to on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

import torch

from chexmix_cli.core.rates import flop_rate
from chexmix_cli.core.runtime import multiplies_bfloat16
from chexmix_cli.core.settings.finetuning import Finetuning
from chexmix_cli.core.settings.training import StageTraining
from chexmix_cli.core.train.checkpoint import saved_settings
from chexmix_cli.core.train.distributed import from_main

Root = TypeVar("Root", bound=StageTraining | Finetuning)

#: Products in bfloat16 must be so many times as fast as in float32: around them more is cast.
_LEAST_GAIN = 1.25


def with_precision(settings: Root, device: torch.device, *, resumed: Path | None = None) -> Root:
    """Return a training's settings with a precision in place of ``auto``: rank 0's choice for all.

    Args:
        settings: root of a stage or a task.
        device: that trains.
        resumed: checkpoints of the run that goes on: it keeps what it was begun in, whatever machine it goes on with.
    """
    train = settings.train
    if train.precision != "auto":
        return settings
    saved = None if resumed is None else saved_settings(resumed).get("train", {}).get("precision")
    chosen = from_main(saved or ("bfloat16" if bfloat16_is_faster(device) else "float32"))
    return dataclasses.replace(settings, train=dataclasses.replace(train, precision=chosen))


def bfloat16_is_faster(device: torch.device) -> bool:
    """Return whether training is faster in bfloat16 on a device.

    On a GPU that multiplies in it, always. A CPU's instructions do not say: AVX512-BF16 without AMX was measured at
    half the speed of float32. So there both are timed, once, in products of matrices (:func:`rates.flop_rate`).
    """
    if not multiplies_bfloat16(device):
        return False
    if device.type != "cpu":
        return True
    return flop_rate(torch.bfloat16, device) > _LEAST_GAIN * flop_rate(torch.float32, device)


def slow_precision(precision: str, device: torch.device) -> list[str]:
    """Return what to tell someone who asked for bfloat16 on a CPU that is not faster in it; nothing elsewhere."""
    is_slow = precision == "bfloat16" and device.type == "cpu" and not bfloat16_is_faster(device)
    return ["this CPU is not faster in bfloat16: --dtype float32 is, and more exact"] if is_slow else []
