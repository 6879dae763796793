"""``chexmix evaluate retrieval``: recalls and ranks in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chexmix_cli.commands.evaluate.output import Html, Out, Plots, Split, deliver
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.retrieval import RetrievalEvaluationSettings

Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="[INDEX|SCORES]",
        help="An index, or a safetensors file of vectors or scores. Default: the manifest's rows are embedded.",
        show_default=False,
    ),
]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", metavar="FILE", help="Manifest; with INDEX or SCORES it gives patients, texts, labels."),
]


@command(RetrievalEvaluationSettings, *MODEL, "seed", "is_json", "quarantine")
def evaluate_retrieval(
    call: Call[RetrievalEvaluationSettings],
    source: Source = None,
    manifest: Manifest = None,
    split: Split = None,
    out: Out = None,
    html: Html = None,
    plots: Plots = None,
) -> int:
    """Measure image-to-text and text-to-image retrieval.

    Recall at 1, 5 and 10 and their sum, median and mean rank, MRR; the pair, the identical text or the same labels
    count as found; ties get their mean rank. Every number comes with that of a random order.

    Examples:

        chexmix evaluate retrieval --manifest manifest.jsonl

        chexmix evaluate retrieval --manifest manifest.jsonl --set scorer=likelihood --set pool.size=100

        chexmix evaluate retrieval index --manifest manifest.jsonl -o retrieval.json --html retrieval.html
    """
    if source is None and manifest is None:
        raise SettingsError("nothing to evaluate", where="--manifest", expected="a manifest, an index or scores")
    from chexmix_cli.library.evaluation import retrieval
    from chexmix_cli.library.evaluation.rows import EvaluationOptions, evaluation_rows, manifest_ids

    run = EvaluationOptions(seed=call.options.seed, with_cases=html is not None, progress=call.console.progress)
    evaluation = retrieval.evaluate_retrieval(
        None if manifest is None else evaluation_rows(manifest, split),
        call.settings,
        model=call.options.open_model(call.settings.input) if source is None else None,
        source=source,
        ids=None if manifest is None else manifest_ids(manifest),
        options=run,
    )
    return deliver(evaluation, call.options, out=out, html=html, plots=plots, manifest=manifest)
