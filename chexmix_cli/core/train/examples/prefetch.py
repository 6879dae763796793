"""What is made ahead by other processes, in order: torch's ``DataLoader``; its failures become errors of ours."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from chexmix_cli.core.errors import ChexmixError, MachineError, WorkerBugError, told_traceback
from chexmix_cli.core.runtime import is_out_of_memory

Made = TypeVar("Made")

#: Things made, or in the making, for each process; with those the queue is full.
AHEAD = 2
#: Errors that say which preparation failed: a run can keep what it has done before.
PREPARATION_ERRORS = (ChexmixError, WorkerBugError)

#: Seconds that a process gets to be known as ended, once it does not answer.
_PATIENCE_S = 2.0
_FEWER = "fewer train.workers hold fewer batches; --resume goes on from the last checkpoint"
_LOST = "is there enough memory, /dev/shm too? --resume goes on from the last checkpoint; train.workers=0 does without"


@contextmanager
def made_ahead(make: Callable[[int], Made], numbers: Sequence[int], workers: int) -> Iterator[Iterator[Made]]:
    """Give what ``make`` makes of each number, in order.

    Args:
        make: a function of the number alone; with processes it is pickled, once for each of them.
        numbers: what it is called with.
        workers: processes that make things ahead, at most ``AHEAD`` each; 0 makes each here when it is asked for.

    Raises:
        ChexmixError: whatever ``make`` raises, when its turn comes.
        WorkerBugError: something unexpected in another process.
        MachineError: if a process ends, or has not enough memory.
    """
    if not workers:
        yield map(make, numbers)
        return
    ahead = _Ahead(make, numbers, workers)
    try:
        yield ahead
    finally:
        ahead.close()


class _Calls(Dataset[Any]):
    """Calls as items; an error is an item too, for a loader would make a text of it, with values in it."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Any:
        try:
            return self._make(number)
        except ChexmixError as error:
            return _Failure(error)
        except Exception as error:
            if is_out_of_memory(error):
                return _Failure(MachineError("not enough memory", where="preparing batches", hint=_FEWER))
            return _Failure(WorkerBugError(told_traceback(error)))


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Ahead(Generic[Made]):
    """The loader of one pass, and its processes. They are spawned: torch's threads, and a GPU, survive no fork."""

    def __init__(self, make: Callable[[int], Made], numbers: Sequence[int], workers: int) -> None:
        others = set(multiprocessing.active_children())
        with warnings.catch_warnings(), _own_child_signals():
            # How many processes are too many is what the user has said.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            loader: DataLoader[Any] = DataLoader(
                _Calls(make),
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                collate_fn=_as_it_is,
                prefetch_factor=AHEAD,
                multiprocessing_context="spawn",
                worker_init_fn=_begin,
                generator=torch.Generator(),  # else it draws from the global one, and weights drawn later are others
            )
            self._iterator: Iterator[Any] | None = iter(loader)
        self._processes: set[BaseProcess] = set(multiprocessing.active_children()) - others

    def __iter__(self) -> Iterator[Made]:
        return self

    def __next__(self) -> Made:
        assert self._iterator is not None, "closed"
        try:
            found = next(self._iterator)
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            if is_out_of_memory(error):
                raise
            # The loader misses a process; or what one made is there, but the memory it shared is not any more.
            raise MachineError(f"a process that prepares batches ended{self._how()}", hint=_LOST) from None
        if isinstance(found, _Failure):
            raise found.error
        made: Made = found
        return made

    def close(self) -> None:
        """End the processes; they are at most in the middle of one thing."""
        self._iterator = None

    def _how(self) -> str:
        ended = wait([process.sentinel for process in self._processes], _PATIENCE_S)
        for process in self._processes:
            if process.sentinel in ended:
                # It lets go of its sentinel a moment before the system knows how it ended.
                process.join(_PATIENCE_S)
        codes = [process.exitcode for process in self._processes if process.exitcode]
        return "" if not codes else f" (signal {-codes[0]})" if codes[0] < 0 else f" (exit code {codes[0]})"


def _as_it_is(item: Any) -> Any:
    return item


def _begin(_number: int) -> None:
    # Ctrl-C reaches every process of a terminal; the one that started this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _own_child_signals() -> Iterator[None]:
    """Keep the loader from raising errors wherever this process is when a child ends, such as in the middle of a step.

    It learns of it when it waits for what that child should have made.
    """
    number = getattr(signal, "SIGCHLD", None)
    before = None if number is None else signal.getsignal(number)
    try:
        yield
    finally:
        if number is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, before or signal.SIG_DFL)
