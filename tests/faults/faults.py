"""The faults of the matrix: how each comes about, what the exit code is, and what is done about it afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chexmix_cli.core.errors import ExitCode
from tests.faults import actions
from tests.faults.commands import OF_WORKER, OUT, Command, files_in
from tests.faults.process import Run, Strike, start

#: What a shell shows of a filter whose reader has gone.
_READER_GONE = 141
_SIGKILL = -int(signal.SIGKILL)


@dataclass
class Cell:
    """One command under one fault.

    Attributes:
        command: that runs.
        template: the folder that ``work`` is a copy of.
        work: it runs in, absolute.
        stack: what is undone at the end.
        before, strikes: see ``process.start``.
        meanwhile: called when the command has started.
        mend: undoes the fault, before the command is given again.
        more: words of this run.
    """

    command: Command
    template: Path
    work: Path
    weights: Path
    stack: ExitStack
    before: list[Callable[[], None]] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    meanwhile: Callable[[Run], None] = lambda run: None
    mend: Callable[[], None] = lambda: None
    more: tuple[str, ...] = ()

    def strike(self, action: Callable[[], None]) -> None:
        """Let a fault strike at the command's point."""
        self.strikes.append(Strike(self.command.point, self.command.number, action))

    @property
    def out(self) -> Path:
        """Return the folder that the command writes to."""
        return self.work / OUT

    def begin(self) -> Run:
        """Start the command under the fault."""
        words = [*self.command.words_for(self.weights), *self.more]
        return start(words, self.work, before=self.before, strikes=self.strikes)

    def again(self, *more: str) -> Run:
        """Start the command as it is given when the fault is mended."""
        return start([*self.command.words_for(self.weights), *more], self.work)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: in the table.
        arrange: makes it come about.
        code: exit code that is documented for it; None: that of a run left alone.
        leaves_partial: a half-written file may stay under its temporary name until the command is given again.
    """

    name: str
    arrange: Callable[[Cell], None]
    code: int | None
    leaves_partial: bool = False


def _signals(*numbers: int) -> Callable[[Cell], None]:
    return lambda cell: cell.strike(actions.Signals(numbers))


def _action(action: Callable[[], None]) -> Callable[[Cell], None]:
    return lambda cell: cell.strike(action)


def _kill_in_a_write(cell: Cell) -> None:
    """Kill it when the first new file is flushed, ahead of the rename."""
    number = 1 if cell.command.point != "os:fsync" else cell.command.number
    cell.strikes.append(Strike("os:fsync", number, actions.Signals((signal.SIGKILL,))))


def _stop_worker(cell: Cell) -> None:
    cell.before.append(actions.StrikeWorker(OF_WORKER, signal.SIGSTOP))
    cell.more = ("--set", "input.workers=2")


def _kill_worker(cell: Cell) -> None:
    cell.before.append(actions.StrikeWorker(OF_WORKER, signal.SIGKILL))
    cell.more = ("--set", "input.workers=2")


def _mount(cell: Cell) -> None:
    """Give the output a disk of its own."""
    mount_disk(cell.out, cell.stack)
    cell.mend = (cell.out / actions.BALLAST).unlink


def mount_disk(folder: Path, stack: ExitStack) -> None:
    """Give a folder a disk of its own, or skip where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "chexmix-faults", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk to fill cannot be mounted here")
    stack.callback(subprocess.run, ["umount", str(folder)], check=True)


def _full_at_start(cell: Cell) -> None:
    _mount(cell)
    actions.fill(cell.out)


def _fills(cell: Cell) -> None:
    _mount(cell)
    cell.strike(actions.FillDisk(cell.out))


def _read_only(cell: Cell) -> None:
    cell.before.append(actions.drop_rights)
    actions.Forbid(cell.out)()
    cell.mend = lambda: cell.out.chmod(0o700)


