"""The queue and the thread that works it off: batches of what waits, the oldest request deciding what kind of batch.

An engine's batch takes no rows in once it has begun (``core/infer/decoding/engine.py``), so requests that come
meanwhile wait for its end and are then taken together. None is held back in hope of more: an idle model begins at
once. Nobody starves: each batch holds the request that has waited longest, and others of its kind in the order they
came.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from chexmix_cli.core.errors import ChexmixError
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.serve.http.errors import RefusedError, refusal_of, refusal_of_foreign
from chexmix_cli.serve.http.logs import log_exception
from chexmix_cli.serve.http.metrics import Metrics
from chexmix_cli.serve.http.verbs import Served, Verb

_LOG = logging.getLogger("chexmix")
#: How much of the mean time a film takes is that of the latest batch.
_NEWEST_SHARE = 0.2
#: Seconds that the thread gets to end by itself.
_PATIENCE_S = 5.0


class Ticket:
    """One film in the queue: made in the event loop, finished by the model's thread, awaited in the loop again.

    Args:
        verb: what is done with it.
        film: as read.
        seed: of what is sampled for it.
        on_text: called in the loop with each piece of a report's text.

    Attributes:
        result: what the verb gives, or :class:`RefusedError`.
        waited_s, batch_size: how long it waited, and in whose company it was worked on, once it was begun.
    """

    def __init__(self, verb: Verb, film: Film, seed: int, on_text: Callable[[str], None] | None = None) -> None:
        self.verb, self.film, self.seed = verb, film, seed
        self._loop, self._on_text = asyncio.get_running_loop(), on_text
        self.result: asyncio.Future[Any] = self._loop.create_future()
        self._entered = time.perf_counter()
        self.waited_s: float | None = None
        self.batch_size = 0

    @property
    def is_over(self) -> bool:
        """Return whether nobody waits for it any more."""
        return self.result.done()

    def drop(self) -> None:
        """Give it up: if it has not been begun, it never will be."""
        self.result.cancel()

    def begin(self, batch_size: int) -> None:
        """Take note that it is worked on."""
        self.waited_s, self.batch_size = time.perf_counter() - self._entered, batch_size

    def give_text(self, piece: str) -> None:
        """Hand a piece of text to the loop."""
        if self._on_text is not None:
            self._call(partial(self._on_text, piece))

    def finish(self, result: Any) -> None:
        """Hand the result, or the reason why there is none, to the loop."""
        self._call(partial(self._set, result))

    def _call(self, function: Callable[[], None]) -> None:
        # The loop may be gone: the server has stopped, and nobody waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def _set(self, result: Any) -> None:
        if self.result.done():
            return
        if isinstance(result, RefusedError):
            self.result.set_exception(result)
        else:
            self.result.set_result(result)


class Queue:
    """Tickets that wait; filled by the event loop, emptied by the model's thread."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, ticket: Ticket) -> None:
        """Add a ticket at the end."""
        with self._changed:
            self._tickets.append(ticket)
            self._changed.notify()

    def take(self, most: int) -> list[Ticket] | None:
        """Wait for tickets; return the oldest, and as many others of its kind as fit; None once it is closed."""
        with self._changed:
            while True:
                waiting = [ticket for ticket in self._tickets if not ticket.is_over]
                if self._is_closed:
                    return None
                if waiting:
                    break
                self._tickets.clear()
                self._changed.wait()
            batch = [ticket for ticket in waiting if ticket.verb == waiting[0].verb][:most]
            chosen = set(map(id, batch))
            self._tickets = deque(ticket for ticket in waiting if id(ticket) not in chosen)
            return batch

    def empty(self) -> list[Ticket]:
        """Return all that wait, and hold none of them any more."""
        with self._changed:
            waiting = list(self._tickets)
            self._tickets.clear()
            return waiting

    def close(self) -> None:
        """Let the thread that takes from it end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class ModelThread:
    """Works off a queue with one model.

    Args:
        served: the model.
        metrics: are told of each batch.

    Attributes:
        queue: of tickets.
        pace_s: seconds that a film takes, as lately measured.
    """

    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served, self._metrics = served, metrics
        self.queue = Queue()
        self.pace_s = 0.0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Return whether it works."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End after the batch that is worked on, if that is soon."""
        self.queue.close()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while (batch := self.queue.take(self._served.settings.input.batch_size)) is not None:
            started = time.perf_counter()
            for ticket in batch:
                ticket.begin(len(batch))
            results = self._results(batch)
            seconds = time.perf_counter() - started
            newest = seconds / len(batch)
            self.pace_s = newest if not self.pace_s else _NEWEST_SHARE * newest + (1 - _NEWEST_SHARE) * self.pace_s
            self._metrics.batch(batch[0].verb.name, len(batch), seconds, [ticket.waited_s or 0.0 for ticket in batch])
            # Counted before it is answered: who has an answer finds it in the metrics.
            for ticket, result in zip(batch, results, strict=True):
                ticket.finish(result)

    def _results(self, batch: list[Ticket]) -> list[Any]:
        verb = batch[0].verb
        jobs = [Job("", partial(_itself, ticket)) for ticket in batch]
        try:
            found = list(run_batches(iter(jobs), lambda tickets: verb(self._served, tickets), batch_size=len(batch)))
        except ChexmixError as error:
            log_exception(_LOG, error, during=verb.name)
            return [refusal_of(error)] * len(batch)
        except Exception as error:  # a bug costs its batch, not the server
            log_exception(_LOG, error, during=verb.name)
            return [refusal_of_foreign(error)] * len(batch)
        return [refusal_of(one) if isinstance(one, ChexmixError) else one for _, one in found]


def _itself(ticket: Ticket) -> Ticket:
    return ticket
