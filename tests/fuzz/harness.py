"""Gives damaged files to a parser, in a process of its own with little memory, and counts what comes of them.

A finding is what is neither a result nor one of the project's own errors: another exception, a warning, a crash, a
hang, memory above the bound, something written to the terminal, or a picture of a cut file that differs from the whole
one's and does not say so.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from damage import change, cut
from parsers import Parser, Picture

from chexmix_cli.core.errors import ChexmixError, DataError

#: Processor time, and the wall's where a C library does not come back.
LIMIT_CPU_S, LIMIT_WALL_S = 10.0, 120.0
LIMIT_BYTES = 1 << 30
#: Where a parser's files are best: on a disk, to cut a file and write it anew takes longer than most parsers do.
IN_MEMORY = next((str(path) for path in (Path("/dev/shm"),) if os.access(path, os.W_OK)), None)
_TELL_EVERY_S = 1.0


class SlowError(BaseException):
    """An input took too long; no parser may catch it."""


@dataclass
class Outcome:
    """What came of a parser's inputs.

    Attributes:
        name: of the parser.
        inputs: how many were read, those that were accepted, refused and findings.
        refused: by the reason.
        cpu_s: processor time of the inputs, their making included.
        peak_bytes: most memory above what the process began with.
    """

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def take(self, number: int, verdict: str) -> None:
        """Count an input."""
        self.inputs += 1
        if verdict == "accepted":
            self.accepted += 1
        elif verdict.startswith("!"):
            self.findings.append(f"input {number}: {verdict[1:]}")
        else:
            self.refused[verdict] += 1


def damaged(seeds: list[bytes], parser: Parser, number: int) -> tuple[int, bytes, bool]:
    """Return the index of a seed, input ``number`` made from it, and whether it is the seed's beginning and no more."""
    generator = random.Random(f"{parser.name} {number}")
    place = number % len(seeds)
    if generator.random() < 0.1:
        return place, cut(seeds[place], generator), True
    return place, change(seeds[place], generator, parser.changes), False


def judge(parser: Parser, target: Path, whole: Picture | None = None) -> str:
    """Return ``accepted``, the reason of a refusal, or what is wrong behind ``!``."""
    try:
        with _limited_time(), warnings.catch_warnings():
            warnings.simplefilter("error")
            result = parser.read(target)
    except DataError as error:
        return error.reason
    except ChexmixError as error:
        return type(error).__name__
    except parser.refusals as error:
        return str(getattr(error, "code", type(error).__name__))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what is looked for
        return f"!{type(error).__name__}: {_place(error)}: {error}"[:300]
    if isinstance(result, Picture) and not np.isfinite(result.pixels).all():
        return "!pixels that are no numbers"
    says_the_same = isinstance(result, Picture) and whole is not None and result.notes == whole.notes
    if says_the_same and not np.allclose(result.pixels, whole.pixels, atol=1e-6):
        return "!another picture of a cut file, and nothing says so"
    return "accepted"


