"""What the loop asks of a training objective. The loop knows no objective, an objective knows no loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


class Task(Protocol):
    """One objective: its module, its examples, its loss."""

    module: nn.Module
    num_examples: int

    def prepare(self, indices: list[int], generator: Generator) -> Any:
        """Return the batch of these examples; all randomness comes from ``generator``."""

    def split(self, batch: Any, size: int) -> list[Any]:
        """Return the batch as micro-batches of ``size`` examples."""

    def num_units(self, batch: Any) -> int:
        """Return the number of units (tokens, images) the batch's loss is averaged over."""

    def loss(self, batch: Any) -> Terms:
        """Return the losses of one micro-batch."""

    def after_step(self, generator: Generator) -> None:
        """Update what is not trained by gradient (a codebook), after the optimiser's step."""

    def validate(self) -> dict[str, float]:
        """Return validation metrics; ``val_loss`` decides which model is best."""

    def example_ids(self, indices: list[int]) -> list[str]:
        """Return the manifest ids of examples, for error reports."""

    def export(self, directory: Path) -> None:
        """Write the model as a weights directory."""
