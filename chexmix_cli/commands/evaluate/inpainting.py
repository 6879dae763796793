"""``chexmix evaluate inpainting``: films of a manifest under many masks, the model beside what it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.evaluate.output import Delivery, Html, Out, Plots, Split, deliver, evaluation_rows
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Sets
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings

if TYPE_CHECKING:
    from chexmix_cli.library.opened import OpenModel


def _ratios(text: str) -> list[float]:
    return [_number(part) for part in text.split(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{text!r} is no number", where="--mask-ratios", expected="such as 0.2,0.5,0.8") from None


def _patterns(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


Manifest = Annotated[Path, typer.Option("--manifest", metavar="FILE", help="Films: a manifest, see docs/data.md.")]
MaskRatios = Annotated[
    str | None,
    typer.Option("--mask-ratios", metavar="R,R,...", help="Shares of codes hidden. Default: 0.2,0.5,0.8."),
    Sets("masks.ratios", read=_ratios),
]
Patterns = Annotated[
    str | None,
    typer.Option("--patterns", metavar="P,P,...", help="random, block, border. Default: random,block."),
    Sets("masks.patterns", read=_patterns),
]


@command(EvaluateInpaintingSettings, *MODEL, "seed", "is_json")
def evaluate_inpainting(
    call: Call[EvaluateInpaintingSettings],
    manifest: Manifest,
    split: Split = None,
    mask_ratios: MaskRatios = None,
    patterns: Patterns = None,
    out: Out = None,
    html: Html = None,
    plots: Plots = None,
) -> int:
    """Measure inpainting: PSNR, SSIM and code accuracy by pattern and ratio, with the baselines in the same run.

    Masks are nested and the same for every method. Leak-free unless --set masks.protocols names the published way.

    Examples:

        chexmix evaluate inpainting --manifest manifest.jsonl --mask-ratios 0.2,0.5,0.8 --patterns random,block

        chexmix evaluate inpainting --manifest m.jsonl --set images=100 --html page.html -o result.json
    """

    settings, console, seed = call.settings, call.console, call.options.seed
    chosen_split, rows = evaluation_rows(manifest, split)
    model = call.options.open_model(settings.input)
    from chexmix_cli.commands.evaluate.output import failed_items
    from chexmix_cli.core.evals.inpainting.result import chosen_rows, inpainting_evaluation
    from chexmix_cli.core.evals.inpainting.run import InpaintingRun

    chosen = chosen_rows(rows, settings, seed)
    with console.progress("films") as move:
        collected = InpaintingRun(model.restorer, model.preset, settings, seed).run(chosen, move)
    sample = "all" if len(chosen) == len(rows) else f"seed {seed}"
    evaluation = inpainting_evaluation(
        collected,
        settings,
        seed=seed,
        model=_model_fields(model, seed),
        data={"split": chosen_split, "rows": len(rows), "sample": sample},
        failed=failed_items(collected.failed),
    )
    to = Delivery(out=out, html=html, plots=plots, is_json=call.options.is_json, console=console)
    return deliver(evaluation, to)


def _model_fields(model: OpenModel, seed: int) -> dict[str, Any]:
    return {**model.provenance(seed=seed), "image_dtype": str(model.image_dtype).removeprefix("torch.")}
