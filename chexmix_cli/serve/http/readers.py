"""Films read in processes of their own: a file that crashes or hangs a decoder costs its request, not the server."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from chexmix_cli.core.errors import ChexmixError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Job, attempt
from chexmix_cli.library.jobs.workers import StandingWorker
from chexmix_cli.serve.http.errors import refusal_of, refusal_of_foreign
from chexmix_cli.serve.http.logs import log_exception

#: Seconds that a process may take to start.
_START_S = 60.0
_LOG = logging.getLogger("chexmix")


class Readers:
    """Reads films for the event loop.

    Args:
        count: processes; 0 reads in this process, one film after the other and without a limit on time.
        limit_s: seconds that one film may take.
    """

    def __init__(self, count: int, limit_s: float) -> None:
        self._limit_s = limit_s
        # Decoding changes process-wide state (core/data/dicom/file.py: quiet): never two films in one process.
        self._threads = ThreadPoolExecutor(max(1, count), "reader")
        self._workers = [StandingWorker() for _ in range(count)]
        self._idle: SimpleQueue[StandingWorker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def start(self) -> None:
        """Start the processes, which takes a second."""
        for worker in self._workers:
            worker.attempt(Job("", int, can_travel=True), timeout_s=_START_S)

    async def read(self, job: Job[Film], param: str) -> Film:
        """Return a film.

        Args:
            job: that reads it.
            param: the request's field it came in.

        Raises:
            RefusedError: with the reason's code, if it cannot be read.
        """
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._attempt, job)
        except Exception as error:
            log_exception(_LOG, error, during="read")
            raise refusal_of_foreign(error) from None
        if isinstance(found, ChexmixError):
            raise refusal_of(found, param=param)
        return found

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _attempt(self, job: Job[Film]) -> Film | ChexmixError:
        if not self._workers:
            return attempt(job)
        worker = self._idle.get()
        try:
            return worker.attempt(job, timeout_s=self._limit_s)
        finally:
            self._idle.put(worker)
