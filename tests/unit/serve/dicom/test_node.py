"""The node with a small model, in this process: what is sent comes back as a structured report, once."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from dicom_peers import PATIENT, associated, film, send
from pydicom.dataset import Dataset

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.settings.dicom_node import (
    MetricsSettings,
    QueueSettings,
    ReceiveSettings,
    SendSettings,
    ServeDicomSettings,
)
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.library.opened import OpenModel, open_model
from chexmix_cli.library.reports import Reporter
from chexmix_cli.serve.dicom.destinations import StorageScp
from chexmix_cli.serve.dicom.node import Node, Place
from chexmix_cli.serve.dicom.peers import Address, read_peers
from chexmix_cli.serve.dicom.reporting import StudyReporter

SETTINGS = ServeDicomSettings(
    decode=DecodeSettings(max_new_tokens=24),
    receive=ReceiveSettings(quiet_seconds=0.3),
    send=SendSettings(first_wait_seconds=0.1),
    queue=QueueSettings(grace_seconds=1),
)


@pytest.fixture(scope="module")
def model(debug_weights) -> OpenModel:
    return open_model(str(debug_weights), device="cpu")


class Started:
    """A node in a thread, its events, and how it ended."""

    def __init__(self, node: Node, events: list[dict[str, Any]]) -> None:
        self.node, self.events, self.error = node, events, None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            self.node.run()
        except MachineError as error:
            self.error = error

    def wait_for(self, name: str) -> dict[str, Any]:
        limit = time.monotonic() + 60
        while not (found := [event for event in self.events if event["event"] == name]):
            assert time.monotonic() < limit, self.events
            assert self.thread.is_alive(), self.error
            time.sleep(0.01)
        return found[0]

    def stop(self) -> None:
        self.node.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def serve(model, archive, tmp_path) -> Iterator[Callable[..., Started]]:
    """Return a function that starts a node of ``tmp_path / "queue"``."""
    started: list[Started] = []

    def start(settings: ServeDicomSettings = SETTINGS, metrics: Any = None) -> Started:
        events: list[dict[str, Any]] = []
        destination = StorageScp(Address("ARCHIVE", "127.0.0.1", archive.port), "CHEXMIX", SETTINGS.send)
        place = Place(ae_title="CHEXMIX", host="127.0.0.1", port=0, peers=read_peers(["*@*"], "--allow"))
        reporter = StudyReporter(Reporter(model, SETTINGS.decode, None), SETTINGS.documents)

        def note(event: str, **about: object) -> None:
            events.append({"event": event, **about})

        node = Node(tmp_path / "queue", place, reporter, destination, settings, note, metrics)
        started.append(Started(node, events))
        return started[-1]

    yield start
    for one in started:
        one.stop()
    # A node silences the libraries of its process for good.
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).propagate = True


def text_of(document: Dataset) -> str:
    """Return the text of a structured report's sections, without the comment on who wrote it."""
    sections = [item for item in document.ContentSequence if item.ValueType == "CONTAINER"]
    named = {item.ConceptNameCodeSequence[0].CodeMeaning: item.ContentSequence[0].TextValue for item in sections}
    del named["Comment"]
    return "\n".join(named.values())


def test_the_report_of_a_study_comes_back_as_generate_report_writes_it(serve, archive, model, tmp_path):
    one = film(3)
    lateral = film(3, study=one.StudyInstanceUID, view="LL")
    node = serve()
    assert send(node.wait_for("started")["port"], [lateral, one]) == [0, 0]
    archive.wait_for(lambda: len(archive.documents) == 1)
    (document,) = archive.documents.values()
    assert (document.StudyInstanceUID, document.PatientName) == (one.StudyInstanceUID, PATIENT)
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert document.DeviceSerialNumber == model.weights.fingerprint
    (series,) = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID

    for number, image in enumerate((lateral, one)):
        image.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    (job,) = model.reader().jobs([str(tmp_path / "0.dcm"), str(tmp_path / "1.dcm")])
    (expected,) = Reporter(model, SETTINGS.decode, None)([job.prepare()])
    assert expected.text
    assert text_of(document).split() == expected.text.split()
    assert node.wait_for("reported")["id"] == expected.id


def test_what_cannot_be_reported_is_kept_with_its_reason(serve, archive, tmp_path):
    node = serve()
    hand = film(5, part="HAND")
    broken = film(6)
    broken.PixelData = b"\0\0"
    assert send(node.wait_for("started")["port"], [hand, broken]) == [0, 0]
    found: dict[str, str] = {}
    limit = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < limit:
        reasons = [json.loads(path.read_text()) for path in (tmp_path / "queue" / "quarantine").glob("*/reason.json")]
        found = {reason["code"]: reason["message"] for reason in reasons}
        time.sleep(0.05)
    assert found["NOT_CHEST"] == "the header says HAND; expected CHEST or THORAX"
    assert set(found) == {"NOT_CHEST", "SHORT_PIXELS"}
    assert archive.num_sent == 0


def test_one_film_of_a_study_that_is_refused_leaves_the_others(serve, archive):
    # Not when nothing has come for a while: on a busy machine that is between two films of one association.
    node, one = serve(replace(SETTINGS, receive=ReceiveSettings(ends="release"))), film(3)
    hand = film(3, study=one.StudyInstanceUID, part="HAND")
    send(node.wait_for("started")["port"], [hand, one])
    assert node.wait_for("sent")["documents"] == 1
    assert node.wait_for("reported")["refused"] == ["NOT_CHEST"]


