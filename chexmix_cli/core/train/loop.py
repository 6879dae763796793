"""The training loop: one for every objective."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings
from chexmix_cli.core.train.checkpoint import Position, load_newest, save_checkpoint
from chexmix_cli.core.train.metrics import MetricsLog
from chexmix_cli.core.train.optimizer import build_optimizer, learning_rate
from chexmix_cli.core.train.order import step_generator, step_seed
from chexmix_cli.core.train.task import Task, autocast
from chexmix_cli.core.weights.files import write_text

Report = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class _Window:
    """Sums since the last report."""

    started: float = field(default_factory=time.perf_counter)
    examples: int = 0
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def add(self, sums: dict[str, tuple[Tensor, int]]) -> None:
        for name, (value, count) in sums.items():
            before, counted = self.sums.get(name, (torch.zeros(()), 0))
            self.sums[name] = (before + value, counted + count)

    def means(self) -> dict[str, float]:
        return {name: float(value) / count for name, (value, count) in self.sums.items() if count}


class Trainer:
    """One run in a folder: steps, reports, validation, checkpoints, resume.

    Args:
        task: the objective.
        train, optimizer: settings of the loop.
        settings: the whole settings root as a plain mapping; a checkpoint is resumed under the same only.
        out: the run folder: ``metrics.jsonl``, ``checkpoints/``, ``model/``.
        report: called with each metrics record and each remark (``{"remark": ...}``).
    """

    def __init__(
        self,
        task: Task,
        train: LoopSettings,
        optimizer: OptimizerSettings,
        settings: dict[str, Any],
        *,
        out: Path,
        report: Report,
    ) -> None:
        self.task, self.train, self.schedule, self.settings, self.out = task, train, optimizer, settings, out
        self.optimizer = build_optimizer(task.module, optimizer)
        self.position = Position(0, None)
        self._report = report

    def run(self, *, resume: bool) -> bool:
        """Train to the last step; return False if a SIGTERM or SIGINT ended it early, with a checkpoint written."""
        if resume:
            self.position, remarks = load_newest(
                self.out / "checkpoints", self.task.module, self.optimizer, self.settings
            )
            for remark in [*remarks, f"resumed after step {self.position.step}"]:
                self._report({"remark": remark})
        log = MetricsLog(self.out / "metrics.jsonl", self.position.step)
        window = _Window()
        with _stop_signals() as stopped:
            while self.position.step < self.train.steps:
                step = self.position.step
                norm = self._step(step, window)
                self.position = Position(step + 1, self.position.best)
                is_last = step + 1 == self.train.steps
                if (step + 1) % self.train.log_every == 0 or is_last:
                    window = self._log(log, window, norm)
                if (step + 1) % self.train.validate_every == 0 or is_last:
                    self._validate(log)
                if stopped() or (step + 1) % self.train.checkpoint_every == 0 or is_last:
                    self._checkpoint()
                if stopped() and not is_last:
                    return False
        return True

    def _step(self, step: int, window: _Window) -> float:
        seed = self.train.seed
        generator = step_generator(seed, step)
        indices = self.task.select(step)
        batch = self.task.prepare(indices, generator)
        num_units = max(1, self.task.num_units(batch))
        self.task.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        for number, micro in enumerate(self.task.split(batch, self.train.micro_batch_size)):
            # Dropout draws from the global generator: it is a function of seed, step and micro-batch.
            torch.manual_seed(step_seed(seed, step, number))
            with autocast(self.task.module, self.train.precision):
                terms = self.task.loss(micro)
            (terms.total / num_units).backward()
            window.add(terms.sums)
        window.examples += len(indices)
        norm = float(torch.nn.utils.clip_grad_norm_(self.task.module.parameters(), self.schedule.clip_norm))
        if not math.isfinite(norm):
            self._stop_non_finite(step, indices, window)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, step, self.train.steps)
        self.optimizer.step()
        self.task.after_step(generator)
        return norm

    def _log(self, log: MetricsLog, window: _Window, norm: float) -> _Window:
        step = self.position.step
        seconds = time.perf_counter() - window.started
        record: dict[str, Any] = {"step": step, **window.means()}
        record["learning_rate"] = learning_rate(self.schedule, step - 1, self.train.steps)
        record["grad_norm"] = norm
        record["examples_per_s"] = window.examples / seconds
        log.write(record)
        self._report(record)
        return _Window()

    def _validate(self, log: MetricsLog) -> None:
        self.task.module.eval()
        with torch.inference_mode():
            record: dict[str, Any] = {"step": self.position.step, **self.task.validate()}
        value, best = record[self.task.metric], self.position.best
        is_best = best is None or (value > best if self.task.higher_is_better else value < best)
        if is_best:
            self.position = Position(self.position.step, value)
            self.task.export(self.out / "model")
        log.write(record)
        self._report({**record, "best": is_best})

    def _checkpoint(self) -> None:
        save_checkpoint(
            self.out / "checkpoints",
            self.task.module,
            self.optimizer,
            self.position,
            self.settings,
            keep=self.train.keep_checkpoints,
        )

    def _stop_non_finite(self, step: int, indices: list[int], window: _Window) -> None:
        path = self.out / "nonfinite.json"
        record = {"step": step, "ids": self.task.example_ids(indices), "losses": window.means()}
        write_text(path, json.dumps(record, indent=2) + "\n")
        raise TrainingError(
            f"the gradient of step {step} is not finite",
            where=str(path),
            hint="the file lists the batch; resume with a lower optimizer.learning_rate from the last checkpoint",
        )


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and SIGINT into a flag that the loop reads between steps."""
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
