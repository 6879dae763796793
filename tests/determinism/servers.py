"""The two servers: what they answer and deliver, by name, as a command's files are."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.determinism.interpreter import Ended, Interpreter

_LONGEST_S = 600
#: What an answer of the OpenAI interface has of its own: a number, and when it was given.
_OF_THE_ANSWER = re.compile(rb'"(id|created)": ?("chatcmpl-\w+"|\d+),')


@contextmanager
def serving(
    interpreter: Interpreter, words: list[str], work: Path, environment: dict[str, str], event: str
) -> Iterator[tuple[dict[str, Any], list[Ended]]]:
    """Run a server in a folder; give the event that says where it listens, and how it ended, once it has."""
    process, ended = interpreter.begin(words, work, work, environment=environment), list[Ended]()
    try:
        yield _wait_for(work, event), ended
    finally:
        ended.append(interpreter.stop(process))


def _wait_for(work: Path, event: str) -> dict[str, Any]:
    end = time.monotonic() + _LONGEST_S
    while time.monotonic() < end:
        for name in ("stdout", "stderr"):
            for line in (work / name).read_text().splitlines(keepends=True):
                if line.startswith("{") and line.endswith("\n") and json.loads(line)["event"] == event:
                    found: dict[str, Any] = json.loads(line)
                    return found
        time.sleep(0.1)
    raise AssertionError(f"it does not start: {(work / 'stderr').read_text()}")


def ask_http(port: int, films: list[Path], *, at_once: bool) -> dict[str, bytes]:
    """Return what an HTTP server answers to each verb about each film, asked one by one or all at once."""
    from tests.serve.conftest import Client, chat, data_url

    model = Client(port).get("/v1/models").json["data"][0]["id"]

    def ask(verb: str, film: Path) -> tuple[str, bytes]:
        fields = {"inpaint": {"mask_ratio": 0.5}}.get(verb, {})
        body = {"image": data_url(film), "id": film.name, **fields}
        path, asked = f"/{verb}", body
        if verb == "report":
            path, asked = "/v1/chat/completions", chat(film, model=model, max_tokens=8)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONGEST_S)
        try:
            connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, content
        return f"{verb} {film.name}.json", _OF_THE_ANSWER.sub(b"", content)

    pairs = [(verb, film) for verb in ("tokenize", "classify", "embed", "inpaint", "report") for film in films]
    with ThreadPoolExecutor(len(films) if at_once else 1) as pool:
        return dict(pool.map(lambda pair: ask(*pair), pairs))


@contextmanager
def archive() -> Iterator[Any]:
    """Give a DICOM peer that stores documents."""
    from dicom_peers import listening_archive

    with listening_archive() as found:
        yield found


def send_dicom(port: int, films: list[Path], peer: Any) -> dict[str, bytes]:
    """Send films to a node; return the documents that it delivers to a peer, by their UIDs."""
    import pydicom
    from dicom_peers import send

    assert send(port, [pydicom.dcmread(path) for path in films]) == [0] * len(films)
    peer.wait_for(lambda: len(peer.documents) == len(films), _LONGEST_S)
    found = {}
    for uid, document in peer.documents.items():
        written = BytesIO()
        document.save_as(written, enforce_file_format=True)
        found[f"{uid}.dcm"] = written.getvalue()
    return found


def outputs(
    interpreter: Interpreter, words: list[str], work: Path, environment: dict[str, str], *, at_once: bool
) -> tuple[dict[str, bytes], float]:
    """Return what a server gives, by name, and its processor time.

    Args:
        interpreter: runs it.
        words: of the command line.
        work: the folder it runs in.
        environment: variables that it has besides.
        at_once: requests come together, so that they share batches.
    """
    if words[1] == "http":
        with serving(interpreter, words, work, environment, "listening") as (listening, ended):
            gathered = ask_http(listening["port"], sorted((work / "films").glob("*.png"))[:3], at_once=at_once)
    else:
        with archive() as peer:
            words = [*words, "--send-to", f"ARCHIVE@127.0.0.1:{peer.port}"]
            with serving(interpreter, words, work, environment, "started") as (started, ended):
                gathered = send_dicom(started["port"], sorted((work / "studies").glob("*.dcm")), peer)
    assert ended[0].code == 0, (work / "stderr").read_text()
    return gathered, ended[0].cpu_s
