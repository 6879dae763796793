"""``chexmix inpaint``: fill hidden parts of radiographs, and say how well."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RECORDS, Inputs, Preset, RunOptions, Sets
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.inpainting import InpaintSettings

if TYPE_CHECKING:
    from chexmix_cli.core.infer.inpainting.masked_film import AnyMask

MaskRatio = Annotated[
    float | None, typer.Option("--mask-ratio", metavar="R", help="Hide this share of the image's codes, by a seed.")
]
Block = Annotated[
    float | None, typer.Option("--block", metavar="F", help="Hide a square of this share of the image, by a seed.")
]
Box = Annotated[
    str | None, typer.Option("--box", metavar="X,Y,W,H", help="Hide a rectangle, in pixels of the film as it is read.")
]
MaskFile = Annotated[
    Path | None,
    typer.Option("--mask", metavar="PNG", help="Hide what is not black in a picture of the film's size."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PNG|DCM|DIR", help="Write the result there, with panels; a folder for several."
    ),
]
StrategyName = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="single, autoregressive or iterative. Default: single."),
    Sets("fill.strategy"),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", metavar="N", min=1, help="Draw N fills; the result is their mean."),
    Sets("fill.samples"),
    Sets("fill.choice", to="sample"),
]
PaperProtocol = Annotated[
    bool,
    typer.Option("--paper-protocol", help="Encode the whole film and hide codes, which leaks; see the audit."),
    Sets("region.protocol", to="paper"),
]


@command(InpaintSettings, *MODEL, "seed", *RECORDS, "html")
def inpaint(
    call: Call[InpaintSettings],
    inputs: Inputs = None,
    mask_ratio: MaskRatio = None,
    block: Block = None,
    box: Box = None,
    mask: MaskFile = None,
    out: Out = None,
    strategy: StrategyName = None,
    samples: Samples = None,
    paper_protocol: PaperProtocol = False,
    preset: Preset = None,
) -> int:
    """Fill in hidden parts of radiographs, and measure the fill against what was hidden.

    Hidden pixels are blanked before the film is encoded, so the model cannot know them. Choose what is hidden with
    one of --mask-ratio, --block, --box and --mask. A result that ends in .dcm is a derived DICOM image.

    Examples:

        chexmix inpaint film.png --mask-ratio 0.5 -o filled.png

        chexmix inpaint study/ --box 300,400,200,200 -o filled.dcm

        chexmix inpaint *.png --block 0.2 --strategy iterative -o results/ > records.jsonl
    """
    arguments = check_arguments(inputs)
    asked = Asked(mask_ratio, block, box, mask)
    asked.check()
    return _run(arguments, call.options, call.settings, asked, out)


@dataclass(frozen=True, slots=True)
class Asked:
    """The ways to say what is hidden, as given."""

    ratio: float | None
    block: float | None
    box: str | None
    file: Path | None
    names: tuple[str, ...] = field(default=("--mask-ratio", "--block", "--box", "--mask"), init=False)

    def check(self) -> None:
        """Raise SettingsError unless exactly one is given, with a share between 0 and 1 if it is one."""
        values = (self.ratio, self.block, self.box, self.file)
        given = [name for name, value in zip(self.names, values, strict=True) if value is not None]
        if len(given) != 1:
            what = " and ".join(given) if given else "nothing says what is hidden"
            raise SettingsError(what, where="inpaint", expected=f"one of {', '.join(self.names)}")
        for name, share in (("--mask-ratio", self.ratio), ("--block", self.block)):
            if share is not None and not 0 < share < 1:
                raise SettingsError(f"is {share:g}", where=name, expected="above 0 and below 1")

    def mask(self, settings: InpaintSettings) -> AnyMask:
        """Return the mask.

        Raises:
            SettingsError: if it cannot be read.
        """
        from chexmix_cli.core.infer.inpainting.masked_film import PatternMask, parse_box, read_mask

        if self.ratio is not None:
            return PatternMask(settings.region.pattern, self.ratio)
        if self.block is not None:
            return PatternMask("block", self.block)
        if self.box is not None:
            return parse_box(self.box)
        assert self.file is not None
        return read_mask(self.file)


def _run(inputs: list[str], run: RunOptions, settings: InpaintSettings, asked: Asked, out: Path | None) -> int:
    from chexmix_cli.commands.inpaint.records import InpaintRecords
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.library.inpainting import Inpainter

    mask = asked.mask(settings)
    model = run.open_model(settings.input)
    inpainter = Inpainter(model, settings, mask, seed=run.seed)
    with Sinks(run, command="inpaint") as sinks:
        records = InpaintRecords(inpainter, out, run.provenance_of(model), sinks.page)
        loop = Loop(
            process=records.process,
            describe=records.describe,
            batch_size=settings.input.batch_size,
            sinks=sinks,
            workers=settings.input.workers,
        )
        reader = model.reader(keep_uids=run.keep_uids, keeps_picture=True)
        tally = loop.run(film_jobs(inputs, reader, counted=run.console.shows_progress), "inpaint")
    summary = records.audit_summary()
    if summary is not None:
        run.console.note(summary)
    return tally.exit_code
