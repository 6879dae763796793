"""Write docs/commands/, a page for each command, and docs/man/chexmix.1 from the commands and settings themselves.

The test suite fails while they are stale.

Usage: python tools/generate_docs.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Any

import typer

from chexmix_cli import __version__
from chexmix_cli.app import COMMANDS, app
from chexmix_cli.commands.shared.help import COMMON_OPTIONS
from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.core.settings.classification import ClassifySettings, EvaluateClassificationSettings
from chexmix_cli.core.settings.datasets import (
    CheckSettings,
    ChexpertPlusImport,
    ImportSettings,
    ListedImport,
    MimicImport,
    TableImport,
)
from chexmix_cli.core.settings.dicom_node import ServeDicomSettings
from chexmix_cli.core.settings.evaluation import DiffSettings
from chexmix_cli.core.settings.finetuning import TASKS
from chexmix_cli.core.settings.inference import (
    DraftIndexSettings,
    GenerateReportSettings,
    ReviewSettings,
    TokenizeSettings,
)
from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings, InpaintSettings
from chexmix_cli.core.settings.report_evaluation import ReportEvaluationSettings
from chexmix_cli.core.settings.retrieval import IndexSettings, QuerySettings, RetrievalEvaluationSettings
from chexmix_cli.core.settings.serving import ServeHttpSettings
from chexmix_cli.core.settings.training import STAGES

TARGET = Path(__file__).resolve().parents[1] / "docs" / "commands"
MANUAL = TARGET.parent / "man" / "chexmix.1"

GENERATED = "<!-- Written by tools/generate_docs.py from the commands themselves; change them, not this page. -->"

INTRO = f"""# Commands

{GENERATED}

What all commands have in common:

