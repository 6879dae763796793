"""``chexmix retrieve``: an index of images and reports, and queries to it. Each command has a file."""

from __future__ import annotations

import typer

from chexmix_cli.commands.retrieve.index import index
from chexmix_cli.commands.retrieve.query import query

app = typer.Typer(help="Find reports for an image, or images for a text.")
app.command("index")(index)
app.command("query")(query)
