"""Batches worked off by a Ray cluster, in the order of the list: the records of one process.

A batch is a task of Ray's: it runs where there is room, and again elsewhere if its process or machine ends; tasks that
wait are what an autoscaler adds machines for. Films are read where they are computed, so every machine sees the same
paths; the model stays in a process from task to task. At most so many tasks are under way as keep all machines busy.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from chexmix_cli.core.errors import ChexmixError, MachineError, WorkerBugError, told_traceback
from chexmix_cli.core.runtime import is_out_of_memory
from chexmix_cli.core.settings.inference import RaySettings
from chexmix_cli.library.jobs.batches import ends_batch, run_batches
from chexmix_cli.library.jobs.job import Job, Prepared

#: Tasks under way for each that can run: the next ones wait where the films are.
_AHEAD = 4
#: Seconds between looks at how many can run.
_LOOK_EVERY = 2.0
#: Seconds that the head of a cluster gets to answer.
_KNOCK_S = 10.0
_HINT = "the cluster and this machine need the same chexmix, torch and weights"


class Opened(Protocol):
    """What works films off, with its model loaded."""

    def process(self, prepared: list[Any], /) -> Sequence[Any]:
        """Return a result for each prepared input."""

    def facts(self) -> Mapping[str, Any]:
        """Return what decides its results; the same on every machine."""


#: Gives an :class:`Opened`, on a device by name or, for None, on the one asked for. Picklable.
Work = Callable[[str | None], Opened]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster.

    Attributes:
        address: ``auto``, or host and port of its head.
        settings: what a batch takes.
        needs_gpu: batches are computed on GPUs.
    """

    address: str
    settings: RaySettings
    needs_gpu: bool = False

    def batches(
        self,
        jobs: Iterator[Job[Prepared]],
        work: Work,
        facts: Mapping[str, Any],
        *,
        batch_size: int,
        group: int = 0,
        num_before: int = 0,
    ) -> Generator[list[tuple[Job[Prepared], Any]], None, None]:
        """Yield batches, every job with its result or error, in order: those of ``library.jobs.batches.run_batches``.

        Args:
            jobs: the inputs to come.
            work: opens what processes them, once a process.
            facts: of what it opens here; one of other facts is refused.
            batch_size, group, num_before: as there.

        Raises:
            MachineError: if there is no such cluster, or machines do not fit or keep ending.
        """
        with self._joined():
            import ray

            packed = ray.put(pickle.dumps((work, dict(facts), self.settings.cpus)))
            task = ray.remote(_do).options(**self._needs())
            window: deque[tuple[list[Job[Prepared]], Any]] = deque()
            batches, has_more, room = _cut(jobs, batch_size, group, num_before), True, _Room(self._slots)
            try:
                while window or has_more:
                    if has_more and len(window) < room.size():
                        batch = next(batches, None)
                        has_more = batch is not None
                        if batch is not None:
                            window.append((batch, task.remote(packed, [job.prepare for job in batch])))
                        continue
                    batch, reference = window.popleft()
                    yield list(zip(batch, self._result(batch, reference), strict=True))
            finally:
                for _, reference in window:
                    ray.cancel(reference, force=True)

    def _slots(self) -> int:
        """Return how many batches the cluster can work on at once."""
        import ray

        has = ray.cluster_resources()
        slots = has.get("CPU", 0) / self.settings.cpus
        return int(min(slots, has.get("GPU", 0) / self.settings.gpus) if self.needs_gpu else slots)

    def _needs(self) -> dict[str, Any]:
        needs: dict[str, Any] = {"num_cpus": self.settings.cpus, "max_retries": self.settings.retries}
        if self.needs_gpu:
            # A process keeps its model, and says itself which GPU: torch does not see a change of the variable.
            variables = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
            needs |= {"num_gpus": self.settings.gpus, "max_calls": 0, "runtime_env": {"env_vars": variables}}
        return needs

    @contextmanager
    def _joined(self) -> Iterator[None]:
        # Ray counts its users over the network unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError:
            hint = "pip install 'chexmix[ray]'"
            raise MachineError("--ray needs the package ray", where="--ray", hint=hint) from None
        try:
            _knock(self.address)
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            first = str(error).split("\n")[0] or type(error).__name__
            raise MachineError(f"no Ray cluster at {self.address!r} ({first})", where="--ray", hint=_HINT) from None
        try:
            yield
        finally:
            ray.shutdown()

    def _result(self, batch: Sequence[Job[Any]], reference: Any) -> list[Any]:
        import ray

        try:
            found: list[Any] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ChexmixError | MemoryError | WorkerBugError):
                raise cause from None
            raise WorkerBugError(type(cause).__name__) from None
        except ray.exceptions.RayError as error:
            raise MachineError(
                f"its process or machine ended {self.settings.retries + 1} times ({type(error).__name__})",
                where=f"inputs {batch[0].order} to {batch[-1].order}",
                hint="is there enough memory? Without --ray and with --set input.workers=1 a crash costs one record",
            ) from None
        return found


class _Room:
    """How many tasks may be under way; machines come and go."""

    def __init__(self, slots: Callable[[], int]) -> None:
        self._slots, self._looked = slots, -math.inf
        self._size = 0

    def size(self) -> int:
        """Return the most tasks, at least one: an empty cluster may be one that grows when it is asked."""
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._size, self._looked = _AHEAD * max(1, self._slots()), time.monotonic()
        return self._size


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at a host and port: Ray itself would try for minutes."""
    found = re.fullmatch(r"\[?([^/\]]+)\]?:(\d+)", address)
    if found is not None:
        socket.create_connection((found[1], int(found[2])), timeout=_KNOCK_S).close()


def _cut(
    jobs: Iterator[Job[Prepared]], batch_size: int, group: int, num_before: int = 0
) -> Iterator[list[Job[Prepared]]]:
    batch: list[Job[Prepared]] = []
    for number, job in enumerate(jobs, start=num_before + 1):
        batch.append(job)
        if ends_batch(number, batch_size, group):
            yield batch
            batch = []
    if batch:
        yield batch


def _do(packed: bytes, inputs: list[Callable[[], Any]]) -> list[Any]:
    """Work off one batch, in a process of the cluster."""
    import ray

    gpus = ray.get_gpu_ids()
    opened = _opened(packed, f"cuda:{gpus[0]}" if gpus else None)
    jobs = (Job(str(number), prepare) for number, prepare in enumerate(inputs))
    try:
        return [result for _, result in run_batches(jobs, opened.process, batch_size=len(inputs))]
    except ChexmixError:
        raise
    except Exception as error:  # Ray would send the message of anyone's error along
        if is_out_of_memory(error):
            raise MemoryError from None
        raise WorkerBugError(told_traceback(error)) from None


@lru_cache(maxsize=1)
def _opened(packed: bytes, device: str | None) -> Opened:
    import torch

    work, facts, cpus = pickle.loads(packed)
    # Sums come in another order with other threads.
    torch.set_num_threads(cpus)
    opened: Opened = work(device)
    found = opened.facts()
    for name, value in facts.items():
        if found.get(name) != value:
            raise MachineError(
                f"a machine has {name} {found.get(name)!r}", where="--ray", expected=f"{value!r}", hint=_HINT
            )
    return opened
