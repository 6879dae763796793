"""``chexmix.evaluate``: the evaluations as functions. A result knows every number with the protocol that made it.

Each gives an :class:`Evaluation`: ``measurements`` (name, value, interval, n, signature), ``to_dict`` for a file that
``chexmix evaluate diff`` reads, ``failed`` for what could not be used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chexmix_cli.core.evals.result import Evaluation
from chexmix_cli.library.evaluation.rows import EvaluationOptions, evaluation_rows

if TYPE_CHECKING:
    from chexmix_cli.core.data.report_files import ReportText
    from chexmix_cli.core.settings.classification import EvaluateClassificationSettings
    from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings
    from chexmix_cli.core.settings.report_evaluation import ReportEvaluationSettings
    from chexmix_cli.core.settings.retrieval import RetrievalEvaluationSettings
    from chexmix_cli.library.opened import OpenModel

__all__ = ["Evaluation", "classification", "diff", "inpainting", "report", "retrieval"]

#: Reports as a file (JSON Lines, ReXrank JSON, CSV, TSV, a manifest) or folder (DICOM SR), texts by id, or records.
Reports: TypeAlias = "str | os.PathLike[str] | Mapping[str, str] | Iterable[Mapping[str, Any]]"


def report(
    predictions: Reports, references: Reports, *, settings: ReportEvaluationSettings | None = None
) -> Evaluation:
    """Return generated reports compared with references: words, findings, claims (docs/report-metrics.md).

    Args:
        predictions: generated reports; one that no reference asks for is listed under ``failed``.
        references: what they should be; one without a prediction is compared with an empty report.
        settings: section, intervals.

    Raises:
        DataError: if a file or record cannot be read, or no reference has any text.
    """
    from chexmix_cli.core.evals.reports.pairs import join_reports
    from chexmix_cli.core.evals.reports.protocol import evaluate_reports
    from chexmix_cli.core.settings.report_evaluation import ReportEvaluationSettings

    chosen = settings or ReportEvaluationSettings()
    pairs = join_reports(_texts(predictions, "prediction"), _texts(references, "reference"), chosen.section)
    return evaluate_reports(pairs, chosen)


def classification(
    model: OpenModel,
    manifest: str | os.PathLike[str],
    *,
    split: str | None = None,
    head: str | os.PathLike[str] | None = None,
    mask_ratios: Sequence[float] = (),
    settings: EvaluateClassificationSettings | None = None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Return how a model classifies the findings of a manifest, by a probe fitted on its train rows or by a head.

    Args:
        model: of :func:`chexmix.load`.
        manifest: films and labels, JSON Lines.
        split: that is evaluated; None is ``test``, else ``val``.
        head: a head to evaluate; nothing is fitted then.
        mask_ratios: shares of the image's tokens that are masked, each a point of the masking curve.
        settings: probe, policies, intervals.
        options: seed, cases, progress.
    """
    from chexmix_cli.core.settings.classification import EvaluateClassificationSettings
    from chexmix_cli.library.evaluation.classification import evaluate_model

    return evaluate_model(
        model,
        settings or EvaluateClassificationSettings(),
        Path(manifest),
        split,
        head_file=None if head is None else Path(head),
        ratios=sorted(set(mask_ratios)),
        options=options or EvaluationOptions(),
    )


def inpainting(
    model: OpenModel,
    manifest: str | os.PathLike[str],
    *,
    split: str | None = None,
    settings: EvaluateInpaintingSettings | None = None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Return PSNR and SSIM of fills of a manifest's films by mask, with classical fills and the codes' ceiling.

    The arguments are those of :func:`classification`.
    """
    from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings
    from chexmix_cli.library.evaluation.inpainting import evaluate_model

    chosen = settings or EvaluateInpaintingSettings()
    return evaluate_model(model, chosen, Path(manifest), split, options=options or EvaluationOptions())


def retrieval(
    model: OpenModel,
    manifest: str | os.PathLike[str],
    *,
    split: str | None = None,
    settings: RetrievalEvaluationSettings | None = None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Return recalls and ranks of reports by image and of images by report.

    The arguments are those of :func:`classification`.
    """
    from chexmix_cli.core.settings.retrieval import RetrievalEvaluationSettings
    from chexmix_cli.library.evaluation.retrieval import evaluate_retrieval

    return evaluate_retrieval(
        evaluation_rows(Path(manifest), split),
        settings or RetrievalEvaluationSettings(),
        model=model,
        options=options or EvaluationOptions(),
    )


def diff(first: Evaluation, second: Evaluation) -> list[dict[str, Any]]:
    """Return a record for every number of either result: both values, their difference, paired interval and p-value."""
    from chexmix_cli.core.evals.diff import compare
    from chexmix_cli.core.settings.evaluation import BootstrapSettings

    return compare(first, second, BootstrapSettings())


def _texts(reports: Reports, kind: Literal["prediction", "reference"]) -> list[ReportText]:
    from chexmix_cli.core.data.report_files import as_reports
    from chexmix_cli.library.evaluation.report_texts import read_texts

    if isinstance(reports, str | os.PathLike):
        return read_texts(Path(reports), prefers=kind)
    if isinstance(reports, Mapping):
        reports = [{"id": name, "report": text} for name, text in reports.items()]
    return as_reports([(f"{kind} {number}", dict(one)) for number, one in enumerate(reports, start=1)], prefers=kind)
