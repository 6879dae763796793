"""``chexmix serve``: programs that stay and work for others."""

from __future__ import annotations

import typer

from chexmix_cli.commands.serve.dicom import serve_dicom

app = typer.Typer(help="Work for other programs: a DICOM node.")

app.command("dicom")(serve_dicom)
