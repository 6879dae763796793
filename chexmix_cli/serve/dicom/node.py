"""The node put together: a receiver and a delivery in threads of their own, and reports in the one that runs it."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.files import held
from chexmix_cli.core.settings.dicom_node import ServeDicomSettings
from chexmix_cli.serve.dicom.delivery import Delivery
from chexmix_cli.serve.dicom.destinations import Destination
from chexmix_cli.serve.dicom.peers import Peer
from chexmix_cli.serve.dicom.queue import StudyQueue
from chexmix_cli.serve.dicom.receiver import Note, Receiver, silence_libraries
from chexmix_cli.serve.dicom.reporting import StudyReporter

if TYPE_CHECKING:
    from chexmix_cli.serve.dicom.metrics import NodeMetrics

#: Between two looks for a study that is whole, in seconds.
_PAUSE_S = 0.1
_SECONDS_BETWEEN_PRUNES = 3600.0
#: Hashed with the salt, it marks a queue: its names were made with that salt.
_MARKED = "queue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a node listens, and to whom.

    Attributes:
        ae_title: of its own.
        host, port: that it is bound to; port 0 takes a free one.
        peers: that may send.
        context: of TLS; None speaks none.
    """

    ae_title: str
    host: str
    port: int
    peers: Sequence[Peer]
    context: ssl.SSLContext | None = None


class Node:
    """Receives, reports and sends until it is stopped.

    Args:
        queue: folder of the queue.
        place: where it listens.
        reporter: makes results of studies.
        destination: of results.
        settings: of all parts.
        note: hears of everything that happens, one event at a time.
        metrics: counts it, and is shown where ``settings.metrics`` says; None is not.
    """

    def __init__(
        self,
        queue: Path,
        place: Place,
        reporter: StudyReporter,
        destination: Destination,
        settings: ServeDicomSettings,
        note: Note,
        metrics: NodeMetrics | None = None,
    ) -> None:
        self._folder, self._place, self._reporter, self._destination = queue, place, reporter, destination
        self._settings, self._lock, self._unlocked_note, self._metrics = settings, threading.Lock(), note, metrics
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """End in order: what is being reported is finished, the rest stays in the queue. Safe in a signal handler."""
        self._is_stopped.set()

    def run(self) -> None:
        """Work until :meth:`stop`.

        Raises:
            MachineError: if the address cannot be had, or another process has the queue.
            SettingsError: if the queue is of another salt.
            OSError: if the queue can no longer be written.
        """
        silence_libraries()
        settings, ids = self._settings, IdMaker()
        with held(self._folder), ExitStack() as stack:
            queue = StudyQueue(self._folder, salt_mark=ids.of_secret(_MARKED))
            receiver = Receiver(
                queue,
                ids,
                settings.receive,
                ae_title=self._place.ae_title,
                peers=self._place.peers,
                max_bytes=settings.input.max_file_mb << 20,
                note=self._note,
            )
            shown = self._show(queue, receiver, stack)
            port = receiver.start(self._place.host, self._place.port, self._place.context)
            delivery = Delivery(queue, self._destination, settings.send, self._note)
            delivery.start()
            place = self._place
            about = {"ae_title": place.ae_title, "host": place.host, "port": port, "tls": place.context is not None}
            self._note("started", **about, **shown, **queue.counts())
            try:
                self._work(queue, delivery)
            finally:
                receiver.stop(settings.queue.grace_seconds)
                delivery.stop()
            self._note("stopped", **queue.counts())

    def _show(self, queue: StudyQueue, receiver: Receiver, stack: ExitStack) -> dict[str, str]:
        """Show metrics until a stack is left; return the field that says where."""
        if self._metrics is None:
            return {}
        from chexmix_cli.serve.dicom.metrics import shown

        self._metrics.show(queue, receiver)
        return {"metrics": stack.enter_context(shown(self._metrics, self._settings.metrics))}

    def _work(self, queue: StudyQueue, delivery: Delivery) -> None:
        next_prune_s = 0.0
        while not self._is_stopped.is_set():
            delivery.check()
            if time.monotonic() >= next_prune_s:
                queue.prune(self._settings.queue.keep_days)
                next_prune_s = time.monotonic() + _SECONDS_BETWEEN_PRUNES
            study = queue.claim(self._settings.receive.quiet_seconds)
            if study is None:
                self._is_stopped.wait(_PAUSE_S)
            else:
                self._report(queue, study)
                delivery.wake()

    def _report(self, queue: StudyQueue, study: Path) -> None:
        started = time.perf_counter()
        most = self._settings.queue.most_attempts
        if queue.begin_attempt(study) > most:
            queue.refuse(study, "CRASHED", f"the process ended {most} times while it was being reported")
            self._note("quarantined", id=study.name, code="CRASHED")
            return
        outcome = self._reporter(study)
        if outcome.num_reports:
            queue.reported(study)
            seconds = round(time.perf_counter() - started, 3)
            codes = sorted(error["code"] for error in outcome.refused)
            about = {"refused": codes} if codes else {}
            self._note("reported", id=study.name, reports=outcome.num_reports, seconds=seconds, **about)
            return
        code, message = _reason(outcome.refused)
        queue.refuse(study, code, message)
        self._note("quarantined", id=study.name, code=code)

    def _note(self, event: str, **about: object) -> None:
        with self._lock:
            # Counted first: who reads of an event finds it in the metrics.
            if self._metrics is not None:
                self._metrics.note(event, about)
            self._unlocked_note(event, **about)


def _reason(refused: Sequence[dict[str, str]]) -> tuple[str, str]:
    """Return one code and one message for a study of which nothing can be reported."""
    codes = list(dict.fromkeys(error["code"] for error in refused))
    messages = list(dict.fromkeys(error["message"] for error in refused))
    return ",".join(codes), "; ".join(messages)
