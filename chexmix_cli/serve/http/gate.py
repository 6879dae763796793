"""What stands in front of the application: who may ask, how much, how long; one log line and one count an answer.

A request passes in this order: token (or host), place in the queue, kind and size of the body, the body itself, all the
rest under one limit on time. Only what has passed is parsed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from chexmix_cli.core.settings.serving import HttpSettings
from chexmix_cli.serve.access import Access
from chexmix_cli.serve.http.batching import Ticket
from chexmix_cli.serve.http.errors import RefusedError, refusal_of_foreign
from chexmix_cli.serve.http.logs import log_event, log_exception
from chexmix_cli.serve.http.metrics import Metrics

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("chexmix")
#: Paths that tell nothing but what is in the source code, and whether the server lives.
OPEN_PATHS = ("/health", "/docs", "/openapi.json")
#: Paths as logs and metrics name them; what else is asked for could hold anything.
PATHS = (*OPEN_PATHS, "/metrics", "/v1/models", "/v1/chat/completions", "/tokenize", "/classify", "/embed", "/inpaint")
#: Asked for every few seconds by machines: logged only where something is wrong.
_PROBES = ("/health", "/metrics")
_OK, _GONE = 200, 499
_LONGEST_RETRY_S = 60


@dataclass
class Exchange:
    """What is noted of one request, for the log; the application adds to it.

    Attributes:
        id: random; the answer's ``X-Request-Id``.
        code: of the refusal, if it is one.
        status: of the answer, once it has begun.
        is_complete: the answer is sent.
        notes: further fields of the log line: sizes, times and counts.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.perf_counter)
    code: str | None = None
    status: int | None = None
    is_complete: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return how long it has lasted."""
        return time.perf_counter() - self.started

    def note_work(self, tickets: list[Ticket]) -> None:
        """Note how films were worked on."""
        begun = [ticket for ticket in tickets if ticket.waited_s is not None]
        if begun:
            self.notes["queue_ms"] = round(1000 * max(ticket.waited_s or 0.0 for ticket in begun))
            self.notes["batch"] = max(ticket.batch_size for ticket in begun)


class Gate:
    """The ASGI application in front of the application.

    Args:
        app: behind it.
        settings: limits.
        token: that requests must bring, or None: then they must come from this machine, by its own name.
        metrics: are told of each answer.
        pace: gives the seconds that a film takes at present.

    Attributes:
        taken: requests with a body that are taken in and not yet answered.
        held: bytes of their bodies.
        is_stopping: no further ones are taken.
    """

    def __init__(
        self, app: App, settings: HttpSettings, token: str | None, metrics: Metrics, pace: Callable[[], float]
    ) -> None:
        self._app, self._settings, self._metrics, self._pace = app, settings, metrics, pace
        self._access = Access(token)
        self._max_bytes = settings.max_body_mb << 20
        self._most_held = settings.max_held_mb << 20
        self.taken, self.held, self.is_stopping = 0, 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = scope["exchange"] = Exchange()
        try:
            async with asyncio.timeout(self._settings.answer_s):
                await self._pass(scope, receive, _noting(exchange, send))
        except RefusedError as refused:
            await _answer(refused, exchange, send)
        except TimeoutError:
            limit = f"the answer took more than {self._settings.answer_s:g} s"
            await _answer(RefusedError("OUT_OF_TIME", limit, retry_after_s=self._retry_s()), exchange, send)
        except Exception as error:
            log_exception(_LOG, error, during="request")
            await _answer(refusal_of_foreign(error), exchange, send)
        finally:
            self._conclude(scope, exchange)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] not in OPEN_PATHS:
            refusal = self._access.refusal(authorization=headers.get("authorization", ""), host=headers.get("host", ""))
            if refusal is not None:
                raise RefusedError(*refusal)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._require_place()
        self.taken += 1
        parts: list[bytes] = []
        try:
            body = await self._body(headers, receive, parts)
            scope["exchange"].notes["bytes_in"] = len(body)
            await self._run(scope, body, receive, send)
        finally:
            self.taken -= 1
            self.held -= sum(map(len, parts))

    def _require_place(self) -> None:
        if self.is_stopping:
            raise RefusedError("STOPPING", "the server is stopping", retry_after_s=self._retry_s())
        if self.taken >= self._settings.queue:
            limit = f"{self._settings.queue} requests wait or are worked on, as many as are taken (server.queue)"
            raise RefusedError("QUEUE_FULL", limit, retry_after_s=self._retry_s())

    def _retry_s(self) -> int:
        """Return the seconds until about half of what waits is done."""
        return min(_LONGEST_RETRY_S, max(1, round(self._pace() * self.taken / 2)))

    async def _body(self, headers: dict[str, str], receive: Receive, parts: list[bytes]) -> bytes:
        """Return the body, read under the limits on size and time; what came of it is in ``parts``."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError("BAD_CONTENT_TYPE", "a body of another type; expected Content-Type: application/json")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError("CLIENT_GONE", "the client is gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self.held += len(parts[-1])
                    if self.held > self._most_held:
                        held = f"the requests in work hold {self._most_held >> 20} MiB, as much as is taken"
                        again = self._retry_s()
                        raise RefusedError("QUEUE_FULL", f"{held} (server.max_held_mb)", retry_after_s=again)
                    if size > self._max_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        body = b"".join(parts)
                        # One copy is enough.
                        parts[:] = [body]
                        return body
        except TimeoutError:
            limit = f"the body took more than {self._settings.body_s:g} s to arrive (server.body_s)"
            raise RefusedError("TOO_SLOW", limit) from None

    def _too_large(self) -> RefusedError:
        return RefusedError(
            "TOO_LARGE", f"the body has more than {self._settings.max_body_mb} MiB (server.max_body_mb)"
        )

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application on a body; if the client goes, what it waits for is given up."""
        is_given, gone = False, asyncio.Event()

        async def replay() -> Message:
            nonlocal is_given
            if not is_given:
                is_given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        work = asyncio.ensure_future(self._app(scope, replay, send))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not scope["exchange"].is_complete:
                raise RefusedError("CLIENT_GONE", "the client is gone")
            await work
        finally:
            for task in (work, watcher):
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.gather(work, watcher, return_exceptions=True)

    def _conclude(self, scope: Scope, exchange: Exchange) -> None:
        path = next((one for one in PATHS if scope["path"] == one or scope["path"].startswith(f"{one}/")), "other")
        status = exchange.status or _GONE
        self._metrics.answered(path, status, exchange.code, exchange.seconds)
        if path in _PROBES and status == _OK:
            return
        client = scope.get("client")
        log_event(
            _LOG,
            "request",
            request=exchange.id,
            client=None if client is None else client[0],
            method=scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other",
            path=path,
            status=status,
            code=exchange.code,
            ms=round(1000 * exchange.seconds),
            **exchange.notes,
        )


def _noting(exchange: Exchange, send: Send) -> Send:
    """Return a ``send`` that notes the status, and adds the headers that all answers have."""

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            own = [
                (b"x-request-id", exchange.id.encode()),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        elif message["type"] == "http.response.body":
            exchange.is_complete = not message.get("more_body", False)
        await send(message)

    return noting


async def _answer(refused: RefusedError, exchange: Exchange, send: Send) -> None:
    """Answer with a refusal, unless an answer has begun or nobody is there to read it."""
    exchange.code = refused.code
    if exchange.status is not None or refused.code == "CLIENT_GONE":
        if exchange.status is None:
            exchange.status = refused.status
        return
    body = json.dumps(refused.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers()}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    sender = _noting(exchange, send)
    await sender({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await sender({"type": "http.response.body", "body": body})
