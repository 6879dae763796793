"""What the loop asks of a training objective. The loop knows no objective, an objective knows no loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn


@dataclass(frozen=True, slots=True)
class Terms:
    """Losses of one micro-batch.

    Attributes:
        total: what is minimised, summed (not averaged) over the micro-batch's units; scalar with gradient.
        sums: detached sums for reporting, name -> (sum, number of units it sums over).
    """

    total: Tensor
    sums: dict[str, tuple[Tensor, int]]


@dataclass(frozen=True, slots=True)
class Work:
    """What learning from one batch asks of the model.

    Attributes:
        tokens: that the decoder reads; of images, the codes that stand for them.
        flop: floating-point operations, as ``flop.py`` counts them.
    """

    tokens: int
    flop: int


#: All examples of a step: what a process that is alone prepares.
ALL = slice(None)


class Examples(Protocol):
    """What a task learns from, and how batches are made of it; without the module, so that it can be pickled.

    Nothing of it changes once a run has begun: a batch is a function of its arguments alone, whoever makes it and when.
    """

    def select(self, step: int) -> list[int]:
        """Return the indices of all examples of a step (0-based); a pure function of the seed and the step."""

    def prepare(self, indices: list[int], generator: Generator, own: slice = ALL) -> Any:
        """Return the batch of ``own`` of these examples, on the CPU.

        All randomness comes from ``generator``, in the same draws for any ``own``: what an example becomes, and where
        the generator stands afterwards, do not depend on how examples are shared.
        """

    def ids(self, indices: list[int]) -> list[str]:
        """Return the manifest ids of examples, for error reports."""


class Task(Protocol):
    """One objective: its module, its examples, its loss.

    A step learns from all its examples, whatever the number of processes. Each process prepares those of its own
    micro-batches; neither the order of examples nor masks nor dropout depend on how many processes there are, and
    nothing about them is communicated.

    Attributes:
        module: all that is trained and all that a checkpoint keeps.
        examples: what it learns from.
        blocks: parts of ``module`` called as modules one after the other: what is sharded, recomputed or compiled
            one by one. May be empty.
        metric: name of the validation metric that decides which model is best and when patience ends.
        higher_is_better: its direction.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]
    metric: str
    higher_is_better: bool

    @property
    def examples(self) -> Examples: ...

    def split(self, batch: Any, size: int) -> Sequence[Any]:
        """Return the batch as micro-batches of ``size`` examples, in order."""

    def num_units(self, batch: Any) -> int:
        """Return the number of units (tokens, images) of a batch, over all of which a step's loss is averaged."""

    def work(self, batch: Any) -> Work:
        """Return what a batch makes the model do, from shapes alone."""

    def loss(self, batch: Any, step: int) -> Terms:
        """Return the losses of one micro-batch of a step (0-based); it is moved to the module's device first.

        Randomness (dropout) may come from torch's global generator, which the loop seeds for each micro-batch.
        """

    def after_step(self, generator: Generator) -> None:
        """Update what is not trained by gradient (a codebook), after the optimiser's step.

        ``generator`` goes on where the preparation of the step's examples left it.
        """

    def validate(self, step: int) -> dict[str, float]:
        """Return validation metrics after so many steps, ``metric`` among them."""

    def export(self, directory: Path) -> None:
        """Write the model as a weights directory."""


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module's parameters are on."""
    return next(module.parameters()).device


def autocast(module: nn.Module, precision: str) -> torch.autocast:
    """Return the context a module computes in: ``float32`` as it is, ``bfloat16`` by autocast on its device."""
    assert precision != "auto", "chosen before a task is built (precision.py)"
    return torch.autocast(device_of(module).type, torch.bfloat16, enabled=precision == "bfloat16")
