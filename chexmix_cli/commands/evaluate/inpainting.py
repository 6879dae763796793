"""``chexmix evaluate inpainting``: films of a manifest under many masks, the model and what it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chexmix_cli.commands.evaluate.output import Html, Out, Plots, Split, deliver, read_ratios
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Sets
from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings


def _patterns(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


Manifest = Annotated[Path, typer.Option("--manifest", metavar="FILE", help="Films: a manifest, see docs/data.md.")]
MaskRatios = Annotated[
    str | None,
    typer.Option("--mask-ratio", metavar="R,R,...", help="Shares of codes hidden. Default: 0.2,0.5,0.8."),
    Sets("masks.ratios", read=read_ratios),
]
Patterns = Annotated[
    str | None,
    typer.Option("--patterns", metavar="P,P,...", help="random, block, border. Default: random,block."),
    Sets("masks.patterns", read=_patterns),
]


@command(EvaluateInpaintingSettings, *MODEL, "seed", "is_json", "quarantine")
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

    Masks are nested and the same for every method. Leak-free unless --set masks.protocols names the published protocol.

    Examples:

        chexmix evaluate inpainting --manifest manifest.jsonl --mask-ratio 0.2,0.5,0.8 --patterns random,block

        chexmix evaluate inpainting --manifest m.jsonl --set images=100 --html page.html -o result.json
    """

    from chexmix_cli.library.evaluation.inpainting import evaluate_model
    from chexmix_cli.library.evaluation.rows import EvaluationOptions

    run = EvaluationOptions(seed=call.options.seed, with_cases=html is not None, progress=call.console.progress)
    evaluation = evaluate_model(
        call.options.open_model(call.settings.input),
        call.settings,
        manifest,
        split,
        options=run,
    )
    return deliver(evaluation, call.options, out=out, html=html, plots=plots, manifest=manifest)
