"""``chexmix serve http``: the model behind a local HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Bits, Preset, Sets
from chexmix_cli.core.errors import missing_package
from chexmix_cli.core.settings.serving import ServeHttpSettings

Host = Annotated[
    str | None,
    typer.Option("--host", metavar="NAME", help="Listen there. Default: 127.0.0.1; others need a token."),
    Sets("server.host"),
]
Port = Annotated[
    int | None,
    typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on. Default: 8000; 0 takes a free one."),
    Sets("server.port"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="File of the bearer token. Default: CHEXMIX_TOKEN, if it is set."
    ),
]


@command(ServeHttpSettings, *MODEL, "seed")
def http(
    call: Call[ServeHttpSettings],
    host: Host = None,
    port: Port = None,
    token_file: TokenFile = None,
    quantize: Bits = None,
    preset: Preset = None,
) -> int:
    """Answer requests over HTTP: reports as chat completions, tokenize, classify, embed, inpaint.

    Films come inside the requests, as data: URLs; nothing is fetched and nothing is written to the disk. Requests that
    wait are worked on together. SIGTERM lets those that were taken in be answered. Needs the extra `serve`.

    Examples:

        chexmix serve http

        CHEXMIX_TOKEN=$(openssl rand -hex 32) chexmix serve http --host 0.0.0.0 --set server.queue=32
    """
    try:
        from chexmix_cli.serve.http.server import serve
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), "serve", where="chexmix serve http") from None
    options, settings = call.options, call.settings
    return serve(
        options.open_model(settings.input, quantize=settings.quantize),
        settings,
        seed=options.seed,
        token_file=token_file,
        is_verbose=options.is_verbose,
        is_quiet=options.is_quiet,
    )