def fuzz(
    parser: Parser,
    folder: Path,
    numbers: range,
    *,
    max_seconds: float = float("inf"),
    outcome: Outcome | None = None,
    keep: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Give a parser the inputs of these numbers; findings name theirs.

    Args:
        parser: to be tried.
        folder: for its files; in memory it is quicker (:data:`IN_MEMORY`).
        numbers: of the inputs.
        max_seconds: begin no input behind them.
        outcome: of the inputs before these, to go on with.
        keep: called now and then with what there is so far.
    """
    outcome, until = outcome or Outcome(parser.name), time.monotonic() + max_seconds
    targets = parser.seeds(folder)
    keep_sound(targets)
    wholes = [parser.read(target) for target in targets]
    for target in targets:
        put_back(target)
    seeds = [target.read_bytes() for target in targets]
    context, begun, fatal = multiprocessing.get_context("fork"), numbers.start, set[int]()
    at = context.RawValue("q", begun)
    while begun < numbers.stop:
        receiver, sender = context.Pipe(duplex=False)
        left = [number for number in range(begun, numbers.stop) if number not in fatal]
        process = context.Process(target=_work, args=(parser, targets, seeds, wholes, left, sender, at, until))
        process.start()
        sender.close()
        try:
            begun, is_done = _listen(receiver, outcome, begun, keep)
            process.join(1)
            if is_done:
                break
            what = "did not come back" if process.is_alive() else f"ended its process ({process.exitcode})"
        finally:
            process.kill()
            process.join()
        for target in targets:
            put_back(target)
        # What was done before it and not told yet is done again.
        fatal.add(at.value)
        outcome.take(at.value, f"!{what}")
    return outcome


def _listen(receiver: Any, outcome: Outcome, begun: int, keep: Callable[[Outcome], None]) -> tuple[int, bool]:
    """Count what a worker says until it ends; return the number of the next input, and whether it has done its work."""
    spent_before = outcome.cpu_s
    try:
        while receiver.poll(LIMIT_WALL_S):
            verdicts, peak, spent, is_done = receiver.recv()
            for number, verdict in verdicts:
                outcome.take(number, verdict)
                begun = number + 1
            outcome.peak_bytes, outcome.cpu_s = max(outcome.peak_bytes, peak), spent_before + spent
            if is_done:
                return begun, True
            keep(outcome)
    except EOFError:
        pass
    return begun, False


def _work(
    parser: Parser,
    targets: list[Path],
    seeds: list[bytes],
    wholes: list[object],
    numbers: list[int],
    results: Any,
    at: Any,
    until: float,
) -> None:
    """Read inputs; ``at`` says which one. Verdicts are told together, since each telling wakes the other process."""
    faulthandler.disable()  # pytest's: what an input that ends this process left on the stack is nobody's concern
    spoken = Path(f"{_template(targets[0])}.spoken")
    with spoken.open("ab") as stream:
        os.dup2(stream.fileno(), 1)  # of C libraries too
        os.dup2(stream.fileno(), 2)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LIMIT_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES,) * 2)
    base, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    verdicts, told = list[tuple[int, str]](), time.monotonic()

    def tell(*, is_done: bool) -> None:
        peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
        results.send((verdicts, peak, time.process_time() - started, is_done))

    for number in numbers:
        if time.monotonic() > until:
            break
        at.value = number
        place, data, is_cut = damaged(seeds, parser, number)
        targets[place].write_bytes(data)
        whole = wholes[place]
        verdict = judge(parser, targets[place], whole if is_cut and isinstance(whole, Picture) else None)
        if spoken.stat().st_size:
            verdict = f"!wrote to the terminal: {spoken.read_bytes()[:100]!r}"
            os.truncate(spoken, 0)
        if parser.writes:
            put_back(targets[place])
        verdicts.append((number, verdict))
        if time.monotonic() - told > _TELL_EVERY_S:
            tell(is_done=False)
            verdicts, told = [], time.monotonic()
    tell(is_done=True)
    results.close()
    os._exit(0)


def _template(target: Path) -> Path:
    """Return the folder of a seed: all that is read with it."""
    return next(folder for folder in target.parents if folder.name.startswith("seed"))


def _sound_copy(target: Path) -> Path:
    return Path(f"{_template(target)}.sound")


def keep_sound(targets: list[Path]) -> None:
    """Copy what is read with each seed, for :func:`put_back`."""
    for target in targets:
        shutil.copytree(_template(target), _sound_copy(target))


def put_back(target: Path) -> None:
    """Make a seed, and all that is read with it, what it was."""
    shutil.rmtree(_template(target))
    shutil.copytree(_sound_copy(target), _template(target))


@contextmanager
def _limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise SlowError(f"above {LIMIT_CPU_S:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _place(error: BaseException) -> str:
    """Return the last line of ours that an exception came through."""
    trace, found = error.__traceback__, "?"
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if "chexmix_cli" in path:
            found = f"{path.partition('chexmix_cli/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
