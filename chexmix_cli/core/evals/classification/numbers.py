"""Numbers of classification: each metric of each label under each policy, means over labels, intervals by patient.

A label with one class only has no AUROC, and one without a positive no F1: such a number is null with the counts as its
reason, and enters no mean. N items, K labels, Q metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import COMPETITION_FINDINGS, policy_labels
from chexmix_cli.core.evals.classification.items import Items, Scored
from chexmix_cli.core.evals.metrics.binary import CALIBRATION_BINS, Floats, RankedScores
from chexmix_cli.core.evals.metrics.bootstrap import weighted_intervals
from chexmix_cli.core.evals.result import Curve, ItemStatistic, Measurement, Series
from chexmix_cli.core.settings.choices import Policy, Unstated
from chexmix_cli.core.settings.evaluation import BootstrapSettings

#: Metrics and the fields that they add.
METRICS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("auroc", {}),
    ("auprc", {}),
    ("f1", {"threshold": "0.5"}),
    ("f1", {"threshold": "train"}),
    ("ece", {"bins": str(CALIBRATION_BINS)}),
    ("brier", {}),
)
_METRIC_KEYS = [(name, more.get("threshold")) for name, more in METRICS]
#: Labels drawn in one plot.
_MOST_DRAWN = 8


def measure(
    items: Items,
    scored: Scored,
    policy: Policy,
    unstated: Unstated,
    settings: BootstrapSettings,
    *,
    columns: dict[str, list[float | None]],
) -> list[Measurement]:
    """Return every number of one set of probabilities under one policy.

    Args:
        items: what was scored.
        scored: probabilities.
        policy: what an uncertain label counts as.
        unstated: what a label counts as that is not stated.
        settings: of the bootstrap.
        columns: gets the scores and labels that the numbers follow from.
    """
    label_NK = policy_labels(items.labels, scored.names, policy, unstated=unstated)
    ranked = RankedScores(scored.prob_NK, label_NK)
    threshold_K = np.full(len(scored.names), np.nan) if scored.threshold_K is None else scored.threshold_K
    groups = _label_groups(scored.names)
    is_defined_QK = ~np.isnan(_table(ranked, np.ones(len(items.ids)), threshold_K))

    def numbers(weight_N: Floats) -> Floats:
        table_QK = _table(ranked, weight_N, threshold_K)
        means = [
            np.array([mean_of_same(*pair) for pair in zip(table_QK[:, places], is_defined_QK[:, places], strict=True)])
            for places in groups.values()
        ]
        return np.concatenate([table_QK, np.stack(means, axis=1)], axis=1)

    value_QM = numbers(np.ones(len(items.ids)))
    intervals = weighted_intervals(items.groups_N, numbers, value_QM.shape, settings)
    positives_K, negatives_K = ranked.counts()
    base = base_fields(items, scored, policy, unstated)
    made = []
    for place, name in enumerate(scored.names):
        counts = f"{positives_K[place]} positive, {negatives_K[place]} negative"
        statistics = _statistics(columns, scored, name, policy, scored.prob_NK[:, place], label_NK[:, place])
        fields = {
            "label": name.replace("|", "/"),
            **base,
            "pos": str(positives_K[place]),
            "neg": str(negatives_K[place]),
        }
        count = int(positives_K[place] + negatives_K[place])
        made += _measurements(fields, count, value_QM[:, place], intervals[:, place], counts, statistics, scored)
    made += _absent(scored, base)
    for place, (name, members) in enumerate(groups.items(), start=len(scored.names)):
        defined_Q = (~np.isnan(value_QM[:, members])).sum(1)
        wanted = len(members) + sum(_belongs(name, label) for label in scored.absent)
        fields = {"label": name, **base}
        reason = "it is defined for no label"
        means = _measurements(fields, len(items.ids), value_QM[:, place], intervals[:, place], reason, {}, scored)
        of_each = dict(zip(_METRIC_KEYS, defined_Q, strict=True))
        made += [
            replace(
                one, fields={**one.fields, "labels": f"{of_each[one.name, one.fields.get('threshold')]} of {wanted}"}
            )
            for one in means
        ]
    return made


def curves(items: Items, scored: Scored, policy: Policy, unstated: Unstated) -> list[Curve]:
    """Return the precision-recall curve of the labels with most positives, in the labels' order."""
    label_NK = policy_labels(items.labels, scored.names, policy, unstated=unstated)
    ranked = RankedScores(scored.prob_NK, label_NK)
    positives_K, negatives_K = ranked.counts()
    precision_K = ranked.auprc(np.ones(len(items.ids)))
    usable = [place for place in range(len(scored.names)) if min(positives_K[place], negatives_K[place]) > 0]
    drawn = sorted(sorted(usable, key=lambda place: -positives_K[place])[:_MOST_DRAWN])
    series = []
    for place in drawn:
        x, y = ranked.pr_points(place)
        series.append(Series(name=f"{scored.names[place]} {precision_K[place]:.3f}", x=x.tolist(), y=y.tolist()))
    if not drawn:
        return []
    return [
        Curve(
            name="precision-recall",
            title="Precision and recall, with AUPRC",
            x_label="recall",
            y_label="precision",
            series=series,
        ),
    ]


