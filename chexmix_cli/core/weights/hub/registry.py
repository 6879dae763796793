"""The models known by name: ``weights.toml``, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import chexmix_cli
from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.load import Layer, build, read_preset, read_toml, resolve
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights.files import home

_PACKAGE = Path(chexmix_cli.__file__).parent
_SCHEMA = 1

#: The embedded model, used where no ``--weights`` is given, and the released one, whose layout has no description.
EMBEDDED = "chexmix-mini"
RELEASED_ENTRY = "chexmix"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """Terms of an entry's weights; ``must_accept`` means they are fetched only with ``--accept-licence``."""

    name: str
    url: str
    must_accept: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryFile:
    """One file of a hub entry; ``sha256`` is empty while none is published."""

    name: str
    required: bool = True
    sha256: str = ""

    def __post_init__(self) -> None:
        plain = self.name == Path(self.name).name and not self.name.startswith(".")
        require(plain, "files.name", self.name, "a plain file name")
        is_digest = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        require(not self.sha256 or is_digest, "files.sha256", self.sha256, "64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One model of ``weights.toml``.

    Attributes:
        name: what ``--weights`` takes.
        source: ``embedded`` is part of the installation, ``hub`` is fetched.
        preset: model preset that stands in for settings files a hub repository does not have.
        settings: what differs from the preset, as nested tables; above all what is inferred, not published.
    """

    name: str
    source: Literal["embedded", "hub"]
    summary: str
    licence: Licence
    repository: str | None = None
    revision: str = "main"
    preset: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[EntryFile, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.source == "hub":
            require(self.repository is not None, "repository", self.repository, "owner/name of the hub repository")
            require(self.preset is not None, "preset", self.preset, "the name of a model preset")
            require(len(self.files) > 0, "files", self.files, "at least one file")

    @property
    def directory(self) -> Path:
        """Return where the entry's weights are, or will be once fetched."""
        return _PACKAGE / "assets" / self.name if self.source == "embedded" else home() / "weights" / self.name

    def model_settings(self) -> ModelSettings:
        """Return the settings of the entry's preset with its own on top."""
        assert self.preset is not None
        layers: list[Layer] = [
            (f"preset {self.preset}", read_preset("model", self.preset)),
            ("weights.toml", {"name": self.name, **self.settings}),
        ]
        return resolve(ModelSettings, layers).settings


@cache
def registry() -> dict[str, ModelEntry]:
    """Return the entries of ``weights.toml`` by name: the wheel's copy, else that of the source tree."""
    shipped, source_tree = _PACKAGE / "assets" / "weights.toml", _PACKAGE.parent / "weights.toml"
    return read_registry(shipped if shipped.is_file() else source_tree)


def read_registry(path: Path) -> dict[str, ModelEntry]:
    """Return the entries of one file.

    Raises:
        SettingsError: on any key, type or value that does not belong.
        WeightsError: if the file is of another schema.
    """
    values = read_toml(path)
    if values.pop("schema", None) != _SCHEMA:
        raise WeightsError("is of an unknown schema", where=str(path), expected=f"schema = {_SCHEMA}")
    models = values.pop("models", {})
    require(not values, str(path), sorted(values), "schema and models only")
    require(isinstance(models, dict), "models", models, "a section")
    return {name: _entry(name, values) for name, values in models.items()}


def _entry(name: str, values: Any) -> ModelEntry:
    where = f"models.{name}"
    require(isinstance(values, dict), where, values, "a section")
    require("name" not in values, f"{where}.name", values.get("name"), "none: it is the section's")
    return build(ModelEntry, {"name": name, **values}, where=where)
