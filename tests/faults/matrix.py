"""Runs one cell: a command under a fault, and again when the fault is mended; what must be true of both."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chexmix_cli.core.errors import ExitCode
from tests.faults.commands import OUT, Command, files_in
from tests.faults.faults import Cell, Fault
from tests.faults.process import start

#: What a command says of what it found done.
_KEPT = re.compile(r"already: (\d+) record|resumed after step (\d+)")
#: Files that take their name when they are whole.
_WHOLE = (".png", ".html", ".safetensors")


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        code: exit code under the fault.
        num_kept: records or steps that the command went on behind; None where it did not say so.
        is_given_again: it had to be.
    """

    code: int
    num_kept: int | None = None
    is_given_again: bool = False


@dataclass(frozen=True)
class Whole:
    """What a run wrote that was left alone."""

    results: Mapping[str, bytes]
    files: Mapping[str, bytes]
    stdout: bytes


class Matrix:
    """All cells over one folder of inputs.

    Args:
        folder: for everything.
        template: the folder that commands run in copies of.
        weights: of the small model.
    """

    def __init__(self, folder: Path, template: Path, weights: Path) -> None:
        self._folder, self._template, self._weights = folder, template, weights
        self._wholes: dict[str, Whole] = {}

    def run(self, command: Command, fault: Fault) -> Outcome:
        """Run a cell.

        Raises:
            AssertionError: something is not as it must be.
        """
        whole = self._whole(command)
        with ExitStack() as stack:
            cell = Cell(command, self._template, self._copy(f"{command.name}, {fault.name}"), self._weights, stack)
            inputs = _names(cell.work)
            fault.arrange(cell)
            run = cell.begin()
            cell.meanwhile(run)
            code, wanted = run.end(), command.codes.get(fault.name, fault.code or ExitCode.DONE)
            assert code == wanted, (code, run.said)
            for unsaid in ("Traceback", "bug of chexmix"):
                assert unsaid not in run.said, run.said
            cell.mend()
            self._check_disk(cell, whole, code=code, may_be_partial=fault.leaves_partial)
            _check_lines(bytes(run.stdout), whole, code=code)
            outcome = Outcome(code) if code == ExitCode.DONE else self._go_on(cell, code)
            if not (command.leaves_alone and code == ExitCode.PARTIAL):
                _require_same(command.results(cell.out), whole.results)
            assert _names(cell.work) == inputs, "something was left beside the output"
            stack.close()
            shutil.rmtree(cell.work)
        return outcome

    def _whole(self, command: Command) -> Whole:
        if command.name not in self._wholes:
            work = self._copy(f"{command.name}, left alone")
            run = start(command.words_for(self._weights), work)
            code = run.end()
            assert code == ExitCode.DONE, run.said
            out = work / OUT
            results = command.results(out) if command.is_on_disk else {}
            self._wholes[command.name] = Whole(results, files_in(out), bytes(run.stdout))
            shutil.rmtree(work)
        return self._wholes[command.name]

    def _copy(self, name: str) -> Path:
        work = self._folder / re.sub(r"\W+", "-", name)
        shutil.copytree(self._template, work)
        return work

    def _go_on(self, cell: Cell, code: int) -> Outcome:
        """Give the command again; return what came of it."""
        command = cell.command
        before = files_in(cell.out)
        again = cell.again(*command.goes_on)
        code_again = again.end()
        if command.leaves_alone and code == ExitCode.PARTIAL:
            assert (code_again, files_in(cell.out)) == (code, before)
            return Outcome(code)
        assert code_again == ExitCode.DONE, (code_again, again.said)
        found = _KEPT.search(again.said)
        num_kept = None if found is None else int(found[1] or found[2])
        strikes_midway = any(strike.point == command.point for strike in cell.strikes)
        if command.kept is not None and strikes_midway and code != ExitCode.PARTIAL:
            assert num_kept is not None, again.said
            assert num_kept >= command.kept
        return Outcome(code, num_kept, is_given_again=True)

    def _check_disk(self, cell: Cell, whole: Whole, *, code: int, may_be_partial: bool) -> None:
        """Check that what has its name is whole, and that nothing else lies about."""
        for name, content in files_in(cell.out).items():
            if Path(name).name.startswith(".") or ".partial" in name:
                assert may_be_partial, f"{name} was left"
            elif code != ExitCode.PARTIAL and name in whole.files and name.endswith(_WHOLE):
                assert name.startswith("run/") or content == whole.files[name], name


def _require_same(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> None:
    differ = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    assert not differ, f"other results than those of a run left alone: {differ}"


def _names(work: Path) -> set[str]:
    """Return the files of a folder but for what the command writes."""
    return {str(path.relative_to(work)) for path in work.rglob("*") if (work / OUT) not in path.parents}


def _check_lines(stdout: bytes, whole: Whole, *, code: int) -> None:
    """Check that records on stdout are whole, and those of a run left alone as far as they go."""
    lines = stdout.splitlines(keepends=True)
    for line in lines:
        assert line.endswith(b"\n"), line
        json.loads(line)
    if code not in (ExitCode.DONE, ExitCode.PARTIAL):
        return
    assert len(lines) == whole.stdout.count(b"\n")
