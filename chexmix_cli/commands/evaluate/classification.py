"""``chexmix evaluate classification``: a probe fitted on train rows, a head, or predictions, against the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chexmix_cli.commands.evaluate.output import Html, Out, Plots, Split, deliver, read_ratios
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, Sets, TokenShards
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings

Predictions = Annotated[
    str | None,
    typer.Argument(metavar="PRED", help="Records of chexmix classify, or - for stdin. Default: a probe is fitted."),
]
Manifest = Annotated[
    Path, typer.Option("--manifest", metavar="FILE", help="JSON Lines with labels and splits.", show_default=False)
]
Ratios = Annotated[
    str | None,
    typer.Option("--mask-ratio", metavar="R,R", help="Also mask these shares of the image, such as 0,0.2,0.4."),
]
HeadFile = Annotated[Path | None, typer.Option("--head", metavar="FILE", help="Evaluate this head; nothing is fitted.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="WHAT=S",
        help="Also call findings present or absent, at sensitivity=S or specificity=S of left-out train rows.",
    ),
    Sets("at"),
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="G,G", help="Also measure groups apart: sex, age_group, view, source."),
    Sets("by", read=lambda text: text.split(",")),
]


@command(EvaluateClassificationSettings, *MODEL, "seed", "is_json", "quarantine")
def evaluate_classification(
    call: Call[EvaluateClassificationSettings],
    predictions: Predictions = None,
    *,
    manifest: Manifest,
    mask_ratios: Ratios = None,
    head: HeadFile = None,
    tokens: TokenShards = None,
    at: At = None,
    by: By = None,
    split: Split = None,
    out: Out = None,
    html: Html = None,
    plots: Plots = None,
) -> int:
    """Measure the classification of findings: AUROC, AUPRC, F1 and calibration, by label, with 95 % intervals.

    Without predictions, linear probes are fitted on embeddings of the manifest's train rows (all choices by
    cross-validation over patients). With --mask-ratio, AUROC while tokens are masked, with a pixel baseline.

    Examples:

        chexmix evaluate classification --manifest films.jsonl --mask-ratio 0,0.2,0.4,0.6,0.8 --html page.html

        chexmix evaluate classification --manifest films.jsonl --head head.safetensors --at sensitivity=0.95 --by sex

        chexmix classify - < films.jsonl | chexmix evaluate classification - --manifest films.jsonl
    """
    ratios = _ratios(mask_ratios)
    if predictions is not None and (ratios or head is not None or tokens is not None):
        others = "--mask-ratio, --head or --tokens"
        raise SettingsError(f"predictions cannot be combined with {others}", where="PRED", expected="one of them")
    from chexmix_cli.library.evaluation.classification import evaluate_given, evaluate_model
    from chexmix_cli.library.evaluation.rows import EvaluationOptions

    settings = call.settings
    run = EvaluationOptions(seed=call.options.seed, with_cases=html is not None, progress=call.console.progress)
    if predictions is not None:
        from chexmix_cli.commands.records.streams import stdin_records
        from chexmix_cli.core.data.lines import read_json_lines

        path = Path(predictions)
        records = stdin_records() if predictions == "-" else read_json_lines(path)
        where = "stdin" if predictions == "-" else path.name
        evaluation = evaluate_given(records, where, manifest, split, settings, with_cases=html is not None)
    else:
        evaluation = evaluate_model(
            call.options.open_model(settings.input),
            settings,
            manifest,
            split,
            head_file=head,
            ratios=ratios,
            tokens=tokens,
            options=run,
        )
    return deliver(evaluation, call.options, out=out, html=html, plots=plots, manifest=manifest)


def _ratios(text: str | None) -> list[float]:
    ratios = [] if text is None else read_ratios(text)
    if not all(0 <= ratio <= 1 for ratio in ratios):
        raise SettingsError(f"{text!r}", where="--mask-ratio", expected="numbers in 0..1, with commas")
    return sorted(set(ratios))
