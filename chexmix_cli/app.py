"""The Typer app: global options and the command table. Imports no torch; a command loads what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from chexmix_cli import __version__
from chexmix_cli.commands.classify import classify
from chexmix_cli.commands.data import app as data_app
from chexmix_cli.commands.data_shards import info as shards_info
from chexmix_cli.commands.data_shards import merge as merge_shards
from chexmix_cli.commands.evaluate import app as evaluate_app
from chexmix_cli.commands.evaluate_classification import evaluate_classification
from chexmix_cli.commands.evaluate_inpainting import evaluate_inpainting
from chexmix_cli.commands.evaluate_report import evaluate_report
from chexmix_cli.commands.evaluate_retrieval import evaluate_retrieval
from chexmix_cli.commands.evaluate_table import table as evaluate_table
from chexmix_cli.commands.finetune import finetune
from chexmix_cli.commands.generate_report import generate_report
from chexmix_cli.commands.inpaint import inpaint
from chexmix_cli.commands.plan import app as plan_app
from chexmix_cli.commands.pretrain import pretrain
from chexmix_cli.commands.retrieve import app as retrieve_app
from chexmix_cli.commands.tokenize import tokenize
from chexmix_cli.commands.weights import app as weights_app

app = typer.Typer(
    name="chexmix",
    help="CheXmix: chest radiographs and their reports as one sequence of tokens.",
    epilog="Results are preliminary and unverified; not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: half the start-up time would go into drawing boxes, and it reads the same in a pipe and in a log.
    rich_markup_mode=None,
    # Tracebacks never show values: they may be a patient's.
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"chexmix {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """CheXmix: chest radiographs and their reports as one sequence of tokens."""


app.command("tokenize")(tokenize)
app.command("pretrain")(pretrain)
app.command("finetune")(finetune)
app.command("generate-report")(generate_report)
app.command("inpaint")(inpaint)
app.command("classify")(classify)
data_app.command("merge")(merge_shards)
data_app.command("info")(shards_info)
evaluate_app.command("inpainting")(evaluate_inpainting)
evaluate_app.command("report")(evaluate_report)
evaluate_app.command("classification")(evaluate_classification)
evaluate_app.command("retrieval")(evaluate_retrieval)
evaluate_app.command("table")(evaluate_table)
app.add_typer(data_app, name="data")
app.add_typer(plan_app, name="plan")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(retrieve_app, name="retrieve")
app.add_typer(weights_app, name="weights")
