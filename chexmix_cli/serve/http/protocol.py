"""uvicorn's HTTP/1.1 protocol, with a limit on how long the head of a request may take.

uvicorn limits how long a connection idles between requests, and nothing before the first one or within a head: a client
that sends a byte a minute would hold a connection for ever (RFC 9110 has 408 for it; nobody reads it, so none is sent).
The same limit holds for the rest of a body that nobody reads any more, after a refusal.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded_protocol(head_s: float) -> type[H11Protocol]:
    """Return the protocol's class, for ``uvicorn.Config(http=...)``.

    Args:
        head_s: seconds from a connection's begin, or from the first byte of a further request, to its last header.
    """

    class BoundedProtocol(H11Protocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._await_head()
            else:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            self._stop_waiting()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._limit is None and not self.transport.is_closing():
                self._limit = self.loop.call_later(head_s, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

    return BoundedProtocol
