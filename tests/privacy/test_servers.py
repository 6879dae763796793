"""The servers over a planted patient: what they log, answer, note and keep."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.privacy.planted import PLANTED
from tests.privacy.scanner import kinds_in, kinds_of

NAME = PLANTED["name"][0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def while_it_serves(call: Callable[..., Any], port: int, ask: Callable[[], None], *arguments: object) -> Any:
    """Run a server in this process, ask it from a thread as soon as it listens, and stop it by SIGTERM."""
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            ask()
        except BaseException as error:
            faults.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    # Until the server has its own handler, the signal would end the tests.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    asking = threading.Thread(target=work)
    asking.start()
    try:
        done = call(*arguments)
    finally:
        asking.join(60)
        signal.signal(signal.SIGTERM, before)
    assert not faults, f"{faults[0]!r}\n{done.stderr}"
    return done


@pytest.mark.parametrize("verbosity", [(), ("-v",)], ids=["", "v"])
def test_log_and_answers_of_the_http_server(call, ward, debug_weights, monkeypatch, verbosity):
    http = pytest.importorskip("tests.serve.conftest", reason="the extra serve is not installed")
    port, answers = free_port(), []
    films = sorted(ward.studies.glob("*.dcm")) + sorted(ward.pictures.glob("*.png"))

    def broken(self: object, films: object) -> None:
        raise KeyError(NAME)

    def ask() -> None:
        client = http.Client(port)
        for film in films:
            answers.append(client.post("/tokenize", {"image": http.data_url(film)}))
        model = client.get("/v1/models").json["data"][0]["id"]
        answers.append(client.report(films[0], model=model, user=NAME, max_tokens=8))
        answers.append(client.report(films[0], model=NAME))
        answers.append(client.post("/classify", {"image": NAME, NAME: PLANTED["report"][0]}))
        answers.append(client.post("/tokenize", {"image": f"data:image/png;base64,{NAME}"}))
        answers.append(client.ask("POST", "/tokenize", f'{{"image": "{NAME}'.encode()))
        answers.extend([client.get("/metrics"), client.get("/health")])
        answers.append(client.get(f"/{NAME}?patient={PLANTED['number'][0]}", **{"X-Patient": NAME}))
        with monkeypatch.context() as patched:
            patched.setattr("chexmix_cli.library.opened.OpenModel.codes_of", broken)
            answers.append(client.post("/tokenize", {"image": http.data_url(films[0])}))

    arguments = ("serve", "http", "--weights", debug_weights, "--port", port, "--set", "input.workers=0", *verbosity)
    done = while_it_serves(call, port, ask, *arguments)
    assert done.code == 0, done.stderr
    assert {answer.status for answer in answers} >= {200, 400, 404, 422, 500}
    for answer in answers:
        # A field that is none is told by the name that its asker gave it; the log has it not.
        may = {"name"} if answer.status == 400 and answer.code == "UNKNOWN_FIELD" else set()
        assert kinds_in(answer.text.encode() + repr(answer.headers).encode()) <= may, answer
    assert len([line for line in done.stderr.splitlines() if '"event": "request"' in line]) == len(answers) - 1
    assert '"kind": "KeyError"' in done.stderr
    assert not kinds_in(done.stderr.encode() + done.stdout.encode()), done.stderr


@pytest.fixture
def libraries_speak_again() -> Iterator[None]:
    """Undo what a node does to its process for good: it silences the libraries."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pynetdicom")]
    before = [(logger, logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, propagates, level, handlers in before:
        logger.propagate, logger.handlers[:] = propagates, handlers
        logger.setLevel(level)


# pynetdicom leaves the sockets of connections that fail to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("libraries_speak_again")
def test_events_and_queue_of_the_dicom_node(call, ward, debug_weights, tmp_path):
    pytest.importorskip("pynetdicom", reason="the extra clinical is not installed")
    import pydicom
    from dicom_peers import listening_archive, send

    http = pytest.importorskip("tests.serve.conftest", reason="the extra serve is not installed")
    port, metrics_port, queue, metrics = free_port(), free_port(), tmp_path / "queue", []
    films = [pydicom.dcmread(path) for path in sorted(ward.studies.glob("*-[123].dcm"))]
    with listening_archive() as archive:

        def ask() -> None:
            assert send(port, films) == [0] * len(films)
            assert send(port, films[:1]) == [0]
            send(port, films[:1], caller="HOLLOWBROOK", called="NOBODY")
            archive.wait_for(lambda: len(archive.documents) == 1)
            for _ in range(200):
                if len([*(queue / "quarantine").glob("*/reason.json")]) == 2:
                    break
                time.sleep(0.05)
            metrics.append(http.Client(metrics_port).get("/metrics"))

        done = while_it_serves(
            call, port, ask, "serve", "dicom", "--queue", queue, "--port", port, "--weights", debug_weights,
            "--send-to", f"ARCHIVE@127.0.0.1:{archive.port}", "--set", "decode.max_new_tokens=6",
            "--set", "receive.quiet_seconds=0", "--set", "queue.grace_seconds=1", "-v",
            "--set", f"metrics.port={metrics_port}",
        )  # fmt: skip
    gc.collect()
    assert done.code == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"started", "received", "known", "reported", "sent", "quarantined"} <= {event["event"] for event in events}
    kept = kinds_in(done.stdout.encode() + done.stderr.encode())
    # An AE title is told of peers that are refused: whoever is let in must be known.
    assert kept <= {"institution"}, done.stdout
    assert "chexmix_dicom_refusals_total{" in metrics[0].text
    assert not kinds_in(metrics[0].text.encode() + repr(metrics[0].headers).encode()), metrics[0].text
    found = kinds_of(queue)
    assert all(place.startswith("quarantine/") for place in found), found
    assert not any(kinds_in(b"", str(path.relative_to(queue))) for path in queue.rglob("*"))
    assert not any(kinds_in(path.read_bytes()) for path in queue.rglob("reason.json"))
