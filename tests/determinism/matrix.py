"""Runs a command again, and in other ways, and holds that it gives the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from chexmix_cli.core.files import LOCK_FILE
from tests.determinism import servers
from tests.determinism.commands import BYTES, Command, Way
from tests.determinism.compare import Outputs, largest_difference, require_bytes
from tests.determinism.inputs import OUT, copy_inputs
from tests.determinism.interpreter import Interpreter

_TWO = {"OMP_NUM_THREADS": "2"}


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        holds: ``BYTES`` or ``IDS``; the worst of its ways.
        num_ways: how many were tried.
        difference: largest one of two numbers, as a share of the larger.
        cpu_s: processor time of the command's runs.
    """

    holds: str
    num_ways: int
    difference: float
    cpu_s: float


@dataclass
class Matrix:
    """All cells over one folder of inputs.

    Attributes:
        folder: for everything.
        template: the inputs.
        usual, other: where commands run: as ever, and with all that must not matter otherwise.
    """

    folder: Path
    template: Path
    usual: Interpreter
    other: Interpreter
    _known: dict[str, tuple[Outputs, float]] = field(default_factory=dict)
    _count: int = 0

    def run(self, command: Command, axis: str) -> Outcome:
        """Run a cell.

        Raises:
            AssertionError: something differs that must not.
        """
        expected, cpu_s = self._reference(command)
        if axis == "again":
            found, again_s = self._outputs((command.line,), command.code, is_other=True)
            try:
                require_bytes(expected, found)
            except AssertionError as error:
                error.add_note(f"with {self.other.variables}")
                raise
            return Outcome(BYTES, 1, 0.0, cpu_s + again_s)
        ways = command.ways[axis]
        assert not isinstance(ways, str)
        differences = []
        for way in ways:
            found, way_s = self._outputs(
                way.lines, command.code, environment=_TWO if way.has_threads else {}, at_once=way.is_at_once
            )
            cpu_s += way_s
            differences.append(_compared(way, expected, found))
        holds = BYTES if all(difference is None for difference in differences) else ways[0].holds
        return Outcome(holds, len(ways), max((one or 0.0 for one in differences), default=0.0), cpu_s)

    def _reference(self, command: Command) -> tuple[Outputs, float]:
        if command.name not in self._known:
            self._known[command.name] = self._outputs((command.line,), command.code)
        return self._known[command.name]

    def _outputs(
        self,
        lines: Sequence[str],
        code: int,
        *,
        is_other: bool = False,
        environment: Mapping[str, str] | None = None,
        at_once: bool = False,
    ) -> tuple[Outputs, float]:
        """Return what command lines write, by name, and their processor time."""
        interpreter = self.other if is_other else self.usual
        self._count += 1
        work = self.folder / ("elsewhere, on another day" if is_other else "work") / str(self._count)
        copy_inputs(self.template, work, is_other=is_other)
        found, cpu_s = dict[str, bytes](), 0.0
        if lines[0].startswith("serve "):
            more = dict(environment or {})
            return servers.outputs(interpreter, lines[0].split(), work, more, at_once=at_once)
        for line in lines:
            words, _, stdin = line.partition(" < ")
            process = interpreter.begin(words.split(), work, work, stdin=stdin or "/dev/null", environment=environment)
            ended = interpreter.end(process)
            said = (work / "stderr").read_text()
            # Of several lines some may meet none of the films that are damaged.
            assert ended.code in ((code,) if len(lines) == 1 else (code, 0)), f"{line}: {ended.code}\n{said}"
            assert "Traceback" not in said, said
            found["stdout"] = (work / "stdout").read_bytes()
            cpu_s += ended.cpu_s
        out = work / OUT
        paths = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK_FILE)
        found |= {str(path.relative_to(out)): path.read_bytes() for path in paths}
        shutil.rmtree(work)
        # A manifest of imported films names them by their whole paths.
        return {name: content.replace(str(work).encode(), b"<work>") for name, content in found.items()}, cpu_s


def _compared(way: Way, expected: Outputs, found: Outputs) -> float | None:
    """Return the largest difference of two numbers; None if there is no other byte."""
    if way.only is not None:
        expected, found = (
            {name: content for name, content in outputs.items() if any(fnmatch(name, one) for one in way.only)}
            for outputs in (expected, found)
        )
        assert expected
    if way.holds == BYTES:
        require_bytes(expected, found)
        return None
    return None if expected == found else largest_difference(expected, found)
