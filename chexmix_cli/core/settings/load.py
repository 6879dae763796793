"""Resolve settings: dataclass default < preset < configuration file < ``--set a.b=c`` < explicit flag.

Unknown keys, wrong types and values outside their choices are errors that name the key and the nearest match. The
result knows which layer each value came from, so ``--show-config`` can say it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from chexmix_cli.core.errors import SettingsError, kind_of, with_article

Settings = TypeVar("Settings")
Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Resolved(Generic[Settings]):
    """A settings object with the layer that set each of its values (dotted key -> layer name)."""

    settings: Settings
    origins: Mapping[str, str]

    def to_json(self) -> str:
        """Return the settings and origins as indented JSON, keys in declaration order."""
        return json.dumps({"settings": to_dict(self.settings), "set_by": dict(self.origins)}, indent=2)


def resolve(cls: type[Settings], layers: Iterable[Layer]) -> Resolved[Settings]:
    """Return ``cls`` built from ``layers``, later layers winning; each layer is a name and a nested mapping.

    Raises:
        SettingsError: on an unknown key, a wrong type, or a value the dataclass itself refuses.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, values in layers:
        _merge(merged, values, name, origins, prefix="")
    return Resolved(build(cls, merged), origins)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields; they are text, and to read it anew takes longer than all else here."""
    return typing.get_type_hints(cls)


def build(cls: type[Settings], values: Mapping[str, Any], *, where: str = "") -> Settings:
    """Return one settings dataclass from a nested mapping, strictly (see :func:`resolve`)."""
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in _expect(Mapping, values, where or cls.__name__, "section").items():
        dotted = f"{where}.{key}" if where else key
        if key not in fields:
            raise _unknown_key(dotted, key, fields)
        arguments[key] = _convert(hints[key], value, dotted)
    missing = [
        name
        for name, field in fields.items()
        if name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    for name in [name for name in missing if dataclasses.is_dataclass(hints[name])]:
        arguments[name] = build(hints[name], {}, where=f"{where}.{name}" if where else name)
        missing.remove(name)
    if missing:
        raise SettingsError(f"missing {', '.join(missing)}", where=where or cls.__name__, expected="a value for each")
    return cls(**arguments)


def to_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as nested plain values, ready for JSON or TOML."""
    return dataclasses.asdict(settings)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file as a mapping; SettingsError names the file and the position of a mistake."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError("no such configuration file", where=str(path)) from None
    except RecursionError:
        raise SettingsError("not valid TOML (nested too deeply)", where=str(path)) from None
    except ValueError as error:  # numbers of thousands of digits, too
        raise SettingsError(f"not valid TOML ({error})", where=str(path)) from None
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror})", where=str(path)) from None


def user_file() -> Path:
    """Return where a user's own settings are: ``chexmix/config.toml`` in the XDG folder of configurations."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    return Path(folder or Path.home() / ".config") / "chexmix" / "config.toml"


def user_layers(words: Sequence[str]) -> list[Layer]:
    """Return the layer of a user's own settings for a command, if there is one: the table of its words.

    ``[generate-report.decode]`` holds settings of ``chexmix generate-report``, ``[evaluate.report.labels]`` of
    ``chexmix evaluate report``.

    Raises:
        SettingsError: if the file cannot be read, or the table is none.
    """
    path = user_file()
    if not path.is_file():
        return []
    values: Any = read_toml(path)
    for word in words:
        values = values.get(word, {})
        if not isinstance(values, dict):
            raise SettingsError(f"[{'.'.join(words)}] is no table", where=str(path), expected="a table of settings")
    return [(str(path), values)] if values else []


def read_preset(group: str, name: str, *, flag: str = "--preset") -> dict[str, Any]:
    """Return a preset shipped with the package, ``settings/presets/<group>/<name>.toml``; ``flag`` named it."""
    folder = Path(__file__).parent / "presets" / group
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise SettingsError(
            f"unknown preset {name!r}", where=flag, expected=", ".join(known), hint=nearest_hint(name, known)
        )
    return read_toml(folder / f"{name}.toml")


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the nested mapping of ``a.b=c`` assignments; ``c`` is a TOML value, else a bare string."""
    nested: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise SettingsError(f"{assignment!r} is not an assignment", where="--set", expected="section.key=value")
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        section = nested
        for part in parts[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise SettingsError(f"{key!r} is set both as a value and as a section", where="--set")
        section[parts[-1]] = value
    return nested


def nearest_hint(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that names what is nearest to a mistyped name, or None if nothing is near."""
    near = nearest(name, known)
    return None if near is None else f"did you mean {near!r}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return what is nearest to a mistyped name, or None if nothing is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _merge(target: dict[str, Any], values: Mapping[str, Any], layer: str, origins: dict[str, str], prefix: str) -> None:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
            _merge(target.setdefault(key, {}), value, layer, origins, f"{dotted}.")
        else:
            target[key] = value
            origins[dotted] = layer


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return _convert(next(option for option in arguments if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where=where)
    if origin is Literal:
        return _choice(arguments, value, where)
    if origin is tuple:
        return tuple(_convert(arguments[0], item, where) for item in _expect((list, tuple), value, where, "list"))
    if origin is dict:
        return dict(_expect(Mapping, value, where, "table"))
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise SettingsError(f"is {value!r}", where=where, expected="a finite number")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, float) and isinstance(value, bool):
        raise SettingsError(f"{value!r} is a bool", where=where, expected=with_article(hint.__name__))
    return _expect(hint, value, where, hint.__name__)


def _choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value in choices:
        return value
    names = [str(choice) for choice in choices]
    raise SettingsError(
        f"{value!r} is not a choice", where=where, expected=", ".join(names), hint=nearest_hint(str(value), names)
    )


def _expect(kind: Any, value: Any, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise SettingsError(f"{value!r} is {kind_of(value)}", where=where, expected=with_article(name))
    return value


def _unknown_key(dotted: str, key: str, fields: Iterable[str]) -> SettingsError:
    names = sorted(fields)
    return SettingsError("unknown setting", where=dotted, expected=", ".join(names), hint=nearest_hint(key, names))
