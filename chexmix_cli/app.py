"""The Typer app: global options and the command table. A command's module is loaded when the command is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from chexmix_cli import __version__
from chexmix_cli.commands.shared.help import CommandGroup, SingleCommand
from chexmix_cli.core.text.disclaimer import UNVERIFIED

#: Command to its module, what of it is the command (a function, or an app of subcommands), and its line in the help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "tokenize": ("tokenize.command", "tokenize", "Turn chest radiographs into image codes."),
    "pretrain": ("pretrain", "pretrain", "Train one stage from images and reports."),
    "finetune": ("finetune", "finetune", "Fine-tune a model for reports, classification or retrieval."),
    "generate-report": (
        "generate_report.command",
        "generate_report",
        "Write a report for each chest radiograph study.",
    ),
    "classify": (
        "classify",
        "classify",
        "Give the probability of each finding in each chest radiograph study, or embeddings.",
    ),
    "review": (
        "review",
        "review",
        "Write one page to go through films and draft reports, and to correct them.",
    ),
    "inpaint": (
        "inpaint.command",
        "inpaint",
        "Fill in hidden parts of radiographs, and measure the fill against what was hidden.",
    ),
    "retrieve": ("retrieve.group", "app", "Find reports for an image, or images for a text."),
    "evaluate": ("evaluate.group", "app", "Measure reports, classification, retrieval or inpainting."),
    "serve": ("serve.group", "app", "Work for other programs: an HTTP server, a DICOM node."),
    "plan": ("plan", "app", "Tell whether a command will fit this machine, and how long it will take."),
    "data": ("data.group", "app", "Make manifests of published data sets, and check them."),
    "weights": ("weights.group", "app", "List, describe, check, convert, export and fetch models."),
    "help": ("help", "show_help", "Show the help of a command."),
}


class CommandTable(CommandGroup):
    """Group of ``COMMANDS``: the help of all is a table, a command is built when it is named.

    Building all commands, which Typer does from their signatures, would take longer than the help may.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module, attribute, _ = COMMANDS[cmd_name]
            found = getattr(import_module(f"chexmix_cli.commands.{module}"), attribute)
            self.commands[cmd_name] = _built(cmd_name, found)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        # Names and summaries are in the table: a group that holds nothing else completes without building a command.
        group: Any = TyperGroup(name=self.name, params=self.params)
        for name, (_, _, summary) in COMMANDS.items():
            group.add_command(TyperCommand(name, help=summary))
        return group.shell_complete(typer.Context(group), incomplete)


def _built(name: str, found: Any) -> Any:
    """Return the click command of a command's function, or of an app of subcommands."""
    holder = found if isinstance(found, typer.Typer) else typer.Typer(add_completion=False)
    if holder is not found:
        holder.command(name)(found)
    holder.rich_markup_mode, holder.info.cls = None, CommandGroup
    for one in holder.registered_commands:
        one.cls = SingleCommand
    command: Any = typer.main.get_group(holder) if holder is found else typer.main.get_command(holder)
    command.name = name
    return command


app = typer.Typer(
    name="chexmix",
    cls=CommandTable,
    help="CheXmix: chest radiographs and their reports as one sequence of tokens.",
    epilog=f"Results are {UNVERIFIED}.",
    context_settings={"help_option_names": ["-h", "--help"]},
    # Plain help: half the start-up time would go into drawing boxes, and it reads the same in a pipe and in a log.
    rich_markup_mode=None,
    # Tracebacks never show values: they may be a patient's.
    pretty_exceptions_enable=False,
)


def _print_version(context: typer.Context, value: bool) -> None:
    # A shell that completes a word behind ``--version`` must not get it as a word.
    if value and not context.resilient_parsing:
        typer.echo(f"chexmix {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """CheXmix: chest radiographs and their reports as one sequence of tokens."""
