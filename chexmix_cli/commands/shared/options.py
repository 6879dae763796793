"""Options that several commands share, and what they resolve to. One definition each, so that they mean one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from chexmix_cli.commands.shared.console import Console
from chexmix_cli.core.settings.load import Layer, Resolved, parse_assignments, read_toml, resolve

if TYPE_CHECKING:
    from chexmix_cli.core.settings.inference import InputSettings, Quantize
    from chexmix_cli.library.opened import OpenModel

Root = TypeVar("Root")

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="IN", help="Files, folders, globs, zip archives, or - for paths or records on stdin."),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="NAME|DIR", help="Model to use. Default: the embedded chexmix-mini."),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", metavar="NAME", help="auto, float32 or bfloat16.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything random.")]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Image preset, such as voi or official. Default: the model's own."),
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set one setting; may be repeated. See --show-config."),
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print the settings and which layer set each, and stop.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines on a terminal too.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first record that fails.")]
Provenance = Annotated[bool, typer.Option("--provenance", help="Add version, model, preset and seed to each record.")]
KeepUids = Annotated[bool, typer.Option("--keep-uids", help="Identify DICOM studies by UID instead of a salted hash.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr; tracebacks of errors.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The options of a command that runs a model over records."""

    weights: str | None
    device: str
    dtype: str
    seed: int
    is_json: bool
    fail_fast: bool
    provenance: bool
    keep_uids: bool
    console: Console

    def open_model(
        self, settings: InputSettings, *, needs_decoder: bool = True, quantize: Quantize | None = None
    ) -> OpenModel:
        """Return the model, its licence shown; errors as :func:`chexmix_cli.library.opened.open_model`."""
        from chexmix_cli.library.opened import open_model

        model = open_model(
            self.weights,
            device=self.device,
            dtype=self.dtype,
            quantize=quantize,
            settings=settings,
            needs_decoder=needs_decoder,
        )
        if model.weights.licence_notice is not None:
            self.console.note(model.weights.licence_notice)
        return model

    def provenance_of(self, model: OpenModel) -> dict[str, Any]:
        """Return the provenance field of a record, or nothing unless ``--provenance`` asks for it."""
        return {"provenance": model.provenance(seed=self.seed)} if self.provenance else {}


def make_console(quiet: bool, verbose: bool) -> Console:
    """Return the stderr side of a command, with its logging started."""
    console = Console(is_quiet=quiet, is_verbose=verbose)
    console.start_logging()
    return console


def setting_layers(config: Path | None, assignments: Sequence[str] | None, flags: dict[str, Any]) -> list[Layer]:
    """Return the layers above a preset: configuration file, ``--set``, explicit flags."""
    layers: list[Layer] = []
    if config is not None:
        layers.append((f"--config {config.name}", read_toml(config)))
    layers += [("--set", parse_assignments(assignments or ())), ("flag", flags)]
    return layers


def resolve_settings(
    root: type[Root], config: Path | None, assignments: Sequence[str] | None, flags: dict[str, Any]
) -> Resolved[Root]:
    """Return a command's settings from its defaults and the layers above them."""
    return resolve(root, setting_layers(config, assignments, flags))
