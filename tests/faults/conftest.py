"""The matrix of commands and faults, its inputs, and where outcomes are noted for the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.commands import write_template
from tests.faults.matrix import Matrix, Outcome
from tests.faults.process import start

#: Read by tools/reliability_tables.py; a line a cell, of several the last counts.
NOTED = Path(__file__).resolve().parents[2] / "build" / "faults.jsonl"


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory, debug_weights: Path) -> Matrix:
    """Return the matrix over films, manifests, shards, shares and an index."""
    folder = tmp_path_factory.mktemp("faults")

    def run(*words: object) -> None:
        done = start(words, folder / "template")
        assert done.end() == 0, done.said

    write_template(folder / "template", debug_weights, run)
    return Matrix(folder, folder / "template", debug_weights)


@pytest.fixture(scope="session")
def note() -> Callable[[str, str, Outcome | str], None]:
    """Return a function that takes note of what came of a command under a fault, or why there is no such cell."""

    def take(command: str, fault: str, found: Outcome | str) -> None:
        about = {"reason": found} if isinstance(found, str) else asdict(found)
        NOTED.parent.mkdir(exist_ok=True)
        with NOTED.open("a") as file:
            file.write(json.dumps({"command": command, "fault": fault, **about}) + "\n")

    return take
