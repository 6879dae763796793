"""Two results side by side: which numbers differ, by how much, and which differ in their protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.metrics.bootstrap import Statistic, paired_difference
from chexmix_cli.core.evals.result import Evaluation, Measurement
from chexmix_cli.core.settings.evaluation import BootstrapSettings


def compare(first: Evaluation, second: Evaluation, settings: BootstrapSettings) -> list[dict[str, Any]]:
    """Return a record for every number of either result, in the first one's order.

    A record has ``id`` (name and the fields that tell numbers of one result apart), ``first``, ``second``,
    ``difference`` (second minus first), ``interval`` and ``p_value`` of the paired bootstrap, ``changed`` (field to the
    two values, where the protocols differ) and ``remark``.
    """
    partners = _partners(first, second)
    records = []
    for one, other in partners:
        changed = {} if one is None or other is None else _changed(one, other)
        record: dict[str, Any] = {
            "id": label(_either(one, other)),
            "status": "ok",
            "first": None if one is None else one.value,
            "second": None if other is None else other.value,
            "difference": None,
            "interval": None,
            "p_value": None,
            "changed": changed,
        }
        record["remark"] = _fill(record, first, second, one, other, settings)
        records.append(record)
    return records


def _either(one: Measurement | None, other: Measurement | None) -> Measurement:
    found = one or other
    assert found is not None
    return found


def _partners(first: Evaluation, second: Evaluation) -> list[tuple[Measurement | None, Measurement | None]]:
    """Pair numbers of the same name by how many fields agree, best pairs first; each is used once."""
    left = list(second.measurements)
    pairs: dict[int, Measurement] = {}
    candidates = sorted(
        (
            (-_agreement(one, other), number, place)
            for number, one in enumerate(first.measurements)
            for place, other in enumerate(left)
            if one.name == other.name
        ),
    )
    used: set[int] = set()
    for _, number, place in candidates:
        if number not in pairs and place not in used:
            pairs[number] = left[place]
            used.add(place)
    found: list[tuple[Measurement | None, Measurement | None]] = [
        (one, pairs.get(number)) for number, one in enumerate(first.measurements)
    ]
    return found + [(None, other) for place, other in enumerate(left) if place not in used]


def _agreement(one: Measurement, other: Measurement) -> int:
    same = sum(other.fields.get(name) == value for name, value in one.fields.items())
    return 2 * same - len(set(one.fields) | set(other.fields))


def _changed(one: Measurement, other: Measurement) -> dict[str, list[str | None]]:
    names = [*one.fields, *(name for name in other.fields if name not in one.fields)]
    return {
        name: [one.fields.get(name), other.fields.get(name)]
        for name in names
        if one.fields.get(name) != other.fields.get(name)
    }


def label(measurement: Measurement) -> str:
    """Return a number's name and its fields, which tell it from the others of a result."""
    return "|".join([measurement.name, *(f"{key}:{value}" for key, value in measurement.fields.items())])


def _fill(
    record: dict[str, Any],
    first: Evaluation,
    second: Evaluation,
    one: Measurement | None,
    other: Measurement | None,
    settings: BootstrapSettings,
) -> str:
    """Fill in the comparison as far as there is one; return the remark."""
    if one is None or other is None:
        return f"only in the {'second' if one is None else 'first'}"
    if record["changed"]:
        named = ", ".join(f"{name} {a} / {b}" for name, (a, b) in record["changed"].items())
        return f"protocols differ: {named}"
    if one.value is None or other.value is None:
        return "no value in " + " and ".join(
            name for name, found in (("first", one), ("second", other)) if found.value is None
        )
    record["difference"] = other.value - one.value
    if one.statistic is None or one.statistic != other.statistic:
        return "no values by item: not tested"
    shared = _shared(first, second)
    if not len(shared):
        return "no item in common: not tested"
    statistic = _statistic(first, second, one, shared)
    groups_N = np.asarray(first.item_groups, np.int64)[shared[:, 0]]
    if not settings.resamples:
        return ""
    found = paired_difference(groups_N, statistic, resamples=settings.resamples, seed=settings.seed)
    record["difference"], record["p_value"] = found.difference, found.p_value
    record["interval"] = None if found.interval is None else list(found.interval)
    all_items = len(shared) == len(first.item_ids) == len(second.item_ids)
    return "" if all_items else f"on the {len(shared)} items they share"


def _shared(first: Evaluation, second: Evaluation) -> NDArray[np.int64]:
    """Return the indices of the items both have, (N, 2)."""
    place = {item: number for number, item in enumerate(second.item_ids)}
    found = [(number, place[item]) for number, item in enumerate(first.item_ids) if item in place]
    return np.array(found, np.int64).reshape(-1, 2)


def _statistic(first: Evaluation, second: Evaluation, one: Measurement, shared: NDArray[np.int64]) -> Statistic:
    made = one.statistic
    assert made is not None
    values = [
        _column(evaluation.columns, made.column)[shared[:, side]] for side, evaluation in enumerate((first, second))
    ]
    if made.labels is None:
        return lambda indices: np.array([_mean(value[indices]) for value in values])
    labels = [
        _column(evaluation.columns, made.labels)[shared[:, side]] for side, evaluation in enumerate((first, second))
    ]
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = roc_auc_score if made.kind == "auroc" else average_precision_score

    def of(indices: NDArray[np.int64]) -> NDArray[np.float64]:
        found = []
        for value, label in zip(values, labels, strict=True):
            chosen = indices[~np.isnan(label[indices]) & ~np.isnan(value[indices])]
            has_both = len(np.unique(label[chosen])) == 2
            found.append(float(score(label[chosen], value[chosen])) if has_both else float("nan"))
        return np.array(found)

    return of


def _column(columns: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.array([float("nan") if value is None else value for value in columns[name]], np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    usable = values[~np.isnan(values)]
    return float(usable.mean()) if len(usable) else float("nan")
