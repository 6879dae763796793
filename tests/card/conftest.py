"""The library that makes torch believe in a card, built once a session."""

from __future__ import annotations

from pathlib import Path

import guard_build
import pytest


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that makes torch believe in a card, or skip with the reason."""
    problem = guard_build.problem()
    if problem is not None:
        pytest.skip(problem)
    # Beside the folders of all workers of a session.
    return guard_build.build(tmp_path_factory.getbasetemp().parent / "card")
