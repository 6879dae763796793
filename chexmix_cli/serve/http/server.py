"""From an opened model to a running server, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from chexmix_cli.core.errors import ExitCode, MachineError
from chexmix_cli.core.settings.serving import HttpSettings, ServeHttpSettings
from chexmix_cli.serve.access import read_token
from chexmix_cli.serve.http.app import create_app
from chexmix_cli.serve.http.gate import Gate
from chexmix_cli.serve.http.logs import log_event, start_logging
from chexmix_cli.serve.http.protocol import bounded_protocol
from chexmix_cli.serve.http.service import Service
from chexmix_cli.serve.http.verbs import Served
from chexmix_cli.serve.tls import server_context

if TYPE_CHECKING:
    from chexmix_cli.library.opened import OpenModel

_LOG = logging.getLogger("chexmix")
#: Largest head of a request.
_HEAD_BYTES = 16 << 10
#: Seconds beyond ``server.drain_s`` for the batch that is worked on.
_LAST_BATCH_S = 10


def serve(
    model: OpenModel,
    settings: ServeHttpSettings,
    *,
    seed: int,
    token_file: Path | None = None,
    is_verbose: bool = False,
    is_quiet: bool = False,
) -> ExitCode:
    """Serve a model until a signal stops it; return the exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Args:
        model: opened; loaded before anyone is let in.
        settings: of the server.
        seed: of everything random, where a request names none.
        token_file: holds the token; None: the environment, if there.
        is_verbose: log what uvicorn says, too.
        is_quiet: log errors only.

    Raises:
        SettingsError: if other machines are let in without a token, the token is too short, or a file of TLS no good.
        MachineError: if the port cannot be had.
    """
    token = read_token(token_file, settings.server.host, flag="--token-file", host_name="--host")
    context = server_context(settings.tls)
    listener = _listen(settings.server)
    start_logging(is_verbose=is_verbose, is_quiet=is_quiet)
    service = Service(Served(model, settings, seed))
    with _without_sigpipe():
        server = _run(service, settings.server, token, listener, context)
    log_event(_LOG, "stopped")
    return ExitCode.INTERRUPTED if server.stopped_by == signal.SIGINT else ExitCode.DONE


def _run(
    service: Service,
    settings: HttpSettings,
    token: str | None,
    listener: socket.socket,
    context: ssl.SSLContext | None,
) -> Server:
    """Serve until told to stop; return the server that ran."""
    try:
        service.start()
        server = Server(service, create_app(service, token), settings, context)
        host, port = listener.getsockname()[:2]
        how = {"needs_token": token is not None, "tls": context is not None}
        log_event(_LOG, "listening", host=host, port=port, model=service.name, **how)
        server.run(sockets=[listener])
        return server
    finally:
        listener.close()
        service.close()


@contextlib.contextmanager
def _without_sigpipe() -> Generator[None, None, None]:
    """Let a client that goes in the middle of an answer be an error of its connection, not the end of this process."""
    if not hasattr(signal, "SIGPIPE"):
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


class Server(uvicorn.Server):
    """uvicorn's server, whose end is told to the queue.

    Args:
        service: that answers.
        gate: in front of it.
        settings: limits.
        context: of TLS; None speaks none.

    Attributes:
        stopped_by: the signal that ended it.
    """

    def __init__(
        self, service: Service, gate: Gate, settings: HttpSettings, context: ssl.SSLContext | None = None
    ) -> None:
        self._service, self._gate, self._drain_s = service, gate, settings.drain_s
        self.stopped_by: int | None = None
        config = uvicorn.Config(
            gate,
            http=bounded_protocol(settings.head_s),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_keep_alive=max(1, round(settings.idle_s)),
            timeout_graceful_shutdown=round(settings.drain_s) + _LAST_BATCH_S,
        )
        # Made by us: uvicorn's own takes older ciphers, and files that cannot be read as a bug.
        config.load()
        config.ssl = context
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGTERM and SIGINT. Unlike uvicorn's own, nothing is raised again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop; told a second time, without waiting for anyone."""
        self.force_exit = self.should_exit
        self.should_exit, self.stopped_by = True, sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing in any more; answer what was taken, as far as the time goes."""
        self._gate.is_stopping = True
        log_event(_LOG, "stopping", unanswered=self._gate.taken)
        limit = asyncio.get_running_loop().call_later(self._drain_s, self._service.give_up)
        await super().shutdown(sockets)
        limit.cancel()


def _listen(settings: HttpSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise MachineError(
            f"cannot be listened on ({error.strerror})",
            where=f"{host}:{port}",
            expected="a free port of this machine",
            hint="--port 0 takes a free one",
        ) from None
