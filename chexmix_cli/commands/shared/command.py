"""What makes a command of a function: it declares its own flags, and common options, settings and console are given it.

::

    @command(TokenizeSettings, *MODEL, *RECORDS)
    def tokenize(call: Call[TokenizeSettings], inputs: Inputs = None, preset: Preset = None, out: Out = None) -> int:
        ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Annotated, Any, Concatenate, Generic, TypeVar, get_args, get_type_hints, overload

import typer

from chexmix_cli.commands.shared.console import Console
from chexmix_cli.commands.shared.help import COMMON_OPTIONS
from chexmix_cli.commands.shared.options import ALWAYS, SETTINGS, RunOptions, Sets
from chexmix_cli.commands.shared.stopping import StopRequests
from chexmix_cli.core.errors import ExitCode
from chexmix_cli.core.settings.load import Layer, Resolved, parse_assignments, read_toml, resolve, user_layers

Settings = TypeVar("Settings")
#: Parameter by which Typer gives a command its context.
_CONTEXT = "typer_context"
Command = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Call(Generic[Settings]):
    """What a command is called with besides its own flags.

    Attributes:
        settings: resolved from all layers; None for a command without settings.
        options: the common options.
    """

    settings: Settings
    options: RunOptions

    @property
    def console(self) -> Console:
        """Return the stderr side of the command."""
        return self.options.console


@overload
def command(
    settings: None, *common: str, **keys: str
) -> Callable[[Callable[Concatenate[Call[None], ...], int]], Command]: ...
@overload
def command(
    settings: type[Settings], *common: str, **keys: str
) -> Callable[[Callable[Concatenate[Call[Settings], ...], int]], Command]: ...
@overload
def command(
    settings: Callable[..., Resolved[Any]], *common: str, **keys: str
) -> Callable[[Callable[Concatenate[Call[Any], ...], int]], Command]: ...
def command(settings: Any, *common: str, **keys: str) -> Callable[[Callable[..., int]], Command]:
    """Return a decorator that makes a command for Typer of a function whose first parameter is the :class:`Call`.

    Args:
        settings: the dataclass of the command's settings; or, where flags decide which it is, a function that resolves
            them of ``layers`` and of the flags that its parameters name; or None. With settings the command has
            ``--config``, ``--set`` and ``--show-config``, which prints them in place of the function.
        common: fields of :class:`RunOptions` that the command takes, besides those that all take.
        keys: further such fields, each with the setting that it stands for here: where the option is given, it sets it.
    """
    taken = {*common, *keys, *ALWAYS, *(SETTINGS if settings is not None else ())}

    def decorate(function: Callable[..., int]) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> int:
            # ``chexmix evaluate report``: the words name the table of the user's own settings.
            context = given.pop(_CONTEXT)
            words = [] if context is None else context.command_path.split()[1:]
            options = RunOptions(**{name: given.pop(name) for name in taken})
            flags = _nested([*_own_flags(own, given), *_common_flags(context, options, keys)])
            resolved = None if settings is None else _resolved(settings, options, flags, given, user_layers(words))
            if resolved is not None and options.show_config:
                typer.echo(resolved.to_json())
                return ExitCode.DONE
            options.console.start_logging()
            # So that temporary files go, and the exit code is the documented one, whatever asks it to stop.
            with StopRequests():
                return function(Call(None if resolved is None else resolved.settings, options), **given)

        # Typer reads both; names are all that counts, so a required flag may follow another.
        context = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=typer.Context)
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *_common(taken))] + [context]
        run.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def _common(taken: set[str]) -> list[inspect.Parameter]:
    """Return the common options that are taken as parameters, in the order and with the defaults of their fields."""
    hints = get_type_hints(RunOptions, include_extras=True)
    found = []
    for field in fields(RunOptions):
        if field.name in taken:
            kind, option = get_args(hints[field.name])
            option = copy(option)
            option.rich_help_panel = COMMON_OPTIONS
            annotation = Annotated[kind, option]  # type: ignore[valid-type]
            found.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation
                )
            )
    return found


def _resolved(
    settings: Any,
    options: RunOptions,
    flags: Mapping[str, Any],
    given: Mapping[str, Any],
    user: Sequence[Layer],
) -> Resolved[Any]:
    """Return a command's settings: default < preset < user's file < ``--config`` < ``--set`` < flag."""
    layers: list[Layer] = [*user]
    if options.config is not None:
        layers.append((f"--config {options.config.name}", read_toml(options.config)))
    layers += [("--set", parse_assignments(options.assignments or ())), ("flag", flags)]
    if isinstance(settings, type):
        return resolve(settings, layers)
    asked = {name: given[name] for name in inspect.signature(settings).parameters if name != "layers"}
    resolved: Resolved[Any] = settings(layers=layers, **asked)
    return resolved


def _own_flags(own: Sequence[inspect.Parameter], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a command's own flags set where they are given: dotted key, value."""
    for parameter in own:
        value = given[parameter.name]
        if value is None or value is False:
            continue
        for mark in get_args(parameter.annotation)[1:]:
            if isinstance(mark, Sets):
                yield mark.key, mark.value(value)


def _common_flags(
    context: typer.Context | None, options: RunOptions, keys: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """Yield what common options set that stand for settings here; only where they are given: a default sets nothing."""
    for name, key in keys.items():
        source = None if context is None else context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            yield key, getattr(options, name)


def _nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return settings by dotted key as nested ones."""
    nested: dict[str, Any] = {}
    for key, value in pairs:
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return nested