def _befalls_input(make: Callable[[Path], Callable[[], None]]) -> Callable[[Cell], None]:
    def arrange(cell: Cell) -> None:
        name = cell.command.later or cell.command.first
        path, action = cell.work / name, make(cell.work / name)
        cell.before.append(actions.drop_rights)
        if cell.command.later is None:
            action()
        else:
            cell.strike(action)

        def put_back() -> None:
            path.unlink(missing_ok=True)
            shutil.copy2(cell.template / name, path)

        cell.mend = put_back

    return arrange


def _two(cell: Cell) -> None:
    """Give the same command again while the first waits at its point."""
    reached, go = (cell.work.with_name(f"{cell.work.name}.{name}") for name in ("reached", "go"))
    for path in (reached, go):
        os.mkfifo(path)
        cell.stack.callback(path.unlink)
    cell.strike(actions.Wait(reached, go))

    def meanwhile(_: Run) -> None:
        reached.open("rb").close()
        second = cell.again(*cell.command.goes_on)
        code = second.end()
        go.open("wb").close()
        wanted = cell.command.second
        assert code == wanted, (code, second.said)
        assert ("another process is writing it" in second.said) == (wanted == ExitCode.ENVIRONMENT), second.said

    cell.meanwhile = meanwhile


def _output_moved(cell: Cell) -> None:
    """Move what the command writes to while it runs; afterwards, back."""
    to = cell.out.with_name("elsewhere")
    cell.strike(actions.Move(cell.out, to))

    def move_back() -> None:
        assert not cell.out.exists() or not files_in(cell.out), "it wrote where nothing was any more"
        shutil.rmtree(cell.out, ignore_errors=True)
        to.rename(cell.out)

    cell.mend = move_back


def _killed_and_moved(cell: Cell) -> None:
    """Kill it; then all that there is gets another place."""
    cell.strike(actions.Signals((signal.SIGKILL,)))

    def move() -> None:
        cell.work = cell.work.rename(cell.work.with_name(f"{cell.work.name}-moved"))

    cell.mend = move


FAULTS = (
    Fault("kill -9", _signals(signal.SIGKILL), _SIGKILL, leaves_partial=True),
    Fault("kill -9 in a write", _kill_in_a_write, _SIGKILL, leaves_partial=True),
    Fault("SIGTERM", _signals(signal.SIGTERM), ExitCode.INTERRUPTED),
    Fault("SIGINT", _signals(signal.SIGINT), ExitCode.INTERRUPTED),
    Fault("SIGINT twice", _signals(signal.SIGINT, signal.SIGINT), ExitCode.INTERRUPTED),
    Fault("a worker stopped", _stop_worker, None),
    Fault("a worker killed", _kill_worker, ExitCode.PARTIAL),
    Fault("a full disk", _full_at_start, ExitCode.ENVIRONMENT),
    Fault("a disk that fills", _fills, ExitCode.ENVIRONMENT),
    Fault("a read-only folder", _read_only, ExitCode.ENVIRONMENT),
    Fault("a vanished input", _befalls_input(actions.Remove), ExitCode.PARTIAL),
    Fault("a changed input", _befalls_input(actions.Cut), ExitCode.PARTIAL),
    Fault("an unreadable file", _befalls_input(actions.Forbid), ExitCode.PARTIAL),
    Fault("a broken pipe", _action(actions.lose_reader), _READER_GONE),
    Fault("no memory (numpy)", _action(actions.no_memory), ExitCode.ENVIRONMENT),
    Fault("no memory (torch)", _action(actions.no_memory_of_torch), ExitCode.ENVIRONMENT),
    Fault("a clock set back", _action(actions.set_clock_back), None),
    Fault("two processes", _two, None),
    Fault("the output moved", _output_moved, ExitCode.ENVIRONMENT, leaves_partial=True),
    Fault("killed and moved", _killed_and_moved, _SIGKILL, leaves_partial=True),
)
