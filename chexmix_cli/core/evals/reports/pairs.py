"""Predictions and their references: a left join on the references, in which nothing is dropped silently.

A reference without a prediction is scored against an empty text. A prediction of an id that no reference has is an
error. A reference without text cannot be scored: it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chexmix_cli.core.data.report_files import ReportText
from chexmix_cli.core.data.studies.ids import unknown_ids
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.choices import Section


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPairs:
    """Texts that are compared, item by item.

    Attributes:
        ids, predictions, references: as long as each other, in the order of the references.
        whole_predictions, whole_references: the same with headings and all sections.
        patients: what each item is grouped by, or None.
        missing: ids that have no prediction, or a failed one; they are items with an empty prediction.
        without_reference: ids left out because their reference has no text in the section.
        failed: ids with code and message: failed predictions, and predictions that no reference asks for.
    """

    ids: list[str]
    predictions: list[str]
    references: list[str]
    whole_predictions: list[str]
    whole_references: list[str]
    patients: list[str | None]
    missing: list[str]
    without_reference: list[str]
    failed: list[Mapping[str, str]]


def join_reports(predictions: Sequence[ReportText], references: Sequence[ReportText], section: Section) -> ReportPairs:
    """Return what is compared.

    Raises:
        DataError: if no reference has any text.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    pairs = ReportPairs(
        ids=[],
        predictions=[],
        references=[],
        whole_predictions=[],
        whole_references=[],
        patients=[],
        missing=[],
        without_reference=[],
        failed=[],
    )
    for reference in references:
        found = by_id.pop(reference.id, None)
        if found is not None and found.failed is not None:
            pairs.failed.append({"id": found.id, "code": found.failed[0], "message": found.failed[1]})
        text = reference.text(section)
        if not text:
            pairs.without_reference.append(reference.id)
            continue
        if found is None or found.failed is not None:
            pairs.missing.append(reference.id)
        pairs.ids.append(reference.id)
        pairs.references.append(text)
        pairs.predictions.append("" if found is None else found.text(section))
        pairs.whole_references.append(reference.whole)
        pairs.whole_predictions.append("" if found is None else found.whole)
        pairs.patients.append(reference.patient)
    for item_id, error in unknown_ids(by_id, {reference.id for reference in references}, "no reference"):
        pairs.failed.append({"id": item_id, "code": error.code, "message": error.with_hint})
    if not pairs.ids:
        raise DataError(Reason.BAD_RECORD, f"no reference has text in section {section!r}", expected="references")
    return pairs
