"""What befalls a command: functions that run in its process, or in one of its workers."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Beside what a command writes, on the same disk.
BALLAST = "ballast"


@dataclass(frozen=True)
class Signals:
    """Signals to itself, one behind the other."""

    numbers: tuple[int, ...]

    def __call__(self) -> None:
        for number in self.numbers:
            os.kill(os.getpid(), number)


@dataclass(frozen=True)
class FillDisk:
    """No byte is left where a folder is."""

    folder: Path

    def __call__(self) -> None:
        fill(self.folder)


def fill(folder: Path) -> None:
    """Write a file that takes all the space that is left."""
    with (folder / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


@dataclass(frozen=True)
class Remove:
    """An input goes."""

    path: Path

    def __call__(self) -> None:
        self.path.unlink()


@dataclass(frozen=True)
class Cut:
    """An input is written anew, and has got to a third."""

    path: Path

    def __call__(self) -> None:
        content = self.path.read_bytes()
        self.path.write_bytes(content[: len(content) // 3])


@dataclass(frozen=True)
class Forbid:
    """A file can no longer be read, or a folder no longer written to, by those who have no special rights."""

    path: Path

    def __call__(self) -> None:
        self.path.chmod(0o500 if self.path.is_dir() else 0o000)


@dataclass(frozen=True)
class Move:
    """A folder gets another name."""

    folder: Path
    to: Path

    def __call__(self) -> None:
        self.folder.rename(self.to)


@dataclass(frozen=True)
class Wait:
    """Says so through a FIFO, and waits until another one is opened."""

    reached: Path
    go: Path

    def __call__(self) -> None:
        self.reached.open("wb").close()
        self.go.open("rb").close()


def lose_reader() -> None:
    """Give stdout a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    os.close(writer)


def no_memory() -> None:
    """Ask numpy for more than there is."""
    import numpy as np

    np.zeros(1 << 60, np.uint8)


def no_memory_of_torch() -> None:
    """Ask torch's own allocator for more than there is."""
    import torch

    torch.zeros(1 << 60, dtype=torch.uint8)


def set_clock_back() -> None:
    """Let the clock show a day less."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - 86_400
    time.time_ns = lambda: now_ns() - 86_400 * 10**9


def drop_rights() -> None:
    """Let permissions hold for the superuser too (Linux); others have no rights to drop."""
    if os.geteuid() != 0:
        return
    version, overriding = 0x20080522, (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~overriding
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@dataclass(frozen=True)
class _Struck:
    """Reading an input, in a worker that gets a signal first."""

    prepare: Callable[[], Any]
    number: int

    def __call__(self) -> Any:
        os.kill(os.getpid(), self.number)
        return self.prepare()


@dataclass(frozen=True)
class StrikeWorker:
    """The worker that gets the input of an id gets a signal, once; one that stands still is told to go on then.

    Run ahead of the command.

    Attributes:
        id: of the record; None is the first.
        number: of the signal.
    """

    id: str | None
    number: int

    def __call__(self) -> None:
        from dataclasses import replace

        from chexmix_cli.library.jobs import workers

        give, wait = workers._Crew._give, workers._Crew.wait
        found, has_stood = list[Any](), list[bool]()

        def struck(crew: Any, slot: Any) -> bool:
            if not found and slot.job.id and self.id in (None, slot.job.id):
                slot.job = replace(slot.job, prepare=_Struck(slot.job.prepare, self.number))
                found.append(slot)
            return give(crew, slot)

        def watched(crew: Any, timeout_s: float | None = None) -> None:
            member = next((one for one in crew._members if one.slot in found), None)
            if self.number == signal.SIGSTOP and member is not None and not has_stood:
                os.waitid(os.P_PID, member.process.pid, os.WSTOPPED)
                has_stood.append(True)
                os.kill(member.process.pid, signal.SIGCONT)
            wait(crew, timeout_s)

        workers._Crew._give, workers._Crew.wait = struck, watched  # type: ignore[method-assign]
