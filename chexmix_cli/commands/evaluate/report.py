"""``chexmix evaluate report``: generated reports against references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.evaluate.output import Html, Out, deliver
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.console import Console
from chexmix_cli.core.settings.report_evaluation import ReportEvaluationSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chexmix_cli.core.data.report_files import ReportText
    from chexmix_cli.core.evals.reports.pairs import ReportPairs
    from chexmix_cli.core.evals.reports.protocol import JudgeAnswers

Predictions = Annotated[
    str,
    typer.Argument(
        metavar="PRED",
        help="Reports: JSON Lines, ReXrank JSON, CSV, TSV, folder of DICOM SR, or - for records.",
    ),
]
References = Annotated[
    Path,
    typer.Option("--references", metavar="FILE", help="Reference reports: the same formats, or a manifest."),
]
Answers = Annotated[
    Path | None,
    typer.Option(
        "--green-answers",
        metavar="FILE",
        help="Saved answers of a GREEN judge; with --green-weights, new ones are added.",
    ),
]
JudgeWeights = Annotated[
    Path | None, typer.Option("--green-weights", metavar="DIR", help="Run this GREEN judge (Phi, Hugging Face layout).")
]


@command(ReportEvaluationSettings, "device", "dtype", "is_json")
def evaluate_report(
    call: Call[ReportEvaluationSettings],
    predictions: Predictions,
    references: References,
    green_answers: Answers = None,
    green_weights: JudgeWeights = None,
    out: Out = None,
    html: Html = None,
) -> int:
    """Compare generated reports with references: words, findings, claims, GREEN.

    A reference without a prediction counts as an empty report; a prediction without a reference is listed, and
    the command ends with 3. Nothing is cut, nothing is dropped: docs/report-metrics.md.

    Examples:

        chexmix evaluate report reports.jsonl --references manifest.jsonl --html page.html

        chexmix generate-report films/ | chexmix evaluate report - --references refs.jsonl

        chexmix evaluate report reports.csv --references refs.csv --green-answers judge.jsonl
    """
    settings, options, console = call.settings, call.options, call.console
    from chexmix_cli.core.evals.reports.pairs import join_reports
    from chexmix_cli.core.evals.reports.protocol import evaluate_reports
    from chexmix_cli.library.evaluation.report_texts import read_texts

    stated = read_texts(references, prefers="reference")
    pairs = join_reports(_predictions(predictions), stated, settings.section)
    if pairs.missing:
        console.note(f"{len(pairs.missing)} references have no prediction: they count as empty reports")
    if pairs.without_reference:
        console.note(f"{len(pairs.without_reference)} references have no text in the section: they are left out")
    answers = _answers(green_answers, green_weights, pairs, settings, (options.device, options.dtype), console)
    scores = None if settings.external.scores is None else _scores(settings.external.scores, pairs)
    evaluation = evaluate_reports(pairs, settings, answers=answers, scores=scores)
    return deliver(evaluation, options, out=out, html=html)


def _predictions(source: str) -> list[ReportText]:
    from chexmix_cli.commands.records.streams import stdin_records
    from chexmix_cli.core.data.report_files import as_reports
    from chexmix_cli.library.evaluation.report_texts import read_texts

    if source == "-":
        return as_reports(stdin_records(), prefers="prediction")
    return read_texts(Path(source), prefers="prediction")


def _answers(
    saved: Path | None,
    weights: Path | None,
    pairs: ReportPairs,
    settings: ReportEvaluationSettings,
    place: tuple[str, str],
    console: Console,
) -> JudgeAnswers | None:
    if weights is None:
        if saved is None:
            return None
        from chexmix_cli.core.evals.reports.green_judge import read_answers

        return read_answers(saved, pairs)
    from chexmix_cli.core.evals.reports.green_judge import ask_judge
    from chexmix_cli.core.infer.decoding.text_model import TextModel
    from chexmix_cli.core.runtime import choose_device, choose_dtype

    device = choose_device(place[0])
    judge = TextModel.load(weights, device, choose_dtype(place[1], device, num_parameters=0))
    with console.progress("judge's answers") as move:
        return ask_judge(judge, pairs, settings.green, saved=saved, on_progress=move)


def _scores(path: Path, pairs: ReportPairs) -> Mapping[str, list[float | None]]:
    from chexmix_cli.core.data.report_files import read_scores

    return read_scores(path, pairs.ids)
