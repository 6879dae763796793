"""What the node counts, and the port that shows it. No label holds anything of a film, a peer or a report."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import Counter, Histogram

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.settings.dicom_node import MetricsSettings
from chexmix_cli.serve.access import Access
from chexmix_cli.serve.dicom.queue import STATES, StudyQueue
from chexmix_cli.serve.dicom.receiver import Receiver
from chexmix_cli.serve.metrics import CONTENT_TYPE, SECONDS, ServerMetrics

#: A study waits until it is whole, and for a destination that is away.
_HOURS = (*SECONDS, 900.0, 3600.0, 14_400.0, 86_400.0)
#: Of a refusal without a status of C-STORE.
_ASSOCIATION, _CUT_OFF = "ASSOCIATION", "CUT_OFF"
_UNDELIVERED = "NOT_DELIVERED"
#: Who asks and then says nothing is hung up on.
_IDLE_S = 10.0
_STATUS = {"BAD_TOKEN": 401, "FOREIGN_HOST": 403}


class NodeMetrics(ServerMetrics):
    """The counters of one node, which hears of all its events.

    Args:
        token: that who asks for them must bring; None: they must ask from this machine.
    """

    def __init__(self, token: str | None = None) -> None:
        super().__init__()
        self.access = Access(token)
        registry = self.registry
        self._images = Counter(
            "chexmix_dicom_images", "Images taken: received, or known before.", ("outcome",), registry=registry
        )
        self._refusals = Counter(
            "chexmix_dicom_refusals", "Refused, by stage and code.", ("stage", "code"), registry=registry
        )
        self._reports = Counter("chexmix_dicom_reports", "Reports written.", registry=registry)
        self._report_seconds = Histogram(
            "chexmix_dicom_report_seconds", "Reporting on one study.", buckets=SECONDS, registry=registry
        )
        self._documents = Counter("chexmix_dicom_documents", "Documents that were delivered.", registry=registry)
        self._failures = Counter(
            "chexmix_dicom_send_failures",
            "Attempts to deliver a study that failed: the destination refused, or could not be reached.",
            ("kind",),
            registry=registry,
        )
        self._send_seconds = Histogram(
            "chexmix_dicom_send_seconds", "Delivering one study.", buckets=SECONDS, registry=registry
        )
        self._turnaround = Histogram(
            "chexmix_dicom_turnaround_seconds",
            "From the last image of a study to the delivery of its reports.",
            buckets=_HOURS,
            registry=registry,
        )

    def show(self, queue: StudyQueue, receiver: Receiver) -> None:
        """Show what waits in a queue, the space that it has, and open associations."""
        name = "chexmix_dicom_queue_studies"
        self.watch_each(name, "Studies in the queue, by state.", "state", STATES, lambda state: queue.count(state))
        self.watch("chexmix_dicom_queue_free_bytes", "Space left for the queue.", lambda: queue.free_bytes())
        self.watch("chexmix_dicom_associations", "Open associations.", lambda: receiver.num_associations)

    def note(self, event: str, about: dict[str, Any]) -> None:
        """Count an event of the node."""
        if event in ("received", "known"):
            self._images.labels(event).inc()
        elif event == "refused":
            self._refuse("receive", about.get("status", _ASSOCIATION))
        elif event == "cut off":
            self._refuse("receive", _CUT_OFF)
        elif event == "reported":
            self._reports.inc(about["reports"])
            self._report_seconds.observe(about["seconds"])
            self._refuse("report", *about.get("refused", ()))
        elif event == "quarantined":
            self._refuse("send" if about["code"] == _UNDELIVERED else "report", *about["code"].split(","))
        elif event == "sent":
            self._documents.inc(about["documents"])
            self._send_seconds.observe(about["seconds"])
            self._turnaround.observe(about["after_seconds"])
        elif event == "not sent":
            self._failures.labels("refused" if "refusals" in about else "unreachable").inc()

    def _refuse(self, stage: str, *codes: str) -> None:
        for code in codes:
            self._refusals.labels(stage, code).inc()


@contextmanager
def shown(metrics: NodeMetrics, settings: MetricsSettings) -> Generator[str, None, None]:
    """Answer ``GET /metrics`` while the block runs; give the address, whose port is a free one where 0 is asked for.

    Raises:
        MachineError: if the address cannot be had.
    """
    host, port = settings.host, settings.port or 0
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = _Server(metrics, family, address[:2])
    except OSError as error:
        raise MachineError(
            f"cannot be listened on ({error.strerror})", where=f"{host}:{port}", hint="metrics.port chooses another"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, metrics: NodeMetrics, family: socket.AddressFamily, address: Any) -> None:
        self.metrics, self.address_family = metrics, family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the name of the address, which may ask another machine.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that is gone is no event of the node."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _IDLE_S
    server_version, sys_version = "chexmix", ""
    server: _Server

    def do_GET(self) -> None:
        """Answer with all metrics."""
        authorization, host = self.headers.get("Authorization", ""), self.headers.get("Host", "")
        refusal = self.server.metrics.access.refusal(authorization=authorization, host=host)
        if refusal is not None:
            self.send_error(_STATUS[refusal[0]])
            return
        if self.path != "/metrics":
            self.send_error(404)
            return
        content = self.server.metrics.text()
        self.send_response(200)
        for name, value in (("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: what is asked for could hold anything."""
