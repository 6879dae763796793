"""Results on their way to an archive that takes them, is away, or refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from dicom_peers import film, listening_archive
from http_answers import Server
from pydicom.uid import generate_uid

from chexmix_cli.core.data.dicom.web import DicomwebServer
from chexmix_cli.core.settings.dicom_node import SendSettings
from chexmix_cli.serve.dicom.delivery import Delivery
from chexmix_cli.serve.dicom.destinations import RefusedError, StorageScp, StowServer, UnreachableError
from chexmix_cli.serve.dicom.peers import Address
from chexmix_cli.serve.dicom.queue import DOCUMENTS, StudyQueue

TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture
def queue(tmp_path: Path) -> StudyQueue:
    return StudyQueue(tmp_path / "queue", salt_mark="a")


@pytest.fixture
def deliver(queue) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Return a function that starts deliveries to a port and returns what they take note of."""
    started: list[Delivery] = []

    def start(port: int, **settings: Any) -> list[dict[str, Any]]:
        notes: list[dict[str, Any]] = []
        given = SendSettings(**{"first_wait_seconds": 0.05, "most_wait_seconds": 0.2, "timeout_seconds": 5, **settings})
        destination = StorageScp(Address("ARCHIVE", "127.0.0.1", port), "CHEXMIX", given)
        note = lambda event, **about: notes.append({"event": event, **about})  # noqa: E731
        started.append(Delivery(queue, destination, given, note))
        started[-1].start()
        return notes

    yield start
    for delivery in started:
        delivery.stop()
        delivery.check()


def report(queue: StudyQueue, name: str, sop_class: str = TEXT_SR) -> str:
    """Put a study with one document into the queue's ``sending``; return the document's UID."""
    document = film()
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(document, keyword)
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = sop_class
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    queue.receive(b"film", study=name, instance=f"{name} film")
    study = queue.claim(0)
    (study / DOCUMENTS).mkdir()
    document.save_as(study / DOCUMENTS / "001.dcm", enforce_file_format=True)
    queue.reported(study)
    return str(document.SOPInstanceUID)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_what_is_taken_is_done_and_its_films_are_gone(queue, archive, deliver):
    uids = {report(queue, name) for name in ("s", "t")}
    notes = deliver(archive.port)
    wait_until(lambda: len(notes) == 2)
    assert set(archive.documents) == uids
    assert [note["event"] for note in notes] == ["sent", "sent"]
    done = json.loads((queue.folder / "done" / "s.json").read_text())
    assert (done["instances"], done["documents"]) == (["s film"], 1)
    assert [path for path in queue.folder.rglob("*") if path.suffix == ".dcm"] == []


def test_an_archive_that_is_away_gets_everything_once_it_is_there(queue, deliver):
    with listening_archive() as gone:
        port = gone.port
    uids = {report(queue, name) for name in ("s", "t")}
    notes = deliver(port)
    wait_until(lambda: len(notes) >= 4)
    assert queue.counts()["sending"] == 2
    assert {note["reason"] for note in notes} == {"it does not answer"}
    assert [note["again_in_seconds"] for note in notes[:4]] == [0.05, 0.1, 0.2, 0.2]
    with listening_archive(port) as archive:
        wait_until(lambda: queue.counts()["done"] == 2)
    assert set(archive.documents) == uids


def test_an_archive_without_space_is_tried_again(queue, archive, deliver):
    archive.answer = 0xA700
    uid = report(queue, "s")
    notes = deliver(archive.port, most_refusals=2)
    archive.wait_for(lambda: archive.num_sent >= 4)
    assert queue.counts()["sending"] == 1
    archive.answer = 0x0000
    wait_until(lambda: queue.counts()["done"] == 1)
    assert set(archive.documents) == {uid}
    assert notes[0]["reason"] == "it is out of resources (status A700)"


def test_what_is_refused_again_and_again_is_kept_with_the_reason_and_others_pass(queue, archive, deliver):
    archive.answer = 0xC000
    report(queue, "s")
    deliver(archive.port, most_refusals=3)
    wait_until(lambda: queue.counts()["quarantine"] == 1)
    assert archive.num_sent == 3
    kept = queue.folder / "quarantine" / "s"
    assert json.loads((kept / "reason.json").read_text()) == {
        "code": "NOT_DELIVERED",
        "message": "the destination refused it 3 times: it answers status C000",
    }
    assert (kept / DOCUMENTS / "001.dcm").exists()
    assert (kept / "films" / "s film.dcm").exists()


def test_what_an_archive_says_becomes_an_error(queue, archive):
    settings = SendSettings(timeout_seconds=5)
    report(queue, "s", sop_class="1.2.840.10008.5.1.4.1.1.88.33")
    documents = [queue.folder / "sending" / "s" / DOCUMENTS / "001.dcm"]
    with pytest.raises(UnreachableError, match="it rejects the association|it does not answer"):
        StorageScp(Address("OTHER", "127.0.0.1", archive.port), "CHEXMIX", settings).send(documents)
    with pytest.raises(RefusedError, match="it does not take this class of documents"):
        StorageScp(Address("ARCHIVE", "127.0.0.1", archive.port), "CHEXMIX", settings).send(documents)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(200, None, ""), (409, RefusedError, "refuses 1 documents"), (503, UnreachableError, "answers status 503")],
)
def test_a_dicomweb_server_is_a_destination_too(queue, status, error, message):
    report(queue, "s")
    documents = [queue.folder / "sending" / "s" / DOCUMENTS / "001.dcm"]
    server = Server(lambda path: (status, {}, b""))
    destination = StowServer(DicomwebServer(server.url, where="--send-to"))
    with nullcontext() if error is None else pytest.raises(error, match=message):
        destination.send(documents)
    server.close()
    assert documents[0].read_bytes() in server.bodies[0]


def test_a_warning_is_success(queue, archive, deliver):
    archive.answer = 0xB000
    report(queue, "s")
    deliver(archive.port)
    wait_until(lambda: queue.counts()["done"] == 1)


def test_a_disk_that_fails_ends_the_node(queue, archive, monkeypatch):
    report(queue, "s")

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue, "delivered", full)
    address = Address("ARCHIVE", "127.0.0.1", archive.port)
    delivery = Delivery(queue, StorageScp(address, "CHEXMIX", SendSettings()), SendSettings(), lambda *_, **__: None)
    delivery.start()
    delivery._thread.join(20)
    with pytest.raises(OSError, match="No space left"):
        delivery.check()
