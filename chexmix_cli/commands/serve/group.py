"""``chexmix serve``: one file a protocol."""

from __future__ import annotations

import typer

from chexmix_cli.commands.serve.http import http

app = typer.Typer(help="Answer requests of other programs, over HTTP.")
app.command("http")(http)
