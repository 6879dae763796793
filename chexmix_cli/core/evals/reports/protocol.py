"""``evaluate report``: every metric of generated reports on one set of pairs, as one result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS
from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
from chexmix_cli.core.evals.reports.metrics.external import external_metrics
from chexmix_cli.core.evals.reports.metrics.green import KINDS, Judgement, Parser, judge
from chexmix_cli.core.evals.reports.metrics.labels import (
    Labels,
    comparison_metrics,
    contradiction_metrics,
    label_counts,
    label_metrics,
    report_labels,
)
from chexmix_cli.core.evals.reports.metrics.overlap import distinct_metrics, overlap_metrics
from chexmix_cli.core.evals.reports.metrics.quantity import Absent, Found, mean_quantity, measure
from chexmix_cli.core.evals.reports.pairs import ReportPairs
from chexmix_cli.core.evals.result import Case, Evaluation
from chexmix_cli.core.settings.report_evaluation import ReportEvaluationSettings

#: By which the best and worst reports of a page are chosen: column and heading.
_RANKED = (("label_f1_14_pos", "label F1"), ("sentence_bleu2", "BLEU-2"))


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeAnswers:
    """Answers of a GREEN judge.

    Attributes:
        by_id: id of an item to its answer; items without one have no GREEN.
        fields: of the signature: the judge, its prompt, how the texts were cut.
        num_cut: texts that the judge's prompt cut short, or None where that is not known.
    """

    by_id: Mapping[str, str]
    fields: Mapping[str, str] = field(default_factory=dict)
    num_cut: int | None = None


def evaluate_reports(
    pairs: ReportPairs,
    settings: ReportEvaluationSettings,
    *,
    answers: JudgeAnswers | None = None,
    scores: Mapping[str, Sequence[float | None]] | None = None,
) -> Evaluation:
    """Return the result of comparing reports.

    Args:
        pairs: the texts.
        settings: section, parsers, intervals.
        answers: of a GREEN judge, if there are any.
        scores: per-item columns of another tool.
    """
    fields = {"ref": settings.section, "clean": "none", "trunc": "no", "empty": "kept", "emptyref": "out"}
    texts = (pairs.predictions, pairs.references)
    predicted, stated = report_labels(pairs.predictions), report_labels(pairs.references)
    families = [
        overlap_metrics(*texts, fields),
        distinct_metrics(*texts, fields),
        label_metrics(predicted, stated, fields),
        comparison_metrics(*texts, fields),
        contradiction_metrics(pairs.whole_predictions, pairs.whole_references, {**fields, "ref": "whole"}),
        green_metrics(pairs.ids, answers, settings, fields),
    ]
    if settings.external.run or settings.external.crimson or scores:
        known = {name: list(values) for name, values in (scores or {}).items()}
        families.append(external_metrics(*texts, fields, known, settings.external))
    groups_N = group_numbers(pairs.patients)
    quantities = [one for family in families for one in family.quantities]
    measurements, columns = measure(quantities, groups_N, settings.bootstrap)
    for family in families:
        columns |= family.columns
    return Evaluation(
        task="report",
        measurements=measurements,
        data=_data(pairs, settings, answers, (predicted, stated), num_groups=len(set(groups_N.tolist()))),
        item_ids=pairs.ids,
        item_groups=groups_N.tolist(),
        columns=columns,
        cases=_cases(pairs, columns, (predicted, stated), settings.cases),
        failed=pairs.failed,
        missing=[
            {
                "what": f"{one.name} ({', '.join(f'{k} {v}' for k, v in list(one.fields.items())[:2])})",
                "reason": one.reason,
            }
            for one in quantities
            if isinstance(one, Absent)
        ],
    )


def green_metrics(
    ids: Sequence[str], answers: JudgeAnswers | None, settings: ReportEvaluationSettings, fields: Mapping[str, str]
) -> Found:
    """Return GREEN of each parser, its spread, and the mean number of each kind of significant error."""
    found = Found()
    chosen = settings.green.parser
    parsers: tuple[Parser, ...] = ("official", "strict") if chosen == "both" else (chosen,)
    for parser in parsers:
        made = {"parser": parser, **fields, **({} if answers is None else answers.fields)}
        if answers is None:
            reason = "no judge's answers: --green-answers FILE, or --green-weights DIR runs a judge"
            found.quantities.append(Absent(name="green", fields=made, reason=reason))
            continue
        judged = judgements(ids, answers, parser)
        values = [None if one is None else one.green for one in judged]
        found.quantities.append(mean_quantity("green", values, made, column=f"green_{parser}"))
        if parser == parsers[-1]:
            for place, kind in enumerate(KINDS):
                counts = [None if one is None or one.errors is None else float(one.errors[place]) for one in judged]
                column = f"green_errors_{kind}"
                found.quantities.append(mean_quantity("green_errors", counts, {"kind": kind, **made}, column=column))
    return found


def judgements(ids: Sequence[str], answers: JudgeAnswers, parser: Parser) -> list[Judgement | None]:
    """Return what a parser reads in the answer of each item, None where there is no answer."""
    return [judge(answers.by_id[one], parser) if one in answers.by_id else None for one in ids]


def _data(
    pairs: ReportPairs,
    settings: ReportEvaluationSettings,
    answers: JudgeAnswers | None,
    labels: tuple[Sequence[Labels], Sequence[Labels]],
    *,
    num_groups: int,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "reports": len(pairs.ids),
        "patients": num_groups if any(pairs.patients) else "not known",
        "section": settings.section,
        "empty_predictions": sum(not text for text in pairs.predictions),
        "missing_predictions": len(pairs.missing),
        "references_without_text": len(pairs.without_reference),
        "repeated_references": len(pairs.references) - len(set(pairs.references)),
    }
    if answers is not None:
        strict = judgements(pairs.ids, answers, "strict")
        problems = [one.problem for one in strict if one is not None and one.problem is not None]
        scored = [one.green for one in strict if one is not None and one.green is not None]
        mean = sum(scored) / len(scored) if scored else 0.0
        found["green"] = {
            "answers": sum(one is not None for one in strict),
            "without_answer": sum(one is None for one in strict),
            "unparsable": dict(Counter(problems)),
            "texts_cut_by_the_prompt": answers.num_cut,
            "spread": (sum((one - mean) ** 2 for one in scored) / len(scored)) ** 0.5 if scored else None,
        }
    found["present_in_predictions"], found["present_in_references"] = (label_counts(side) for side in labels)
    return found


def _cases(
    pairs: ReportPairs,
    columns: Mapping[str, Sequence[float | None]],
    labels: tuple[Sequence[Labels], Sequence[Labels]],
    count: int,
) -> list[Case]:
    """Return the worst and best reports by each ranking, with both texts and what was read in them."""
    found = []
    for column, heading in _RANKED:
        values = columns[column]
        ranked = sorted(range(len(pairs.ids)), key=lambda place: (values[place] or 0.0, place))
        for name, places in (("worst", ranked[:count]), ("best", ranked[::-1][:count])):
            for place in places:
                texts = {
                    heading: f"{values[place]:.3f}",
                    "reference": pairs.references[place],
                    "read in the reference": _named(labels[1][place]),
                    "prediction": pairs.predictions[place] or "(empty)",
                    "read in the prediction": _named(labels[0][place]),
                }
                found.append(Case(id=pairs.ids[place], group=f"{name} by {heading}", texts=texts))
    return found


def _named(labels: Labels) -> str:
    words = {1: "", -1: " (uncertain)"}
    named = [f"{finding}{words[value]}" for finding in CHEXPERT_FINDINGS if (value := labels[finding]) in words]
    return ", ".join(named) or "nothing"
