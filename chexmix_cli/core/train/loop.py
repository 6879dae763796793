"""The training loop: one for every objective, on any number of processes."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.rates import flop_rate
from chexmix_cli.core.runtime import code_state
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings
from chexmix_cli.core.train.checkpoint import (
    Position,
    TrainState,
    list_checkpoints,
    load_newest,
    require_space,
    save_checkpoint,
)
from chexmix_cli.core.train.distributed import barrier, from_all, from_main, is_any, is_main, sum_over_ranks, world_size
from chexmix_cli.core.train.ema import WeightAverage
from chexmix_cli.core.train.examples.prefetch import PREPARATION_ERRORS, made_ahead
from chexmix_cli.core.train.examples.step_batches import StepBatch, StepBatches
from chexmix_cli.core.train.optimizer import build_optimizer, learning_rate
from chexmix_cli.core.train.order import step_seed
from chexmix_cli.core.train.parallel import Layout
from chexmix_cli.core.train.reporting.curves import write_curves
from chexmix_cli.core.train.reporting.loggers import open_loggers
from chexmix_cli.core.train.reporting.metrics import RunLog, StepSums, Window, extend_order, read_metrics
from chexmix_cli.core.train.task import Task, Work
from chexmix_cli.core.weights.files import RUN_MODEL

OnRecord = Callable[[dict[str, Any]], None]

#: Folder of a run's checkpoints.
CHECKPOINTS = "checkpoints"
_CPU = torch.device("cpu")


class Trainer:
    """One run in a folder: steps, reports, validation, checkpoints, resume.

    With several processes every one makes a Trainer of the same task (see ``distributed.joined``); rank 0 writes.

    Args:
        task: the objective.
        train, optimizer: settings of the loop.
        settings: the whole settings root as a plain mapping; a checkpoint is resumed under the same only.
        out: the run folder, there already: ``metrics.jsonl``, ``checkpoints/``, ``model/``, ``losses.png``.
        report: called, on rank 0, with each metrics record and each remark (``{"remark": ...}``).
        device: that trains; the task's module is moved there.
    """

    def __init__(
        self,
        task: Task,
        train: LoopSettings,
        optimizer: OptimizerSettings,
        settings: dict[str, Any],
        *,
        out: Path,
        report: OnRecord,
        device: torch.device = _CPU,
    ) -> None:
        self.task, self.train, self.schedule, self.settings, self.out = task, train, optimizer, settings, out
        self.layout = Layout(task, train, device)
        self.optimizer = build_optimizer(task.module, optimizer)
        self.average = WeightAverage(task.module, train.ema_decay) if train.ema_decay else None
        self.position = Position()
        self._state = TrainState(task.module, self.optimizer, self.average)
        self._device = device
        self._made_by = {**code_state(), "world_size": world_size(), "device": device.type}
        self._report: OnRecord = report if is_main() else lambda record: None

    def run(self, *, resume: bool) -> bool:
        """Train to the last step; return False if a signal ended it early, with a checkpoint written.

        Raises:
            TrainingError: if a loss or gradient is not finite, or there is nothing to resume from.
            MachineError: if the disk has no room for the checkpoints, or one cannot be written.
        """
        if resume:
            self._resume()
        self._saved = self.position.step
        require_space(self.out / CHECKPOINTS, self._state, keep=self.train.keep_checkpoints)
        window = Window(self.position.window)
        was_stopped = False
        self._measure_peak()
        batches = StepBatches(self.task.examples, self.train)
        steps = range(self.position.step, self.train.steps)
        with (
            _stop_signals() as is_stopping,
            closing(self._open_log()) as log,
            made_ahead(batches, steps, self.train.workers) as ahead,
        ):
            self._started = (time.perf_counter(), self.position.step)
            while not self._is_done() and not was_stopped:
                began = time.perf_counter()
                made = _attempt(ahead)
                totals = self._totals(made)
                if isinstance(made, Exception) or totals is None:
                    was_stopped = self._keep(made, window, is_stopping())
                    continue
                norm = self._step(window, made, totals, batches.numbers, began)
                done = self.position.step
                is_last = done == self.train.steps
                if done % self.train.log_every == 0 or is_last:
                    window = self._log(log, window, norm)
                if done % self.train.validate_every == 0 or is_last:
                    self._validate(log)
                was_stopped = is_any(is_stopping())
                is_best = self.position.best_step == done
                if was_stopped or is_best or self._is_done() or done % self.train.checkpoint_every == 0:
                    self._checkpoint(window)
        if is_main():
            records = read_metrics(self.out / "metrics.jsonl")
            write_curves(records, self.out / "losses.png", metric=self.task.metric, best_step=self.position.best_step)
        return self._is_done()

    def _measure_peak(self) -> None:
        """Find what all ranks' devices can do at most, which ``mfu`` is told of, and say how it is known."""
        own = flop_rate(getattr(torch, self.train.precision), self._device)
        self._peak = float(sum_over_ranks(torch.tensor(own, dtype=torch.float64)))
        said = f"{self._peak / 1e12:.3g} TFLOP/s, measured: its fastest products of matrices"
        self._report({"remark": f"computes in {self.train.precision}; mfu is the share of {said}"})

    def _open_log(self) -> RunLog:
        step, names = self.position.step, self.train.loggers if is_main() else ()
        return RunLog(self.out, step, open_loggers(names, self.out, step=step, settings=self.settings))

    def _is_done(self) -> bool:
        return self.position.step >= self.train.steps or self._has_converged()

    def _has_converged(self) -> bool:
        return 0 < self.train.patience <= self.position.stale

    def _resume(self) -> None:
        self.position, remarks = load_newest(self.out / CHECKPOINTS, self._state, self.settings)
        for remark in [*remarks, f"resumed after step {self.position.step}"]:
            self._report({"remark": remark})

    def _step(self, window: Window, made: StepBatch, totals: tuple[int, Work], numbers: range, began: float) -> float:
        """Do one optimiser step; return the gradient's norm.

        Args:
            window: that the step's sums are added to.
            made: this rank's share of the step's examples.
            totals: units and work of all ranks together.
            numbers: of this rank's micro-batches.
            began: when the step began, with its preparation.
        """
        step, (num_units, work) = self.position.step, totals
        self.task.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = StepSums()
        micros = self.task.split(made.batch, self.train.micro_batch_size)
        for number, micro in zip(numbers, micros, strict=True):
            # Dropout draws from the global generator: it is a function of seed, step and micro-batch.
            torch.manual_seed(step_seed(self.train.seed, step, number))
            is_last = number == numbers[-1]
            sums.add(self.layout.backward(micro, max(1, num_units), step=step, is_last=is_last))
        norm = self.layout.clip(self.schedule.clip_norm)
        found = sums.over_ranks()
        if not math.isfinite(norm) or not all(math.isfinite(value) for value, _ in found.values()):
            self._stop_non_finite(made.indices, found, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, step, self.train.steps)
        self.optimizer.step()
        self.task.after_step(made.generator())
        if self.average is not None:
            self.average.update(step)
        window.add(found, len(made.indices), work, time.perf_counter() - began)
        order = extend_order(self.position.order, step, self.task.examples.ids(made.indices))
        self.position = dataclasses.replace(self.position, step=step + 1, order=order)
        return norm

    def _totals(self, made: StepBatch | Exception) -> tuple[int, Work] | None:
        """Return the units of a step and its work, of all ranks together; None if one of them has no batch."""
        counts = [1, 0, 0, 0]
        if not isinstance(made, Exception):
            own = self.task.work(made.batch)
            counts = [0, self.task.num_units(made.batch), own.tokens, own.flop]
        num_lost, units, tokens, flop = sum_over_ranks(torch.tensor(counts, dtype=torch.int64)).tolist()
        return None if num_lost else (units, Work(tokens, flop))

    def _keep(self, made: StepBatch | Exception, window: Window, is_stopping: bool) -> bool:
        """Write a checkpoint where a step has no batch; return True where that is because the run is being stopped.

        Raises:
            ChexmixError, WorkerBugError: what went wrong, on every rank the same: the loop is over for all.
        """
        if self.position.step > self._saved:
            self._checkpoint(window)
        # Whoever stops a run may have stopped the processes that prepare its batches first.
        if is_any(is_stopping):
            return True
        raise next(error for error in from_all(made if isinstance(made, Exception) else None) if error is not None)

    def _log(self, log: RunLog, window: Window, norm: float) -> Window:
        step = self.position.step
        record: dict[str, Any] = {"step": step, **window.means()}
        record["learning_rate"] = learning_rate(self.schedule, step - 1, self.train.steps)
        record["grad_norm"] = norm
        record["order"] = self.position.order
        record |= window.rates(self._peak)
        log.write(record)
        self._report({**record, "left_s": self._left_s()})
        return Window()

    def _left_s(self) -> float:
        """Return the seconds that the steps to come will take, at the speed of all of this process so far."""
        started, first = self._started
        done = self.position.step
        return (time.perf_counter() - started) / (done - first) * (self.train.steps - done)

    def _validate(self, log: RunLog) -> None:
        self.task.module.eval()
        position = self.position
        with self.average.exchanged() if self.average is not None else nullcontext():
            # Ranks may differ in the last bits; what rank 0 found decides for all.
            figures: dict[str, float] = from_main(self.layout.validate(position.step))
            value, best = figures[self.task.metric], position.best
            is_best = best is None or (value > best if self.task.higher_is_better else value < best)
            if is_best:
                self._export()
        if is_best:
            self.position = dataclasses.replace(position, best=value, best_step=position.step, stale=0)
        else:
            self.position = dataclasses.replace(position, stale=position.stale + 1)
        record = {"step": position.step, **figures}
        log.write(record)
        self._report({**record, "best": is_best})
        if self._has_converged() and position.step < self.train.steps:
            self._report({"remark": f"no better {self.task.metric} in {self.train.patience} validations: ends early"})

    def _export(self) -> None:
        """Write ``model/``: whole weights, whatever the layout; a first one appears only once it is complete."""
        with self.layout.whole():
            if is_main():
                target = self.out / RUN_MODEL
                partial = self.out / f".{RUN_MODEL}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                self.task.export(target if target.exists() else partial)
                if partial.exists():
                    partial.rename(target)
        barrier()

    def _checkpoint(self, window: Window) -> None:
        self._saved = self.position.step
        self.position = dataclasses.replace(self.position, window=window.to_json())
        save_checkpoint(
            self.out / CHECKPOINTS,
            self._state,
            self.position,
            self.settings,
            self._made_by,
            keep=self.train.keep_checkpoints,
        )

    def _stop_non_finite(self, indices: list[int], found: dict[str, tuple[float, float]], norm: float) -> None:
        step, path = self.position.step, self.out / "nonfinite.json"
        losses = {name: str(value / count) for name, (value, count) in found.items() if count}
        record = {"step": step, "ids": self.task.examples.ids(indices), "losses": losses, "grad_norm": str(norm)}
        if is_main():
            write_json(path, record)
        raise TrainingError(
            f"the loss or the gradient of step {step} is not finite",
            where=str(path),
            hint="the file lists the batch; resume with a lower optimizer.learning_rate from the last checkpoint",
        )


