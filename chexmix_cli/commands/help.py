"""``chexmix help``: the help of a command, as ``--help`` behind it gives it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from chexmix_cli.core.errors import ExitCode, SettingsError
from chexmix_cli.core.settings.load import nearest_hint

Words = Annotated[
    list[str] | None, typer.Argument(metavar="COMMAND", help="A command, such as classify or evaluate report.")
]


def show_help(context: typer.Context, words: Words = None) -> int:
    """Show the help of a command.

    Examples:

        chexmix help

        chexmix help evaluate report
    """
    here: Any = context.find_root()
    for word in words or ():
        known = here.command.list_commands(here) if hasattr(here.command, "list_commands") else []
        found = here.command.get_command(here, word) if word in known else None
        if found is None:
            hint = nearest_hint(word, known) or f"{here.command_path} --help lists them"
            raise SettingsError(f"no such command {word!r}", where=here.command_path, hint=hint)
        here = type(here)(found, info_name=word, parent=here)
    typer.echo(here.get_help())
    return ExitCode.DONE
