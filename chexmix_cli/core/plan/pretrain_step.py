"""One training step taken apart: what its passes and its update cost in bytes and seconds, on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chexmix_cli.core.plan.measure import LiveBytes, module_bytes
from chexmix_cli.core.runtime import resident_memory
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings
from chexmix_cli.core.train.optimizer import build_optimizer
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.parallel import Layout
from chexmix_cli.core.train.task import Task

#: A timed part is repeated at most so often.
_MOST = 7


def measure_step(
    task: Task, train: LoopSettings, optimizer: OptimizerSettings, *, device: torch.device, budget_s: float
) -> dict[str, float]:
    """Return what a step of ``task`` costs; the task is trained a little by that.

    Args:
        task: of the size that is measured.
        train: its loop, with one or two micro-batches a step: two show what existing gradients cost.
        optimizer: its optimiser.
        device: that trains.
        budget_s: seconds that repetitions may take, after the first one.

    Returns:
        pass_bytes: most bytes alive during the passes, besides weights and optimiser state.
        kept_bytes: of these, what a micro-batch leaves behind besides its gradients.
        update_bytes: most bytes that the update adds to weights, gradients and optimiser state.
        learn_s: one micro-batch forwards and backwards.
        update_s: clipping, optimiser, codebook.
        prepare_s: one batch made ready.
        batch_bytes: of its tensors.
        validate_s: the task's whole validation.
        tensor_bytes: most bytes of all tensors of a step.
        resident_bytes: memory that the process has after some steps.
    """
    step = _Step(task, train, optimizer, device)
    values = step.track()
    values["prepare_s"], batch = _timed(lambda: step.prepare(1))
    values["batch_bytes"] = float(_tensor_bytes(batch))
    micro = step.micros(batch)[0]
    learned, updated, left = list[float](), list[float](), budget_s
    while not learned or (len(learned) < _MOST and left > 0):
        learned.append(_timed(lambda: step.learn(micro))[0])
        updated.append(_timed(step.update)[0])
        left -= learned[-1] + updated[-1]
    values["resident_bytes"] = float(resident_memory())
    values["learn_s"], values["update_s"] = float(np.median(learned)), float(np.median(updated))
    task.module.eval()
    with torch.no_grad():
        values["validate_s"], _ = _timed(lambda: task.validate(0))
    return values


class _Step:
    """The loop's step without its checks and reports."""

    def __init__(self, task: Task, train: LoopSettings, optimizer: OptimizerSettings, device: torch.device) -> None:
        self._task, self._train, self._clip_norm = task, train, optimizer.clip_norm
        self._layout = Layout(task, train, device)
        self._optimizer = build_optimizer(task.module, optimizer)
        self._generator = step_generator(train.seed, 0)

    def prepare(self, step: int) -> Any:
        return self._task.examples.prepare(self._task.examples.select(step), self._generator)

    def micros(self, batch: Any) -> Any:
        return self._task.split(batch, self._train.micro_batch_size)

    def learn(self, micro: Any) -> None:
        self._layout.backward(micro, max(1, self._task.num_units(micro)), step=0, is_last=True)

    def update(self) -> None:
        self._layout.clip(self._clip_norm)
        self._optimizer.step()
        self._task.after_step(self._generator)
        self._optimizer.zero_grad(set_to_none=True)

    def track(self) -> dict[str, float]:
        self._task.module.train()
        micros = self.micros(self.prepare(0))
        with LiveBytes(self._task.module) as live:
            left = [live.now]
            for micro in micros:
                self.learn(micro)
                left.append(live.now)
            values = {"pass_bytes": float(live.peak), "kept_bytes": float(left[-1] - left[1])}
            # The first update makes the optimiser's state; only the second shows what an update needs for itself.
            self.update()
            self.learn(micros[0])
            before = live.now
            live.restart()
            self.update()
            values["update_bytes"] = float(live.peak - before)
        weights, trained = module_bytes(self._task.module)
        most = max(values["pass_bytes"], trained + values["update_bytes"])
        values["tensor_bytes"] = weights + 2 * trained + most
        return values


def _tensor_bytes(batch: Any) -> int:
    """Return the bytes of the tensors of a batch: one, or a record with some."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if dataclasses.is_dataclass(batch):
        return sum(_tensor_bytes(getattr(batch, part.name)) for part in dataclasses.fields(batch))
    return 0


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result
