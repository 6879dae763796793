"""A running mean of the weights: what is validated and exported where ``train.ema_decay`` is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class WeightAverage:
    """Exponential moving average of a module's trainable parameters, each laid out (sharded or not) as its parameter.

    Args:
        module: in training; its weights at this moment start the average.
        decay: share of the average that stays at a step. The first steps have ``(1 + n) / (10 + n)`` where that is
            less, so that the start weights do not linger.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.tensors: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (0-based)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            _local(self.tensors[name]).lerp_(_local(parameter), 1 - decay)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Put the average into the module for a while, and the weights in training back after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            average, weights = _local(self.tensors[name]), _local(parameter)
            before = weights.clone()
            weights.copy_(average)
            average.copy_(before)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
