"""The inputs of the made patient, once a session, and a watch over what a command leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import call, chexmix, interruptible  # noqa: F401
from tests.privacy.planted import Ward
from tests.privacy.scanner import kinds_of


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Return the inputs; commands only read them."""
    return Ward(tmp_path_factory.mktemp("ward"))


@pytest.fixture(autouse=True)
def nothing_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, home: Path, ward: Ward
) -> Iterator[None]:
    """Hold that a command leaves no temporary file, nothing of the patient in its home, nothing beside the inputs."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = sorted(ward.root.rglob("*"))
    yield
    assert list(temporary.rglob("*")) == []
    assert kinds_of(home) == {}
    assert sorted(ward.root.rglob("*")) == before
