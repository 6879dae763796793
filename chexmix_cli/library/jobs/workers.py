"""Inputs prepared in processes of their own, ahead of the model, in order. A process that dies costs one record.

Processes are spawned: they inherit no pipe, so each ends on its own when this one is gone, however it ended.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from chexmix_cli.core.errors import ChexmixError, DataError, Reason, WorkerBugError, told_traceback
from chexmix_cli.core.runtime import is_out_of_memory
from chexmix_cli.library.jobs.job import RECORD_ERRORS, Job, attempt

Prepared = TypeVar("Prepared")

#: Seconds a process gets to end before it is killed.
_PATIENCE = 5.0


@dataclass(slots=True)
class _Slot:
    """A job in the window, and what became of it."""

    job: Job[Any]
    is_begun: bool = False
    is_done: bool = False
    result: Any = None

    def close(self, result: Any) -> None:
        self.is_done, self.result = True, result


@dataclass(slots=True)
class _Member:
    """A worker process, and the slot it is busy with."""

    process: BaseProcess
    pipe: Connection[Any, Any]
    slot: _Slot | None = None


def prepare_ahead(
    jobs: Iterator[Job[Prepared]], workers: int, *, ahead: int
) -> Iterator[tuple[Job[Prepared], Prepared | ChexmixError]]:
    """Yield every job with its input or error, in order.

    Args:
        jobs: those that cannot travel are prepared here, when their turn comes.
        workers: processes.
        ahead: most jobs taken in before the oldest is given out.
    """
    crew, window, has_more = _Crew(workers), deque[_Slot](), True
    try:
        while window or has_more:
            if window and window[0].is_done:
                slot = window.popleft()
                yield slot.job, slot.result
            elif has_more and len(window) < ahead:
                job = next(jobs, None)
                has_more = job is not None
                if job is not None:
                    window.append(_Slot(job))
                    crew.begin(window)
            elif window and not window[0].job.can_travel:
                window[0].close(attempt(window[0].job))
            elif window:
                crew.wait()
                crew.begin(window)
    finally:
        crew.stop()


class StandingWorker:
    """One process that prepares jobs one at a time, as they come; one that dies or takes too long is replaced.

    Its methods may be called in any thread, one at a time.
    """

    def __init__(self) -> None:
        self._crew = _Crew(1)

    def attempt(self, job: Job[Prepared], *, timeout_s: float) -> Prepared | ChexmixError:
        """Return a job's input, or why there is none: it is refused, ended the process, or took too long.

        Raises:
            WorkerBugError, OSError, MemoryError: something else went wrong in the process, which goes on.
        """
        slot = _Slot(job)
        self._crew.begin(deque([slot]))
        self._crew.wait(timeout_s)
        if not slot.is_done:
            self._crew.stop()
            slot.close(DataError(Reason.UNREADABLE, f"reading it takes more than {timeout_s:g} s"))
        found: Prepared | ChexmixError = slot.result
        return found

    def close(self) -> None:
        """End the process."""
        self._crew.stop()


class _Crew:
    """At most so many worker processes, started when there is something to do."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._members: list[_Member] = []

    def begin(self, window: deque[_Slot]) -> None:
        """Give jobs that wait to workers that are idle, the oldest first."""
        for slot in window:
            if slot.job.can_travel and not slot.is_begun and not self._give(slot):
                return

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until at least one worker is done with its job, or dead, or the time is over."""
        busy: dict[Any, _Member] = {member.pipe: member for member in self._members if member.slot is not None}
        for pipe in wait(list(busy), timeout_s):
            member = busy[pipe]
            slot = member.slot
            assert slot is not None
            try:
                kind, value = member.pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                slot.close(self._bury(member))
                continue
            member.slot = None
            if kind == "bug":
                raise value
            slot.close(value)

    def stop(self) -> None:
        """End all workers."""
        for member in self._members:
            member.pipe.close()
            member.process.terminate()
        for member in self._members:
            member.process.join(_PATIENCE)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
        self._members.clear()

    def _give(self, slot: _Slot) -> bool:
        while True:
            member = next((member for member in self._members if member.slot is None), None)
            if member is None:
                if len(self._members) == self._size:
                    return False
                member = self._hire()
            try:
                member.pipe.send(slot.job.prepare)
            except OSError:
                # It died while it had nothing to do: the job is not to blame.
                self._bury(member)
                continue
            member.slot, slot.is_begun = slot, True
            return True

    def _hire(self) -> _Member:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        member = _Member(process, ours)
        self._members.append(member)
        return member

    def _bury(self, member: _Member) -> DataError:
        self._members.remove(member)
        member.pipe.close()
        member.process.join(_PATIENCE)
        code = member.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return DataError(Reason.CORRUPT, f"reading it ended the worker process ({how})", hint="is there enough memory?")


def _work(pipe: Connection[Any, Any]) -> None:
    """Prepare what comes through the pipe until it closes."""
    # Ctrl-C reaches every process of a terminal; the one that started this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            prepare: Callable[[], Any] = pipe.recv()
            pipe.send(_outcome(prepare))


def _outcome(prepare: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "done", prepare()
    except RECORD_ERRORS as error:
        return "done", error
    except OSError as error:
        return "bug", OSError(error.errno, error.strerror)
    except Exception as error:
        return "bug", MemoryError() if is_out_of_memory(error) else WorkerBugError(told_traceback(error))