def resumes(out: Path, is_asked: bool, report: OnRecord) -> bool:
    """Return whether a run goes on from a checkpoint: with ``--resume``, where there is one; else it starts.

    So one command serves the first start and every restart by a launcher, also after one that came before the first
    checkpoint. Every rank calls it.

    Raises:
        TrainingError: if the folder holds a run that was not asked to go on.
    """
    folder = out / CHECKPOINTS
    if not is_asked and (folder.exists() or (out / RUN_MODEL).exists()):
        raise TrainingError("holds a run already", where=str(out), hint="add --resume, or choose another --out")
    has_checkpoint: bool = is_asked and from_main(bool(list_checkpoints(folder)))
    if is_asked and not has_checkpoint and is_main():
        report({"remark": "there is no checkpoint to go on from: the run starts"})
    return has_checkpoint


def _attempt(ahead: Iterator[StepBatch]) -> StepBatch | Exception:
    """Return the next batch, or why there is none."""
    try:
        return next(ahead)
    except PREPARATION_ERRORS as error:
        return error


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn a scheduler's SIGTERM, Ctrl-C and a terminal that closes into a flag that the loop reads between steps."""
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        received.append(number)

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGHUP")]
    # Ignored on purpose: nohup, and jobs in the background of a script.
    caught = [one for one in numbers if one is not None and signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in caught}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
