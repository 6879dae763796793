"""The options that commands share. Each is declared here and nowhere else, so that it means one thing everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.shared.console import Console

if TYPE_CHECKING:
    from chexmix_cli.core.settings.inference import InputSettings, Quantize
    from chexmix_cli.library.opened import OpenModel


def words(*known: str) -> Callable[[str], list[str]]:
    """Return what completes an option's value in a shell: the known words that begin with what is typed."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


@dataclass(frozen=True, slots=True)
class Sets:
    """Stands in a flag's annotation: the flag, where it is given, sets this setting, above all other layers.

    Attributes:
        key: dotted name of the setting.
        to: the value it sets; None takes the flag's own.
        read: makes the setting's value of the flag's.
    """

    key: str
    to: Any = None
    read: Callable[[Any], Any] | None = None

    def value(self, given: Any) -> Any:
        """Return the setting's value for a flag that is given."""
        if self.to is not None:
            return self.to
        return given if self.read is None else self.read(given)


Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IN", help="Files, folders, globs, zip archives, URLs of DICOMweb, or - for paths or records on stdin."
    ),
]
RecordsOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        show_default=False,
        help="Write the records there instead: .jsonl, a table as .csv, .xlsx or .parquet, or .html. Resumes.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Do share I (from 0) of N of the inputs. torchrun sets it itself."),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="ADDRESS", help="Let a Ray cluster do the work: auto, or HOST:PORT. The records are the same."
    ),
]
TokenShards = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="SHARDS", help="Take the images' codes from token shards instead of encoding."),
]
Bits = Annotated[
    str | None,
    typer.Option("--quantize", metavar="int8|int4", help="Hold the decoder in 8 or 4 bits: less memory, faster."),
    Sets("quantize"),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--image-preset",
        metavar="NAME",
        help="How films become pixels, such as voi or official. Default: the model's own.",
        autocompletion=words("model", "voi", "percentile", "mimic-jpg", "chexpert", "official"),
    ),
    Sets("input.preset"),
]

#: Common options by the names of their fields, as :func:`command.command` takes them.
MODEL = ("weights", "device", "dtype")
RECORDS = ("is_json", "fail_fast", "provenance", "keep_uids", "with_paths", "quarantine")
SETTINGS = ("config", "assignments", "show_config")
ALWAYS = ("is_quiet", "is_verbose")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The common options as given, in the order of the help; one that a command does not take has its default."""

    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="NAME|DIR", help="Model to use. Default: the embedded chexmix-mini."),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            help="auto, cpu, cuda, cuda:N or mps.",
            autocompletion=words("auto", "cpu", "cuda", "mps"),
        ),
    ] = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="NAME",
            help="auto, float32 or bfloat16.",
            autocompletion=words("auto", "float32", "bfloat16"),
        ),
    ] = "auto"
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Seed of everything random.")
    ] = 0
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.", show_default=False)
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Set one setting; may be repeated. See --show-config."),
    ] = None
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the settings and which layer set each, and stop.")
    ] = False
    is_json: Annotated[bool, typer.Option("--json", help="JSON Lines on a terminal too.")] = False
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first record that fails.")] = False
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Add version, model, preset and seed to each record.")
    ] = False
    keep_uids: Annotated[
        bool, typer.Option("--keep-uids", help="Identify DICOM studies by UID instead of a salted hash.")
    ] = False
    with_paths: Annotated[
        bool, typer.Option("--paths", help="Name the file of each record in it; paths may name patients.")
    ] = False
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", show_default=False, help="Write a page of the records and films, too."),
    ] = None
    quarantine: Annotated[
        Path | None,
        typer.Option(
            "--quarantine",
            metavar="FILE",
            show_default=False,
            help="List the files of failed records as JSON Lines; holds paths, which may name patients (mode 0600).",
        ),
    ] = None
    is_quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False
    is_verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr; tracebacks of errors.")] = False

    @property
    def console(self) -> Console:
        """Return the stderr side of the command."""
        return Console(is_quiet=self.is_quiet, is_verbose=self.is_verbose)

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

    def on(self, device: str | None) -> RunOptions:
        """Return the same with another device, if one is named."""
        return self if device is None else replace(self, device=device)

    def provenance_of(self, model: OpenModel) -> dict[str, Any]:
        """Return the provenance field of a record, or nothing unless ``--provenance`` asks for it."""
        return {"provenance": model.provenance(seed=self.seed)} if self.provenance else {}