def _label_groups(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return what means are taken over: all labels, and the competition's where all five are present."""
    groups = {"macro": np.arange(len(names))}
    if set(COMPETITION_FINDINGS) <= set(names) and len(names) > len(COMPETITION_FINDINGS):
        groups["macro of the competition's"] = np.array([list(names).index(name) for name in COMPETITION_FINDINGS])
    return groups


def _belongs(group: str, label: str) -> bool:
    return group == "macro" or label in COMPETITION_FINDINGS


def _table(ranked: RankedScores, weight_N: Floats, threshold_K: Floats) -> Floats:
    """Return the metrics in their order, (Q, K)."""
    even_K = np.full(len(threshold_K), 0.5)
    train_K = np.where(np.isnan(threshold_K), np.nan, ranked.f1(weight_N, threshold_K))
    return np.stack(
        [
            ranked.auroc(weight_N),
            ranked.auprc(weight_N),
            ranked.f1(weight_N, even_K),
            train_K,
            ranked.calibration_error(weight_N),
            ranked.brier(weight_N),
        ]
    )


def base_fields(items: Items, scored: Scored, policy: Policy, unstated: Unstated) -> dict[str, str]:
    """Return the fields that all numbers of some scores have."""
    by = "image" if items.study == "one" else f"study-{items.study}"
    fitted = {} if scored.fit is None else {"fit": scored.fit}
    return {"by": by, **fitted, "policy": policy, "unstated": unstated, **scored.fields}


def _measurements(
    fields: Mapping[str, str],
    count: int,
    value_Q: Floats,
    interval_Q: NDArray[np.object_],
    reason: str,
    statistics: Mapping[str, ItemStatistic],
    scored: Scored,
) -> list[Measurement]:
    made = []
    for (name, more), value, interval in zip(METRICS, value_Q, interval_Q, strict=True):
        if more.get("threshold") == "train" and scored.threshold_K is None:
            continue
        is_defined = bool(np.isfinite(value))
        made.append(
            Measurement(
                name=name,
                value=float(value) if is_defined else None,
                n=count,
                fields={**fields, **more},
                interval=interval if is_defined else None,
                reason=None if is_defined else reason,
                statistic=statistics.get(name) if is_defined else None,
            )
        )
    return made


def _absent(scored: Scored, base: Mapping[str, str]) -> list[Measurement]:
    return [
        Measurement(name="auroc", value=None, n=0, fields={"label": name.replace("|", "/"), **base}, reason=reason)
        for name, reason in scored.absent.items()
    ]


def _statistics(
    columns: dict[str, list[float | None]], scored: Scored, name: str, policy: Policy, prob_N: Floats, label_N: Floats
) -> dict[str, ItemStatistic]:
    """Put a label's columns among those of the result, and return what its ranks follow from."""
    score = f"probability of {name}" + ("" if scored.fit is None else f", fit {scored.fit}")
    label = f"{name}, {policy}"
    columns[score] = [float(value) for value in prob_N]
    columns[label] = [None if np.isnan(value) else float(value) for value in label_N]
    return {kind: ItemStatistic(kind=kind, column=score, labels=label) for kind in ("auroc", "auprc")}


def mean_of_same(value_K: Floats, is_defined_K: NDArray[np.bool_]) -> float:
    """Return the mean over labels, NaN if there is none, or if a resample lost one of them.

    Args:
        value_K: a metric of each label, of all items or of a resample.
        is_defined_K: labels that have it on all items. A resample without the few positives of one of these would
            give the mean over other labels: another number, and no part of this one's interval.
    """
    return float(value_K[is_defined_K].mean()) if is_defined_K.any() else float("nan")
