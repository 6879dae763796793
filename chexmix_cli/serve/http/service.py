"""The parts of one server, put together: films read, queued, worked on; reports as chat completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import ChexmixError
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.serve.http.batching import ModelThread, Ticket
from chexmix_cli.serve.http.errors import RefusedError, refusal_of
from chexmix_cli.serve.http.gate import Exchange
from chexmix_cli.serve.http.images import read_data_url
from chexmix_cli.serve.http.metrics import Metrics
from chexmix_cli.serve.http.readers import Readers
from chexmix_cli.serve.http.verbs import Served, Verb

if TYPE_CHECKING:
    from chexmix_cli.library.films import Film


class Service:
    """A served model with its readers, its queue and its thread.

    Args:
        served: the model.
    """

    def __init__(self, served: Served) -> None:
        self.served, self.metrics = served, Metrics()
        settings = served.settings
        self.readers = Readers(settings.input.workers, settings.server.read_s)
        self.model = ModelThread(served, self.metrics)
        self.started = int(time.time())
        #: Nobody's request is worked on any more, if it has not been begun.
        self._has_given_up = False
        weights = served.model.weights
        self.metrics.describe(weights.name, weights.fingerprint)
        self.metrics.watch("chexmix_queue_films", "Films that wait for the model.", lambda: len(self.model.queue))
        self.metrics.watch("chexmix_ready", "1 while the model works.", lambda: float(self.model.is_alive))

    @property
    def name(self) -> str:
        """Return the model's name in requests and answers."""
        return self.served.model.weights.name

    def start(self) -> None:
        """Load the model and begin to work."""
        self.readers.start()
        self.served.load()
        self.model.start()

    def give_up(self) -> None:
        """Refuse what waits: the server is stopping and its time is over."""
        self._has_given_up = True
        for ticket in self.model.queue.empty():
            ticket.finish(RefusedError("STOPPING", "the server is stopping", retry_after_s=1))

    def close(self) -> None:
        """End threads and processes."""
        self.model.close()
        self.readers.close()

    async def film(self, url: str, param: str, *, film_id: str = "image", keeps_picture: bool = False) -> Film:
        """Return the film of a ``data:`` URL.

        Raises:
            RefusedError: if there is none, or it cannot be read.
        """
        data = read_data_url(url, param)
        reader = self.served.model.reader(keeps_picture=keeps_picture)
        return await self.readers.read(reader.bytes_job(data, film_id), param)

    def submit(
        self, verb: Verb, film: Film, seed: int | None = None, on_text: Callable[[str], None] | None = None
    ) -> Ticket:
        """Put a film into the queue."""
        if self._has_given_up:
            raise RefusedError("STOPPING", "the server is stopping", retry_after_s=1)
        ticket = Ticket(verb, film, self.served.seed if seed is None else seed, on_text)
        self.model.queue.put(ticket)
        return ticket

    async def results(self, tickets: Sequence[Ticket], exchange: Exchange) -> list[Any]:
        """Wait for films in the queue; if nobody waits any more, they leave it.

        Raises:
            RefusedError: if one of them gives no result.
        """
        try:
            return list(await asyncio.gather(*(ticket.result for ticket in tickets)))
        finally:
            exchange.note_work(list(tickets))
            for ticket in tickets:
                ticket.drop()

    async def record(
        self, verb: Verb, url: str, film_id: str, exchange: Exchange, *, keeps_picture: bool = False
    ) -> dict[str, Any]:
        """Return the record of one film."""
        film = await self.film(url, "image", film_id=film_id, keeps_picture=keeps_picture)
        (fields,) = await self.results([self.submit(verb, film)], exchange)
        return {"id": film_id, "status": "ok", **fields}


def decode_settings(own: DecodeSettings, changes: dict[str, Any]) -> DecodeSettings:
    """Return the settings a request's report is decoded with.

    Args:
        own: the server's.
        changes: what the request says; None is not said.

    Raises:
        RefusedError: if they do not go together.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    most = given.get("max_new_tokens", own.max_new_tokens)
    # A request that asks for fewer tokens than reports have at least, means it.
    given["min_new_tokens"] = min(own.min_new_tokens, most)
    try:
        return replace(own, **given)
    except ChexmixError as error:
        raise refusal_of(error) from None


@dataclass(frozen=True)
class Piece:
    """A piece of one report's text, or (with ``text`` None) its end."""

    choice: int
    text: str | None


async def pieces(tickets: Sequence[Ticket], texts: asyncio.Queue[Piece]) -> AsyncIterator[Piece]:
    """Yield the pieces of reports as they are written, and the end of each.

    Raises:
        RefusedError: if one of them fails.
    """
    for choice, ticket in enumerate(tickets):
        ticket.result.add_done_callback(partial(_end, texts, choice))
    left = len(tickets)
    while left:
        piece = await texts.get()
        if piece.text is None:
            left -= 1
            tickets[piece.choice].result.result()
        yield piece


def _end(texts: asyncio.Queue[Piece], choice: int, result: asyncio.Future[Any]) -> None:
    texts.put_nowait(Piece(choice, None))
