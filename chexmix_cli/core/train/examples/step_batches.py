"""A step's batch as a function of the step's number: made by this process's loop, or ahead of it by others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from chexmix_cli.core.settings.training import LoopSettings
from chexmix_cli.core.train.distributed import share
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.task import Examples


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one rank learns from in one step.

    Attributes:
        indices: of all examples of the step, those of other ranks too.
        batch: this rank's share of them, as :meth:`Examples.prepare` makes it.
        state: of the step's generator behind the preparation; the same on every rank.
    """

    indices: list[int]
    batch: Any
    state: NDArray[np.uint8]

    def generator(self) -> Generator:
        """Return the step's generator as the preparation left it."""
        generator = torch.Generator()
        generator.set_state(torch.from_numpy(self.state))
        return generator


class StepBatches:
    """Makes the batches of this rank; picklable, and without a state: a call is a function of the step alone.

    Args:
        examples: of the task.
        train: seed, and how a step's examples are shared.

    Attributes:
        numbers: of this rank's micro-batches, among all of a step.

    Raises:
        SettingsError: if a step's micro-batches cannot be shared evenly among the ranks.
    """

    def __init__(self, examples: Examples, train: LoopSettings) -> None:
        self._examples, self._seed = examples, train.seed
        self.numbers = share(train.batch_size // train.micro_batch_size)
        self._own = slice(self.numbers.start * train.micro_batch_size, self.numbers.stop * train.micro_batch_size)

    def __call__(self, step: int) -> StepBatch:
        """Return the batch of a step."""
        generator = step_generator(self._seed, step)
        indices = self._examples.select(step)
        batch = self._examples.prepare(indices, generator, self._own)
        return StepBatch(indices, batch, generator.get_state().numpy())
