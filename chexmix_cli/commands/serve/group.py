"""``chexmix serve``: its subcommands."""

from __future__ import annotations

import typer

from chexmix_cli.commands.serve.dicom import serve_dicom
from chexmix_cli.commands.serve.http import http

app = typer.Typer(help="Work for other programs: an HTTP server, a DICOM node.")
app.command("http")(http)
app.command("dicom")(serve_dicom)
