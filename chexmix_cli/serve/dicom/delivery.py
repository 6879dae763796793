"""The thread that sends results, with growing pauses while the destination does not take them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from chexmix_cli.core.settings.dicom_node import SendSettings
from chexmix_cli.serve.dicom.destinations import Destination, RefusedError, UnreachableError
from chexmix_cli.serve.dicom.queue import DOCUMENTS, StudyQueue
from chexmix_cli.serve.dicom.receiver import Note


class Delivery:
    """Sends what the queue has to send, one study after the other, until it is stopped.

    Args:
        queue: gives the studies, and is told what became of them.
        destination: of their documents.
        settings: of pauses and refusals.
        note: hears of what was sent, and what was not.
    """

    def __init__(self, queue: StudyQueue, destination: Destination, settings: SendSettings, note: Note) -> None:
        self._queue, self._destination, self._settings, self._note = queue, destination, settings, note
        self._num_failures = 0
        self._refusals: Counter[str] = Counter()
        self._is_stopped = threading.Event()
        self._has_more = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send."""
        self._has_more.set()

    def check(self) -> None:
        """Raise what ended the thread, if anything did: a full disk, for one."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End once the study that is being sent is through; the others stay in the queue."""
        self._is_stopped.set()
        self._has_more.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._is_stopped.is_set():
                self._has_more.clear()
                pause_s = self._send_all()
                if pause_s:
                    self._is_stopped.wait(pause_s)
                else:
                    self._has_more.wait()
        except BaseException as error:  # handed to the thread that reports, which ends the node
            self._error = error

    def _send_all(self) -> float:
        """Send what waits; return the seconds until it is worth trying again, 0 if nothing is left."""
        has_refusals = False
        for study in self._queue.to_send():
            if self._is_stopped.is_set():
                return 0.0
            try:
                self._send(study)
            except UnreachableError as error:
                return self._pause(study, str(error))
            except RefusedError as error:
                has_refusals |= self._take_refusal(study, str(error))
            else:
                self._num_failures = 0
        return self._pause_s() if has_refusals else 0.0

    def _send(self, study: Path) -> None:
        started = time.perf_counter()
        documents = sorted((study / DOCUMENTS).iterdir())
        self._destination.send(documents)
        seconds = round(time.perf_counter() - started, 3)
        after_seconds = round(self._queue.age_s(study), 3)
        self._queue.delivered(study, documents=len(documents))
        self._refusals.pop(study.name, None)
        self._note("sent", id=study.name, documents=len(documents), seconds=seconds, after_seconds=after_seconds)

    def _pause(self, study: Path, reason: str) -> float:
        pause_s = self._pause_s()
        self._num_failures += 1
        self._note("not sent", id=study.name, reason=reason, again_in_seconds=pause_s)
        return pause_s

    def _pause_s(self) -> float:
        """Return the next pause: doubled with each failure in a row, up to the longest."""
        longest = self._settings.most_wait_seconds
        # A power large enough to overflow is the longest anyway.
        return min(longest, self._settings.first_wait_seconds * 2.0 ** min(self._num_failures, 30))

    def _take_refusal(self, study: Path, reason: str) -> bool:
        """Count a refusal; return whether the study stays in the queue."""
        self._refusals[study.name] += 1
        number = self._refusals[study.name]
        self._note("not sent", id=study.name, reason=reason, refusals=number)
        if number < self._settings.most_refusals:
            return True
        del self._refusals[study.name]
        self._queue.refuse(study, "NOT_DELIVERED", f"the destination refused it {number} times: {reason}")
        self._note("quarantined", id=study.name, code="NOT_DELIVERED")
        return False
