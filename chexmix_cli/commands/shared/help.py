"""How commands answer ``--help``, no arguments and mistyped words: plain text, the same on a terminal and in a pipe."""

from __future__ import annotations

import textwrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from chexmix_cli.core.errors import ExitCode, SettingsError
from chexmix_cli.core.settings.load import nearest, nearest_hint

#: Heading of the options that commands share, after the command's own.
COMMON_OPTIONS = "Common options"
#: Words that earlier versions had, for a hint.
RENAMED = {
    "--data": "--manifest",
    "--frame": "--set input.frame=N",
    "--mask-ratios": "--mask-ratio",
    "--rejects": "--quarantine",
    "inspect": "info",
    "verify": "check",
}


#: Stands for a hyphen while lines are broken, so that a flag or a command's name stays in one piece.
_UNBROKEN = "\ue000"
_EXAMPLES = "Examples:\n"
_Base: Any = typer.Context.formatter_class


class _Formatter(_Base):  # type: ignore[misc]
    """Writes help whose lines end between words; examples that take several lines can be copied as they stand."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(_unbroken(prog), _unbroken(args), prefix)

    def write_text(self, text: str) -> None:
        prose, heading, examples = text.partition(_EXAMPLES)
        super().write_text(_unbroken(prose + heading))
        indent = " " * (self.current_indent + 4)
        for example in examples.split("\n\n"):
            if example.strip():
                self.write_paragraph()
                self.write(_command_lines(example.strip(), indent, self.width) + "\n")

    def write_dl(self, rows: Any, *sizes: Any, **named: Any) -> None:
        super().write_dl([(_unbroken(name), _unbroken(text)) for name, text in rows], *sizes, **named)

    def getvalue(self) -> str:
        text: str = super().getvalue()
        return text.replace(_UNBROKEN, "-")


def _unbroken(text: str) -> str:
    return text.replace("-", _UNBROKEN)


def _command_lines(text: str, indent: str, width: int) -> str:
    """Return a command line of a shell, with a backslash where it is continued."""
    words = textwrap.TextWrapper(width - len(indent) - 4, break_long_words=False, break_on_hyphens=False)
    return indent + f" \\\n{indent}  ".join(words.wrap(" ".join(text.split())))


def _help_of(command: Any, ctx: Any) -> str:
    formatter = _Formatter(width=ctx.terminal_width, max_width=ctx.max_content_width)
    command.format_help(ctx, formatter)
    text: str = formatter.getvalue()
    return text.rstrip("\n")


class SingleCommand(TyperCommand):
    """A command whose help puts its own options first, and those it shares with others under their own heading."""

    def get_help(self, ctx: Any) -> str:
        return _help_of(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], COMMON_OPTIONS: []}
        help_option = self.get_help_option(ctx)
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if line is None:
                continue
            if parameter.param_type_name == "argument":
                heading, line = "Arguments", (parameter.metavar or parameter.name, line[1])
            else:
                is_common = parameter is help_option or getattr(parameter, "rich_help_panel", None) == COMMON_OPTIONS
                heading = COMMON_OPTIONS if is_common else "Options"
            sections[heading].append(line)
        for heading, lines in sections.items():
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)


class CommandGroup(TyperGroup):
    """Commands under one word."""

    def get_help(self, ctx: Any) -> str:
        return _help_of(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing:
            renamed = f"it is {RENAMED[name]!r} now" if RENAMED.get(name) in known else None
            hint = renamed or nearest_hint(name, known) or f"{ctx.command_path} --help lists them"
            raise SettingsError(f"no such command {name!r}", where=ctx.command_path, hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does: the first paragraph of its help, whole."""
        commands: list[tuple[str, Any]] = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(one.help)) for name, one in commands if not one.hidden])


def summary(text: str | None) -> str:
    """Return the first paragraph of a command's help on one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def usage_problem(error: Any) -> SettingsError:
    """Return Typer's error about the command line as one of ours, with its command and, of an option, the nearest."""
    message = error.format_message().rstrip(".")
    message = f"{message[:1].lower()}{message[1:]}"
    if error.ctx is None:
        return SettingsError(message)
    command = error.ctx.command_path
    if getattr(error, "option_name", None) in RENAMED:
        hint = f"it is {RENAMED[error.option_name]!r} now"
        return SettingsError(f"no such option {error.option_name!r}", where=command, hint=hint)
    if hasattr(error, "possibilities"):
        known = {name.lstrip("-"): name for one in error.ctx.command.get_params(error.ctx) for name in one.opts}
        # Without the dashes, which any two options have in common; a word that says more comes before a similar one.
        word = error.option_name.lstrip("-")
        near = next((one for one in known if one.endswith(f"-{word}")), None) or nearest(word, known)
        hint = f"did you mean {known[near]!r}?" if near else f"{command} --help lists them"
        return SettingsError(f"no such option {error.option_name!r}", where=command, hint=hint)
    return SettingsError(message, where=command, hint=f"{command} --help says what it takes")
