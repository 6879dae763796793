"""A receiver that listens, and an archive that stores."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicom_peers import Archive, allow_open_sockets, listening_archive

from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.settings.dicom_node import ReceiveSettings
from chexmix_cli.serve.dicom.peers import read_peers
from chexmix_cli.serve.dicom.queue import StudyQueue
from chexmix_cli.serve.dicom.receiver import Receiver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            allow_open_sockets(item)


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Leave none of those sockets to tests of other files; to pytest a folder without ``__init__`` is no package."""
    yield
    gc.collect()


@pytest.fixture
def archive() -> Iterator[Archive]:
    """Return a peer ``ARCHIVE`` that stores what it is sent."""
    with listening_archive() as found:
        yield found


@dataclass
class Running:
    """A receiver that listens, its queue, and what it took note of."""

    port: int
    queue: StudyQueue
    notes: list[dict[str, Any]]
    receiver: Receiver


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts a receiver on a free port of this machine."""
    started: list[Receiver] = []

    def start(*allow: str, max_bytes: int = 1 << 20, port: int = 0, context: Any = None, **settings: Any) -> Running:
        notes: list[dict[str, Any]] = []
        queue = StudyQueue(tmp_path / "queue", salt_mark="a")
        receiver = Receiver(
            queue,
            IdMaker(),
            ReceiveSettings(**{"least_free_mb": 0, **settings}),
            ae_title="CHEXMIX",
            peers=read_peers(allow or ["*@*"], "--allow"),
            max_bytes=max_bytes,
            note=lambda event, **about: notes.append({"event": event, **about}),
        )
        found = Running(receiver.start("127.0.0.1", port, context), queue, notes, receiver)
        started.append(receiver)
        return found

    yield start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for receiver in started:
            receiver.stop(0)
