"""Runs ``chexmix`` in a process of its own, with a fault that strikes at a given call of a given function.

The processes are forked from one that has loaded what commands load, which saves the seconds that a start takes; all
else is real: signals, disks, permissions, workers, exit codes. A fault is a function that runs in the process itself,
behind the N-th call of the function that is named, so it strikes at the same place on every machine.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

#: Seconds that no command needs here, on the slowest machine.
HANGS_S = 240.0
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Strike:
    """A fault to come.

    Attributes:
        point: ``module:name`` or ``module:Class.name`` of a function.
        number: of the call behind which it strikes, from 1.
        action: strikes; picklable.
    """

    point: str
    number: int
    action: Callable[[], None]


@dataclass
class Run:
    """A command that runs or ran.

    Attributes:
        process: of the command.
        stdout, stderr: what it and its workers have written, whole once it has ended.
    """

    process: ForkServerProcess
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    readers: list[threading.Thread] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    num_open: int = 2

    def read(self, reader: Connection[Any, Any], kept: bytearray) -> None:
        """Keep what comes through a pipe, until the last process that holds it has ended."""
        with reader:
            while part := os.read(reader.fileno(), 1 << 16):
                with self.changed:
                    kept += part
                    self.changed.notify_all()
        with self.changed:
            self.num_open -= 1
            self.changed.notify_all()

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of JSON that it has written to either stream."""
        with self.changed:
            lines = [*self.stdout.splitlines(keepends=True), *self.stderr.splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any] | None:
        """Wait for so many events of a name; return the last of them, or None if the process ends before."""

        def found() -> list[dict[str, Any]]:
            return [one for one in self.events() if one["event"] == event]

        with self.changed:
            is_over = self.changed.wait_for(lambda: len(found()) >= count or not self.num_open, HANGS_S)
        assert is_over, f"it hangs: {self.said}"
        return found()[count - 1] if len(found()) >= count else None

    def end(self) -> int:
        """Wait for it and all processes that it started; return its exit code, negative for a signal.

        Raises:
            AssertionError: it hangs.
        """
        self.process.join(HANGS_S)
        if self.process.exitcode is None:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
            self.process.join()
            raise AssertionError(f"it hangs: {self.said}")
        for reader in self.readers:
            # Its end: the last process that holds the pipe, a worker perhaps, is gone.
            reader.join(HANGS_S)
            assert not reader.is_alive(), "a process is left"
        code = self.process.exitcode
        self.process.close()
        return code

    @property
    def said(self) -> str:
        """Return what was written to stderr."""
        return self.stderr.decode()


def start(
    words: Iterable[object],
    folder: Path,
    *,
    before: Iterable[Callable[[], None]] = (),
    strikes: Iterable[Strike] = (),
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Start a command in a folder.

    Args:
        words: of the command line.
        folder: it runs in.
        before: run in its process, ahead of it.
        strikes: faults to come.
        environment: variables that it has besides ours.
    """
    _CONTEXT.set_forkserver_preload(["tests.faults.preload", "pytest"])
    pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(2)]
    arguments = (
        [str(word) for word in words],
        folder,
        [writer for _, writer in pipes],
        tuple(before),
        tuple(strikes),
        {**os.environ, **(environment or {})},
    )
    process = _CONTEXT.Process(target=_work, args=arguments)
    process.start()
    run = Run(process)
    for (reader, writer), kept in zip(pipes, (run.stdout, run.stderr), strict=True):
        writer.close()
        run.readers.append(threading.Thread(target=run.read, args=(reader, kept), daemon=True))
        run.readers[-1].start()
    return run


def _work(
    words: list[str],
    folder: Path,
    pipes: list[Connection[Any, Any]],
    before: tuple[Callable[[], None], ...],
    strikes: tuple[Strike, ...],
    environment: dict[str, str],
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for number, pipe in enumerate(pipes, start=1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    # The process that it was forked from ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for prepare in before:
        prepare()
    for strike in strikes:
        _install(strike)
    from chexmix_cli.__main__ import main

    main(words)


def _install(strike: Strike) -> None:
    module_name, _, path = strike.point.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module_name)
    for each in owners:
        owner = getattr(owner, each)
    original, left = getattr(owner, name), [strike.number]

    def struck(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            strike.action()
        return result

    setattr(owner, name, struck)