def test_a_study_that_ended_the_process_three_times_is_put_aside(serve, archive, tmp_path):
    """Begun attempts are on disk, as a decoder that crashes leaves them; the next study is reported all the same."""
    study = tmp_path / "queue" / "working" / "poison"
    (study / "films").mkdir(parents=True)
    film(1).save_as(study / "films" / "a.dcm", enforce_file_format=True)
    (study / "attempts.json").write_text('{"begun": 3}')
    node = serve()
    assert node.wait_for("quarantined") == {"event": "quarantined", "id": "poison", "code": "CRASHED"}
    send(node.wait_for("started")["port"], [film(2)])
    node.wait_for("sent")
    assert len(archive.documents) == 1


def test_what_was_reported_before_the_process_ended_is_not_reported_again(serve, archive, tmp_path):
    node, one = serve(), film(1)
    send(node.wait_for("started")["port"], [one])
    archive.wait_for(lambda: len(archive.documents) == 1)
    node.wait_for("sent")
    node.stop()
    (document,) = archive.documents.values()
    # As if it had been killed between the result and the change of state.
    (done,) = (tmp_path / "queue" / "done").iterdir()
    study = tmp_path / "queue" / "working" / done.stem
    done.unlink()
    for name in ("films", "documents"):
        (study / name).mkdir(parents=True)
    one.save_as(study / "films" / "a.dcm", enforce_file_format=True)
    document.save_as(study / "documents" / "001.dcm", enforce_file_format=True)
    (study / "result.json").write_text(json.dumps({"records": [{"id": done.stem, "status": "ok"}]}))
    archive.documents.clear()
    again = serve()
    again.wait_for("sent")
    assert list(archive.documents) == [document.SOPInstanceUID]


def test_metrics_count_what_the_node_does_and_name_no_patient(serve, archive):
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from prometheus_client.parser import text_string_to_metric_families

    from chexmix_cli.serve.dicom.metrics import NodeMetrics

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.read()

    def samples() -> dict[str, float]:
        families = text_string_to_metric_families(ask("/metrics").decode())
        return {
            " ".join([one.name, *(value for name, value in one.labels.items() if name != "le")]): one.value
            for family in families
            for one in family.samples
        }

    node = serve(replace(SETTINGS, metrics=MetricsSettings(port=0)), NodeMetrics())
    started = node.wait_for("started")
    address = started["metrics"]
    assert address.startswith("127.0.0.1:")
    archive.answer = 0xA700
    one = film(1)
    assert send(started["port"], [one, one, film(2, part="HAND")]) == [0, 0, 0]
    with associated(started["port"], [one], called="OTHER") as association:
        assert association.is_rejected
    for event in ("refused", "not sent", "quarantined"):
        node.wait_for(event)
    found = samples()
    assert found["chexmix_dicom_queue_studies sending"] == found["chexmix_dicom_queue_studies quarantine"] == 1
    assert found["chexmix_dicom_send_failures_total unreachable"] >= 1
    archive.answer = 0x0000
    node.wait_for("sent")
    found = samples()
    wanted = {
        "images_total received": 2,
        "images_total known": 1,
        "refusals_total ASSOCIATION receive": 1,
        "refusals_total NOT_CHEST report": 1,
        "reports_total": 1,
        "report_seconds_count": 1,
        "documents_total": 1,
        "send_seconds_count": 1,
        "turnaround_seconds_count": 1,
        "queue_studies receiving": 0,
        "queue_studies working": 0,
        "queue_studies sending": 0,
        "queue_studies quarantine": 1,
    }
    assert {name: found[f"chexmix_dicom_{name}"] for name in wanted} == wanted
    (sent,) = [event for event in node.events if event["event"] == "sent"]
    assert found["chexmix_dicom_turnaround_seconds_sum"] == sent["after_seconds"] > sent["seconds"]
    text = ask("/metrics").decode()
    for secret in (*PATIENT.split("^"), "PID-1", "ACC-1", "20240229", one.StudyInstanceUID, sent["id"], "MODALITY"):
        assert secret not in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask("/")
    node.stop()
    with pytest.raises(urllib.error.URLError):
        ask("/metrics")


def test_metrics_are_shown_to_who_brings_the_token_or_asks_this_machine_by_its_own_name():
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from chexmix_cli.serve.dicom.metrics import NodeMetrics, shown

    def status(address: str, **headers: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{address}/metrics", headers=headers)) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    token = "a-token-of-enough-letters"
    with shown(NodeMetrics(token), MetricsSettings(port=0)) as address:
        assert status(address, Authorization=f"Bearer {token}", Host="pacs.example") == 200
        assert status(address) == status(address, Authorization=f"Bearer {token}x") == 401
    with shown(NodeMetrics(), MetricsSettings(port=0)) as address:
        assert status(address) == 200
        assert status(address, Host="evil.example") == 403


def test_a_port_of_metrics_that_is_taken_ends_the_node_before_it_listens(serve):
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from chexmix_cli.serve.dicom.metrics import NodeMetrics

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = serve(replace(SETTINGS, metrics=MetricsSettings(port=port)), NodeMetrics())
        node.thread.join(60)
    assert f"127.0.0.1:{port}: cannot be listened on" in str(node.error)
    assert node.events == []


def test_a_queue_has_one_node(serve):
    serve().wait_for("started")
    second = serve()
    second.thread.join(60)
    assert "another process is writing it" in str(second.error)
