"""``generate-report --store``: documents to a DICOMweb server. A real one is in ``tests/orthanc``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from http_answers import Answer, Server

pytest.importorskip("dicomweb_client", reason="the extra clinical is not installed")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """Return a function that starts a server with one answer to everything."""
    started: list[Server] = []

    def start(answer: Answer) -> Server:
        started.append(Server(lambda path: answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def report(call, debug_weights, make_dicom, tmp_path):
    """Return a function that reports on one film."""
    film = make_dicom(tmp_path / "film.dcm")
    return lambda *arguments: call(
        "generate-report", film, "--weights", debug_weights, "--json", "--set", "decode.max_new_tokens=8", *arguments
    )


def test_a_report_is_stored_as_a_document_of_its_study(report, serve, tmp_path, planted):
    server = serve((200, {}, b""))
    done = report("--store", server.url, "--documents", tmp_path / "documents")
    (record,) = done.records
    assert (done.code, record["status"], list(record["documents"])) == (0, "ok", ["sr"])
    assert [path for path, _ in server.asked] == ["/dicom-web/studies"]
    (written,) = (tmp_path / "documents").iterdir()
    assert written.read_bytes() in server.bodies[0]
    assert not any(secret in done.stdout + done.stderr for secret in planted)


def test_a_record_whose_document_is_refused_fails_and_nothing_is_written(report, serve, tmp_path):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0110]}}]}}
    server = serve((202, {"Content-Type": "application/dicom+json"}, json.dumps(failed).encode()))
    done = report("--store", server.url, "--documents", tmp_path / "documents")
    (record,) = done.records
    assert (done.code, record["status"]) == (1, "error")
    assert record["error"] == {
        "code": "NOT_STORED:REFUSED",
        "message": "--store: the server refuses 1 documents (failure reason 0110)",
    }
    assert not (tmp_path / "documents").exists()


def test_a_server_that_is_not_there_is_said(report, serve):
    server = serve((200, {}, b""))
    server.close()
    (record,) = report("--store", server.url).records
    assert record["error"] == {"code": "NOT_STORED", "message": "--store: the server does not answer"}


def test_there_must_be_something_to_store(report):
    done = report("--store", "http://127.0.0.1:1/", "--set", 'documents.kinds=["fhir"]')
    assert done.code == 2
    assert "documents.kinds: is fhir alone; expected a kind of DICOM document for --store" in done.stderr