- Data goes to stdout as JSON Lines (readable text on a terminal; `--json` forces JSON), everything else to stderr.
- One record in, one record out, in the same order: `id`, `status` (`ok` or `error`), then the result or
  `error {{code, message}}`. The codes are in [data.md](../data.md#reason-codes). One bad input never stops the others,
  unless `--fail-fast` is given.
- Exit codes: 0 done, 1 failed (no record succeeded, or nothing could start), 2 usage or settings, 3 finished but
  some records failed, 4 the machine lacks something, 70 a bug of ours, 130 interrupted.
- Settings come in layers: built-in default, preset, `--config FILE` (TOML), `--set a.b=c`, explicit flag.
  `--show-config` prints the result and which layer set each value. An unknown key is an error that names the nearest.
- Records carry no patient data; see [data.md](../data.md#ids-and-privacy). Nothing goes over the network
  but by `weights fetch`, to and from the DICOMweb server, archive or Ray cluster that you name, and by `serve`.
- `-h` or `--help` explains a command, its own options first. A mistyped command or option is answered with the nearest.
- `chexmix --install-completion` makes the shell complete commands and options (bash, zsh, fish, PowerShell).

![chexmix --help in a terminal of 80 columns](../images/help.png)

![chexmix generate-report --help: arguments, its own options, then the common ones](../images/help-generate-report.png)
"""

ROOTS: dict[str, list[tuple[str, type[Any]]]] = {
    "tokenize": [("", TokenizeSettings)],
    "generate-report": [("", GenerateReportSettings)],
    "review": [("", ReviewSettings)],
    "classify": [("", ClassifySettings)],
    "evaluate classification": [("", EvaluateClassificationSettings)],
    "evaluate rexrank": [("", GenerateReportSettings)],
    "evaluate report": [("", ReportEvaluationSettings)],
    "evaluate inpainting": [("", EvaluateInpaintingSettings)],
    "inpaint": [("", InpaintSettings)],
    "serve dicom": [("", ServeDicomSettings)],
    "serve http": [("", ServeHttpSettings)],
    "pretrain": [(f"`--stage {stage}`", root) for stage, root in STAGES.items()],
    "finetune": [(f"`--task {task}`", root) for task, root in TASKS.items()],
    "data import": [
        ("of every kind", ImportSettings),
        ("of `mimic-cxr` and `mimic-cxr-jpg` beside these", MimicImport),
        ("of `chexpert-plus` beside these", ChexpertPlusImport),
        ("of `padchest` and `openi` beside these", ListedImport),
        ("of `folder` beside these", TableImport),
    ],
    "data check": [("", CheckSettings)],
    "evaluate diff": [("", DiffSettings)],
    "evaluate retrieval": [("", RetrievalEvaluationSettings)],
    "retrieve index": [("", IndexSettings)],
    "retrieve query": [("", QuerySettings)],
    "weights drafts": [("", DraftIndexSettings)],
}


def main() -> None:
    """Write the pages."""
    TARGET.mkdir(exist_ok=True)
    for name, text in pages().items():
        (TARGET / name).write_text(text, encoding="utf-8")
    MANUAL.parent.mkdir(exist_ok=True)
    MANUAL.write_text(manual(), encoding="utf-8")
    sys.stdout.write(f"wrote {TARGET}\n")


def pages() -> dict[str, str]:
    """Return every page by its file's name: the index, and one for each command of the first level."""
    commands = _commands(typer.main.get_command(app), ())
    found: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for path, command in commands:
        found.setdefault(path[0], []).append((path, command))
    listed = "\n".join(f"| [{name}]({name}.md) | {COMMANDS[name][2].replace('|', '/')} |" for name in found)
    index = [INTRO, f"| command | |\n|---|---|\n{listed}\n", _common_section([command for _, command in commands])]
    return {"index.md": "\n".join(index)} | {f"{name}.md": _page(name, parts) for name, parts in found.items()}


def manual() -> str:
    """Return the manual page, in the macros of man(7): each command with its own options, the common ones once."""
    commands = _commands(typer.main.get_command(app), ())
    common = {one.name: one for _, command in commands for one in command.params if _is_common(one)}
    order = [common[field.name] for field in dataclasses.fields(RunOptions)]
    lines = [
        f'.TH CHEXMIX 1 "" "chexmix {__version__}" "User Commands"',
        ".SH NAME",
        r"chexmix \- chest radiographs and their reports as one sequence of tokens",
        ".SH SYNOPSIS",
        r".B chexmix",
        r".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        "Records go to stdout as JSON Lines, everything else to stderr. Results are preliminary and unverified;",
        "not for clinical use.",
        ".SH COMMANDS",
    ]
    for path, command in commands:
        lines += [f".SS {_roff(' '.join(path))}", _roff(inspect.cleandoc(command.help or "").split("\n\n")[0])]
        lines += [line for one in command.params if not _is_common(one) for line in _manual_option(one)]
    lines += [".SH COMMON OPTIONS", *(line for one in order for line in _manual_option(one))]
    codes = "0 done, 1 failed, 2 usage or settings, 3 some records failed, 4 the machine lacks something, 70 a bug, 130"
    lines += [".SH EXIT STATUS", f"{codes} interrupted.", ".SH FILES"]
    lines += [r".I $XDG_CONFIG_HOME/chexmix/config.toml", "Your own settings, a table for each command."]
    return "\n".join(lines) + "\n"


def _manual_option(parameter: Any) -> list[str]:
    name = _parameter_name(parameter).replace("`", "").replace("\\|", "|")
    return [
        ".TP",
        rf"\fB{_roff(name)}\fR",
        _roff(_parameter_help(parameter).replace("`", "").replace("\\|", "|")) or "-",
    ]


def _roff(text: str) -> str:
    """Return text that no macro or escape of roff is in."""
    one_line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{one_line}" if one_line.startswith((".", "'")) else one_line


def _page(name: str, commands: list[tuple[tuple[str, ...], Any]]) -> str:
    """Return the page of a command, or of a group of subcommands under a heading each."""
    if len(commands[0][0]) == 1:
        return _command_section("# ", *commands[0], note=GENERATED)
    head = f"# {name}\n\n{GENERATED}\n\n{COMMANDS[name][2]}\n"
    return "\n".join([head, *(_command_section("## ", *one) for one in commands)])


def _commands(group: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    context = typer.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        if hasattr(command, "commands"):
            found += _commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def _command_section(mark: str, path: tuple[str, ...], command: Any, note: str | None = None) -> str:
    name = " ".join(path)
    own = [one for one in command.params if not _is_common(one)]
    lines = [f"{mark}{name}", "", *([note, ""] if note else []), *_help_lines(command.help or "")]
    if own:
        lines += ["", "| option | |", "|---|---|", *map(_parameter_row, own)]
    shared = ", ".join(f"`{one.opts[0]}`" for one in command.params if _is_common(one))
    lines += ["", f"[Common options](index.md#common-options): {shared}."]
    for title, root in ROOTS.get(name, []):
        lines += ["", f"Settings {title}".strip() + ":", "", *_settings_table(root)]
    return "\n".join(lines) + "\n"


def _common_section(commands: list[Any]) -> str:
    """Return the options that commands share, told once."""
    found = {one.name: one for command in commands for one in command.params if _is_common(one)}
    order = [field.name for field in dataclasses.fields(RunOptions)]
    rows = [_parameter_row(found[name]) for name in order]
    intro = "Each command takes those of them that mean something to it; its own options stand on its page."
    return "\n".join(["## Common options", "", intro, "", "| option | |", "|---|---|", *rows]) + "\n"


def _is_common(parameter: Any) -> bool:
    return getattr(parameter, "rich_help_panel", None) == COMMON_OPTIONS


def _parameter_row(parameter: Any) -> str:
    return f"| {_parameter_name(parameter)} | {_parameter_help(parameter)} |"


def _help_lines(text: str) -> list[str]:
    lines, in_examples = [], False
    for line in inspect.cleandoc(text).splitlines():
        if line.strip() == "Examples:":
            in_examples = True
            lines += ["Examples:", ""]
        elif in_examples and line.strip():
            lines.append(f"    {line.strip()}")
        elif not in_examples:
            lines.append(line)
    return lines


def _parameter_name(parameter: Any) -> str:
    names = ", ".join(f"`{option}`" for option in parameter.opts if option.startswith("-"))
    if not names:
        return f"`{parameter.metavar or parameter.name}`".replace("|", "\\|")
    takes_value = not getattr(parameter, "is_flag", False)
    return f"{names} `{parameter.metavar or 'VALUE'}`".replace("|", "\\|") if takes_value else names


def _parameter_help(parameter: Any) -> str:
    default = parameter.default
    is_shown = isinstance(default, (str, int, float)) and not isinstance(default, bool)
    suffix = f" Default: `{default}`." if is_shown else ""
    return f"{parameter.help or ''}{suffix}".replace("|", "\\|").strip()


def _settings_table(root: type[Any]) -> list[str]:
    lines = ["| setting | default | |", "|---|---|---|"]
    for key, default, text in _settings(root, ""):
        lines.append(f"| `{key}` | {default} | {text} |".replace("  ", " "))
    return lines


def _settings(cls: type[Any], prefix: str, values: Any = None) -> list[tuple[str, str, str]]:
    """Return key, default and text of each setting; ``values`` are the defaults, where a root has its own."""
    hints, texts = typing.get_type_hints(cls), _attribute_texts(cls)
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__dataclass_fields__", {})}
    rows = []
    for field in dataclasses.fields(cls):
        if field.name in inherited:
            continue
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            # The model's own numbers are a preset's business; they would bury the rest here.
            if field.name != "model":
                inner = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
                known = inner if dataclasses.is_dataclass(inner) else None
                rows += _settings(typing.cast(type[Any], hint), f"{prefix}{field.name}.", known)
            continue
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
        if values is not None and default != "required":
            default = f"`{getattr(values, field.name)}`"
        rows.append((f"{prefix}{field.name}", default, texts.get(field.name, "")))
    return rows


def _attribute_texts(cls: type[Any]) -> dict[str, str]:
    """Return the texts of a docstring's Attributes section by name; ``a, b: text`` is for both."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        start = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            texts |= dict.fromkeys(names, start[2])
        elif line.strip():
            for name in names:
                texts[name] += f" {line.strip()}"
    return {name: text.replace("``", "`").replace("|", "\\|") for name, text in texts.items()}


if __name__ == "__main__":
    main()
