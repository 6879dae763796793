"""The matrix of commands and ways, and where outcomes are noted for the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.determinism.inputs import write_inputs
from tests.determinism.interpreter import Interpreter, clock_library, other, usual
from tests.determinism.matrix import Matrix, Outcome

#: Read by tools/determinism_table.py; a line a cell, of several the last counts.
NOTED = Path(__file__).resolve().parents[2] / "build" / "determinism.jsonl"


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory, debug_weights: Path) -> Iterator[Matrix]:
    """Return the matrix over films, manifests, shards, an index and results."""
    folder = tmp_path_factory.mktemp("determinism")
    # What was measured of this machine is remembered there, so it is the machine's.
    home = folder / "home"
    home.mkdir()
    interpreters = [Interpreter(variables) for variables in (usual(home), other(home, clock_library(folder)))]

    def run(line: str, work: Path, records: str) -> None:
        words, _, stdin = line.partition(" < ")
        ended = interpreters[0].end(interpreters[0].begin(words.split(), work, folder, stdin=stdin or "/dev/null"))
        assert ended.code in (0, 3), (folder / "stderr").read_text()
        if records:
            (folder / "stdout").rename(work / records)

    try:
        write_inputs(folder / "template", debug_weights, run)
        yield Matrix(folder, folder / "template", *interpreters)
    finally:
        for interpreter in interpreters:
            interpreter.close()


@pytest.fixture(scope="session")
def note() -> Callable[[str, str, Outcome], None]:
    """Return a function that takes note of what came of a command in a way."""

    def take(command: str, axis: str, found: Outcome) -> None:
        NOTED.parent.mkdir(exist_ok=True)
        with NOTED.open("a") as file:
            file.write(json.dumps({"command": command, "axis": axis, **asdict(found)}) + "\n")

    return take
