"""A real server on a free port of this machine, and the smallest client for it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.serving import HttpSettings, ServeHttpSettings
from chexmix_cli.library.opened import open_model
from chexmix_cli.serve.http.app import create_app
from chexmix_cli.serve.http.server import Server, _listen
from chexmix_cli.serve.http.service import Service
from chexmix_cli.serve.http.verbs import Served
from tests.cli.conftest import call, films, make_dicom, planted  # noqa: F401


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]

    @property
    def events(self) -> list[Any]:
        """Return the events of a stream; its last word is ``[DONE]``."""
        blocks = self.text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


@dataclass
class Client:
    """Asks one server."""

    port: int
    service: Service | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any) -> Answer:
        return self.ask("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def report(self, path: Path, **fields: Any) -> Answer:
        return self.post("/v1/chat/completions", chat(path, **fields))

    def metric(self, line: str) -> float:
        """Return the value of a metric, 0 where it was never counted."""
        found = [row for row in self.get("/metrics").text.splitlines() if row.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


def data_url(path: Path) -> str:
    media = {".png": "image/png", ".jpg": "image/jpeg", ".dcm": "application/dicom"}[path.suffix]
    return f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"


def chat(path: Path, *, model: str = "debug", **fields: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": data_url(path)}}
    return {"model": model, "messages": [{"role": "user", "content": [part]}], **fields}


#: Enough for tests: no process of readers, short reports.
#: With a fixed number of drafts: the last digits of a probability follow from the shapes of the passes.
SETTINGS = ServeHttpSettings(decode=DecodeSettings(max_new_tokens=16, draft_rows=8))
SETTINGS = replace(SETTINGS, input=replace(SETTINGS.input, workers=0))


@pytest.fixture(scope="session")
def named_weights(debug_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the debug weights under a name that requests can say."""
    folder = tmp_path_factory.mktemp("weights") / "debug"
    folder.symlink_to(debug_weights)
    return folder


@pytest.fixture(scope="session")
def serving(named_weights: Path) -> Callable[..., Any]:
    """Return a context that runs a server of the debug model and gives its client."""

    @contextmanager
    def run(
        *, token: str | None = None, decode: DecodeSettings | None = None, context: Any = None, **limits: Any
    ) -> Iterator[Client]:
        server_settings = HttpSettings(port=0, **limits)
        settings = replace(SETTINGS, server=server_settings, decode=decode or SETTINGS.decode)
        model = open_model(str(named_weights), device="cpu", settings=settings.input)
        service = Service(Served(model, settings, 0))
        service.start()
        listener = _listen(server_settings)
        server = Server(service, create_app(service, token), server_settings, context)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            yield Client(listener.getsockname()[1], service, headers)
        finally:
            server.should_exit = True
            thread.join(30)
            service.close()
            listener.close()
        assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def client(serving: Callable[..., Any]) -> Iterator[Client]:
    """Return the client of a server that many tests share."""
    with serving() as found:
        yield found
