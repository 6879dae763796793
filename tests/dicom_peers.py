"""Peers of a DICOM node for tests: films to send, an association to send them by, and an archive that stores."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

pytest.importorskip("pynetdicom", reason="the extra clinical is not installed")

from pynetdicom import AE, evt

PATIENT = "Zephyranthes^Ada"


def film(seed: int = 1, *, side: int = 96, study: str | None = None, view: str = "PA", part: str = "CHEST") -> Dataset:
    """Return a small computed radiograph, each with UIDs of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    pixels = np.clip(60 + 120 * y + 40 * np.sin(9 * x * rng.uniform(0.5, 2)), 0, 255).astype(np.uint8)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = study or generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = PATIENT, f"PID-{seed}", f"ACC-{seed}"
    dataset.StudyDate, dataset.StudyTime = "20240229", "101112"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", part, view
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    return dataset


def send(port: int, datasets: Sequence[Dataset], *, caller: str = "MODALITY", called: str = "CHEXMIX") -> list[Any]:
    """Send films, each again in another association if there is no answer; return the status of each, or None.

    On a busy machine pynetdicom now and then takes the answer from its own sender, which then waits in vain.
    """
    found: list[Any] = []
    for _ in range(2 * len(datasets)):
        if len(found) == len(datasets):
            break
        with associated(port, datasets, caller=caller, called=called) as association:
            while association.is_established and len(found) < len(datasets):
                status = association.send_c_store(datasets[len(found)]).get("Status")
                if status is not None:
                    found.append(status)
    return found + [None] * (len(datasets) - len(found))


@contextmanager
def associated(
    port: int,
    datasets: Sequence[Dataset],
    *,
    caller: str = "MODALITY",
    called: str = "CHEXMIX",
    context: ssl.SSLContext | None = None,
) -> Iterator[Any]:
    """Give an association for the classes and syntaxes of some films."""
    ae = AE(ae_title=caller)
    ae.dimse_timeout = 10
    ae.add_requested_context("1.2.840.10008.1.1")
    for sop_class, syntax in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets}:
        ae.add_requested_context(sop_class, syntax)
    ae.connection_timeout = 10
    tls = None if context is None else (context, "127.0.0.1")
    association = ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


@dataclass
class Archive:
    """A peer that stores structured reports.

    Attributes:
        port: it listens on.
        documents: as stored, once each; ``num_sent`` counts what came.
        answer: the status of the next documents.
    """

    port: int
    documents: dict[str, Dataset] = field(default_factory=dict)
    num_sent: int = 0
    answer: int = 0x0000
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, event: Any) -> int:
        with self.changed:
            self.num_sent += 1
            if self.answer == 0x0000:
                dataset = event.dataset
                dataset.file_meta = event.file_meta
                self.documents[dataset.SOPInstanceUID] = dataset
            self.changed.notify_all()
            return self.answer

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until something is true of what was stored."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), f"{self.num_sent} documents came"


@contextmanager
def listening_archive(port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Archive]:
    """Give a peer ``ARCHIVE`` that stores what it is sent, on a free port unless one is named."""
    found = Archive(0)
    ae = AE(ae_title="ARCHIVE")
    ae.require_called_aet = True
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.88.11")
    handlers = [(evt.EVT_C_STORE, found.take)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context)
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        ae.shutdown()


@dataclass
class Node:
    """A running node, and the events it has written."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.events.append(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many events of a name were written, and return them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.named(name)) >= count, 90), self.events
        return self.named(name)

    @property
    def port(self) -> int:
        return int(self.wait_for("started")[0]["port"])

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit code and what was said on stderr."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


@contextmanager
def running_node(arguments: Sequence[str], repository: Path) -> Iterator[Node]:
    """Give a ``chexmix serve dicom`` on a free port of this machine; it is killed at the end, if it still runs."""
    command = [sys.executable, "-m", "chexmix_cli", "serve", "dicom", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository)
    node = Node(process)
    reader = threading.Thread(target=node.read, daemon=True)
    reader.start()
    try:
        yield node
    finally:
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def allow_open_sockets(item: pytest.Item) -> None:
    """pynetdicom leaves the sockets of connections that fail to the garbage collector, whenever that comes."""
    for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        item.add_marker(pytest.mark.filterwarnings(f"ignore::{name}"))
