"""``chexmix evaluate``: metrics and protocols. Each task has a file; this one holds the table of them."""

from __future__ import annotations

import typer

from chexmix_cli.commands.evaluate.classification import evaluate_classification
from chexmix_cli.commands.evaluate.diff import diff
from chexmix_cli.commands.evaluate.inpainting import evaluate_inpainting
from chexmix_cli.commands.evaluate.report import evaluate_report
from chexmix_cli.commands.evaluate.retrieval import evaluate_retrieval
from chexmix_cli.commands.evaluate.rexrank import rexrank
from chexmix_cli.commands.evaluate.table import table

app = typer.Typer(help="Measure reports, classification, retrieval or inpainting.")

app.command("diff")(diff)
app.command("table")(table)
app.command("classification")(evaluate_classification)
app.command("inpainting")(evaluate_inpainting)
app.command("rexrank")(rexrank)
app.command("report")(evaluate_report)
app.command("retrieval")(evaluate_retrieval)
