"""A hub on localhost: the two endpoints that ``fetch`` uses, with faults on request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Files of one repository and what happens when they are asked for.

    Attributes:
        files: by name, as served.
        published: sha256 told for large files instead of the true one.
        cut_after: bytes of a file after which its next transfers break off, by name.
        cuts_left: how many transfers break off.
        status: HTTP status of everything, if not 200.
        file_status: HTTP status of the files alone.
        more: bytes that are sent behind a file, by name.
        ignores_range: answer 200 with the whole file, as some servers do.
        requests: (method and path, Range header) of everything asked.
    """

    repository: str
    files: dict[str, bytes]
    published: dict[str, str] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    cuts_left: int = 0
    more: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    file_status: int = 200
    ignores_range: bool = False
    commit: str = COMMIT
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @classmethod
    def of_directory(cls, repository: str, directory: Path, names: tuple[str, ...]) -> Self:
        """Return a hub that serves files of a directory."""
        return cls(repository, {name: (directory / name).read_bytes() for name in names})

    def info(self) -> dict[str, object]:
        """Return what ``/api/models`` tells of the repository; files from 10,000 bytes on are large files."""
        siblings = []
        for name, content in self.files.items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if len(content) >= 10_000:
                digest = self.published.get(name, hashlib.sha256(content).hexdigest())
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        return {"id": self.repository, "modelId": self.repository, "sha": self.commit, "siblings": siblings}

    def limit(self, name: str) -> int:
        """Return after how many bytes of a file this transfer ends."""
        if name in self.cut_after and self.cuts_left > 0:
            self.cuts_left -= 1
            return self.cut_after[name]
        return len(self.files[name]) + len(self.more.get(name, b""))

    def ranges(self, name: str) -> list[str | None]:
        """Return the Range headers with which a file was asked for, in order."""
        return [header for path, header in self.requests if path.endswith(f"/{name}")]


class Server:
    """Serves a :class:`Hub` on a free port while the ``with`` block runs."""

    def __init__(self, hub: Hub) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, header = self.path.split("?")[0], self.headers.get("Range")
            hub.requests.append((f"GET {path}", header))
            if hub.status != 200:
                self._answer(hub.status, b"{}", {})
            elif path.startswith(f"/api/models/{hub.repository}"):
                self._answer(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/{hub.repository}/resolve/{hub.commit}/"):
                self._send_file(path.rsplit("/", 1)[1], header)
            else:
                self._answer(404, b"", {})

        def _send_file(self, name: str, header: str | None) -> None:
            if hub.file_status != 200:
                self._answer(hub.file_status, b"{}", {})
                return
            content, start = hub.files[name] + hub.more.get(name, b""), 0
            if header is not None and not hub.ignores_range:
                start = int(header.removeprefix("bytes=").split("-")[0])
            limit = hub.limit(name)
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            self._answer(206 if start else 200, content[start:limit], headers, length=len(content) - start)
            if limit < len(content):
                self.close_connection = True  # before all of Content-Length was sent

        def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler
