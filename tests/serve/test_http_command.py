"""``chexmix serve http`` as a process: its checks before it starts, its log, its signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from tests.serve.conftest import Client, chat, data_url


@contextmanager
def process(repository, *arguments):
    """Run the command; give its process and a client, once it listens. Its log is read as it comes."""
    with subprocess.Popen(
        [sys.executable, "-m", "chexmix_cli", "serve", "http", "--port", "0", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=repository,
    ) as running:
        lines = []
        try:
            for line in running.stderr:
                lines.append(json.loads(line))
                if lines[-1]["event"] == "listening":
                    break
            reader = threading.Thread(target=lambda: lines.extend(map(json.loads, running.stderr)))
            reader.start()
            yield running, Client(lines[-1]["port"]), lines
            running.wait(120)
            reader.join(10)
        finally:
            if running.poll() is None:
                running.kill()


@pytest.mark.slow
def test_the_embedded_model_serves_until_it_is_told_to_stop(repository, call, make_dicom, planted, tmp_path):  # noqa: F811
    path = make_dicom(tmp_path / f"{planted[0]}.dcm")
    film = repository / "docs" / "images" / "demo-film.jpg"
    with process(repository) as (running, client, lines):
        record = client.post("/classify", {"image": data_url(film), "id": film.name}).json
        assert client.post("/classify", {"image": data_url(path)}).status == 200
        assert client.report(path, model="chexmix-mini", user=planted[0]).status == 200
        # A client that goes in the middle of its stream: SIGPIPE's default would end the process.
        for _ in range(2):
            gone = http.client.HTTPConnection("127.0.0.1", client.port)
            body = json.dumps(chat(film, model="chexmix-mini", stream=True)).encode()
            gone.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            begun = gone.getresponse()
            begun.read(10)
            begun.close()
            gone.close()
        broken = tmp_path / f"{planted[1]}.dcm"
        broken.write_bytes(path.read_bytes()[:-2000])
        assert client.report(broken, model="chexmix-mini").status == 422
        assert client.get(f"/{planted[0]}?name={planted[1]}").status == 404
        answers = []
        ask = threading.Thread(target=lambda: answers.append(client.report(film, model="chexmix-mini")))
        ask.start()
        while client.metric("chexmix_queue_requests") == 0 and not answers:
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        ask.join(120)
    assert answers[0].status == 200
    assert running.returncode == 0
    expected = call("classify", film, "--json", "--device", "cpu").records[0]
    assert record.pop("probabilities") == pytest.approx(expected.pop("probabilities"), abs=1e-5)
    assert record == {**expected, "typicality": record["typicality"]}
    assert [line["event"] for line in lines][-1] == "stopped"
    said = json.dumps(lines)
    assert not [name for name in planted if name in said]
    requests = [line for line in lines if line["event"] == "request"]
    assert {line["path"] for line in requests} == {"/classify", "/v1/chat/completions", "other"}
    assert all(line["queue_ms"] >= 0 and line["batch"] >= 1 for line in requests if line["status"] == 200)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_the_code_of_a_command(call, named_weights, number, code):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Until the server has its own handlers, a signal would end the tests.
    before = signal.signal(number, lambda *_: None)

    def stop():
        while True:
            try:
                assert Client(port).get("/health").json == {"status": "ok"}
            except OSError:
                time.sleep(0.05)
                continue
            os.kill(os.getpid(), number)
            return

    stopping = threading.Thread(target=stop)
    stopping.start()
    try:
        result = call("serve", "http", "--weights", named_weights, "--port", port, "--set", "input.workers=0")
    finally:
        stopping.join(10)
        signal.signal(number, before)
    assert result.code == code
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in events if line["event"] != "message"] == ["listening", "stopping", "stopped"]


@pytest.mark.parametrize(
    ("arguments", "token", "code", "message"),
    [
        (["--host", "0.0.0.0"], None, 2, "--host: other machines would be let in without a token"),
        (["--host", "192.168.1.7"], "short", 2, "CHEXMIX_TOKEN: is no token; expected at least 16"),
        (["--token-file", "nowhere"], None, 2, "--token-file: cannot be read (FileNotFoundError)"),
        (["--set", "server.queue=0"], None, 2, "server.queue: is 0; expected a positive number"),
        (["--host", "no.such.host.invalid"], "a-token-of-enough-letters", 4, "cannot be listened on"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(call, monkeypatch, arguments, token, code, message):  # noqa: F811
    if token is None:
        monkeypatch.delenv("CHEXMIX_TOKEN", raising=False)
    else:
        monkeypatch.setenv("CHEXMIX_TOKEN", token)
    result = call("serve", "http", *arguments)
    assert result.code == code
    assert message in result.stderr


def test_a_token_file_is_read_without_its_line_end(monkeypatch, tmp_path):
    from chexmix_cli.serve.access import is_own, read_token

    names = {"flag": "--token-file", "host_name": "--host"}
    monkeypatch.setenv("CHEXMIX_TOKEN", "of-the-environment-0")
    file = tmp_path / "token"
    file.write_text("of-the-file-01234567\n")
    assert read_token(file, "0.0.0.0", **names) == "of-the-file-01234567"
    assert read_token(None, "127.0.0.1", **names) == "of-the-environment-0"
    assert [is_own(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "pacs.example")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_a_port_that_is_taken_is_said(call, client):  # noqa: F811
    result = call("serve", "http", "--port", client.port)
    assert result.code == 4
    assert "--port 0 takes a free one" in result.stderr


def test_without_the_extra_it_is_said_how_to_get_it(call, monkeypatch):  # noqa: F811
    for name in [name for name in sys.modules if name.startswith("chexmix_cli.serve.http.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = call("serve", "http")
    assert result.code == 4
    assert "pip install 'chexmix[serve]'" in result.stderr
