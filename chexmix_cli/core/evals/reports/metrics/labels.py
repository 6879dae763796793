"""Clinical agreement without another model: what our labeller reads in the prediction, against the reference.

N items, L findings, R resamples. TP, FP, FN: true positives, false positives, false negatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, Label, policy_labels
from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.reports.metrics.quantity import Finisher, Found, Quantity, divide, mean_quantity
from chexmix_cli.core.settings.choices import Policy
from chexmix_cli.core.text.comparisons import find_comparisons
from chexmix_cli.core.text.consistency import find_contradictions
from chexmix_cli.core.text.labelling.labeller import label_report

#: The five of the CheXpert competition.
FIVE_FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_SETS: Mapping[str, tuple[str, ...]] = {"14": CHEXPERT_FINDINGS, "5": FIVE_FINDINGS}
_LABELLER = "rules-3"
#: What an uncertain label counts as, by its name in signatures.
_UNCERTAIN: Mapping[str, Policy] = {"pos": "ones", "neg": "zeros"}

Labels = Mapping[str, Label]


def report_labels(texts: Sequence[str]) -> list[dict[str, Label]]:
    """Return the 14 CheXpert labels of each report."""
    return [label_report(text, CHEXPERT_FINDINGS) for text in texts]


def label_metrics(predicted: Sequence[Labels], stated: Sequence[Labels], fields: Mapping[str, str]) -> Found:
    """Return F1 pooled over findings (micro), averaged over them (macro), of each finding, and of each report.

    Blank counts as absent. A finding that neither side names has no F1: ``zero:0`` counts it as 0 in the macro average,
    as CheXbert's evaluation does, ``zero:out`` leaves it out.
    """
    found = Found()
    base = {**fields, "labeller": _LABELLER}
    for uncertain, policy in _UNCERTAIN.items():
        for name, findings in _SETS.items():
            counts_NL3 = _counts(predicted, stated, findings, policy)
            flat_NK = counts_NL3.reshape(len(counts_NL3), -1)
            made = {"set": name, "unc": uncertain, **base}
            found.quantities.append(_f1("label_f1", {"avg": "micro", **made}, flat_NK, _micro))
            found.quantities.append(_f1("label_f1", {"avg": "macro", "zero": "0", **made}, flat_NK, _macro(0.0)))
            found.quantities.append(_f1("label_f1", {"avg": "macro", "zero": "out", **made}, flat_NK, _macro(np.nan)))
            reports = [_report_f1(*counts_L3.sum(axis=0).tolist()) for counts_L3 in counts_NL3]
            column = f"label_f1_{name}_{uncertain}"
            found.quantities.append(mean_quantity("label_f1", reports, {"avg": "report", **made}, column=column))
        counts_NL3 = _counts(predicted, stated, CHEXPERT_FINDINGS, policy)
        for place, finding in enumerate(CHEXPERT_FINDINGS):
            made = {"finding": finding, "unc": uncertain, **base}
            found.quantities.append(_f1("label_f1", made, counts_NL3[:, place], _micro))
    return found


def comparison_metrics(predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Found:
    """Return the share of reports that claim a comparison with an earlier study, of either side."""
    found = Found()
    for of, side in (("predictions", predictions), ("references", references)):
        claims: list[float | None] = [float(bool(find_comparisons(text))) for text in side]
        made = {"of": of, **fields, "phrases": "rules-1"}
        found.quantities.append(mean_quantity("comparison_claims", claims, made, column=f"comparison_claims_{of}"))
    return found


def contradiction_metrics(predictions: Sequence[str], references: Sequence[str], fields: Mapping[str, str]) -> Found:
    """Return the share of reports that contradict themselves, of either side; texts with their headings."""
    found = Found()
    for of, side in (("predictions", predictions), ("references", references)):
        values: list[float | None] = [float(bool(find_contradictions(text))) for text in side]
        made = {"of": of, **fields, "labeller": _LABELLER}
        found.quantities.append(mean_quantity("self_contradiction", values, made, column=f"self_contradiction_{of}"))
    return found


def label_counts(labels: Sequence[Labels]) -> dict[str, int]:
    """Return in how many reports each finding is present."""
    return {finding: sum(one[finding] == 1 for one in labels) for finding in CHEXPERT_FINDINGS}


def _counts(
    predicted: Sequence[Labels], stated: Sequence[Labels], findings: Sequence[str], policy: Policy
) -> NDArray[np.float64]:
    """Return TP, FP and FN of each item and finding, (N, L, 3)."""
    predicted_NL, stated_NL = (
        policy_labels(labels, findings, policy, unstated="zeros") == 1 for labels in (predicted, stated)
    )
    return np.stack([predicted_NL & stated_NL, predicted_NL & ~stated_NL, ~predicted_NL & stated_NL], axis=-1).astype(
        np.float64
    )


def _f1(name: str, fields: Mapping[str, str], sums_NK: Floats, finish: Finisher) -> Quantity:
    return Quantity(
        name=name,
        fields=fields,
        sums_NK=sums_NK,
        finish=finish,
        undefined="neither the references nor the predictions have a positive",
    )


def _of(counts_RL3: Floats) -> Floats:
    """Return 2 TP / (2 TP + FP + FN), NaN where nothing is positive on either side."""
    hits = 2 * counts_RL3[..., 0]
    return divide(hits, hits + counts_RL3[..., 1] + counts_RL3[..., 2])


def _micro(sums_RK: Floats) -> Floats:
    return _of(sums_RK.reshape(len(sums_RK), -1, 3).sum(axis=1))


def _macro(undefined: float) -> Finisher:
    def finish(sums_RK: Floats) -> Floats:
        value_RL = _of(sums_RK.reshape(len(sums_RK), -1, 3))
        is_defined_RL = ~np.isnan(value_RL)
        total_R = np.where(is_defined_RL, value_RL, 0.0).sum(axis=1)
        counted_R = is_defined_RL.sum(axis=1) if np.isnan(undefined) else np.full(len(value_RL), value_RL.shape[1])
        return divide(total_R, counted_R.astype(np.float64))

    return finish


def _report_f1(hits: float, false: float, missed: float) -> float:
    """Return the F1 of one report; two reports that name nothing agree."""
    return 1.0 if hits + false + missed == 0 else 2 * hits / (2 * hits + false + missed)
