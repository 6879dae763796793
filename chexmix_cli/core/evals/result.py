"""What an evaluation gives: numbers with their protocols, curves, cases; one JSON form for all tasks.

A number without its protocol cannot be compared: whether references were cut, what an uncertain label counts as, how
masks were drawn. So every :class:`Measurement` carries the fields that decide it, and its ``signature`` spells them
out; ``chexmix evaluate diff`` says in which fields two numbers differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chexmix_cli import __version__
from chexmix_cli.core.errors import DataError, Reason

SCHEMA = "chexmix-evaluation/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemStatistic:
    """How a number follows from per-item columns, so that two results can be compared item by item.

    Attributes:
        kind: ``mean`` of ``column`` over the items that have a value, or ``auroc`` / ``auprc`` of the scores in
            ``column`` against the 0/1 labels in ``labels`` (items without a label left out).
        column, labels: names of columns of the evaluation.
    """

    kind: str
    column: str
    labels: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the plain form."""
        found = {"kind": self.kind, "column": self.column}
        return found if self.labels is None else {**found, "labels": self.labels}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One number.

    Attributes:
        name: of the metric, such as ``auroc``.
        value: the number, or None if it is not defined or could not be computed; ``reason`` then says why.
        fields: what decides it, by short names, in the order they are spelled out: label set, uncertainty policy,
            mask pattern and ratio, seeds, reference section, ... Values are short words or numbers.
        n: items it was computed from.
        interval: 95 % bootstrap interval by patient, or None where there is none.
        statistic: how it follows from the items, or None.
    """

    name: str
    value: float | None
    n: int
    fields: Mapping[str, str] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    reason: str | None = None
    statistic: ItemStatistic | None = None

    def __post_init__(self) -> None:
        for part in (self.name, *self.fields, *self.fields.values()):
            assert "|" not in part, f"{part!r} holds the separator of signatures"
        assert (self.value is None) == (self.reason is not None), f"{self.name}: a value or a reason, not both"
        assert self.value is None or math.isfinite(self.value), f"{self.name} is {self.value}"

    @property
    def signature(self) -> str:
        """Return ``name|field:value|...|n:N|v:VERSION``."""
        named = [f"{key}:{value}" for key, value in self.fields.items()]
        return "|".join([self.name, *named, f"n:{self.n}", f"v:{__version__}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form, with the signature."""
        return {
            "name": self.name,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "n": self.n,
            "fields": dict(self.fields),
            "signature": self.signature,
            **({} if self.reason is None else {"reason": self.reason}),
            **({} if self.statistic is None else {"statistic": self.statistic.to_dict()}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a curve: points and, where there are intervals, their bounds (same length)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for values in (self.y, self.low, self.high):
            assert values is None or len(values) == len(self.x), f"{self.name}: points and bounds of different lengths"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One plot.

    Attributes:
        name: file name of the plot, lower case with hyphens.
        title, x_label, y_label: of the axes, units included.
        series: its lines.
        is_roc: the plot is square and shows the diagonal.
        log_axes: axes on which equal ratios are equally far apart: ``x``, ``xy`` or none.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    is_roc: bool = False
    log_axes: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One example to look at: a best or worst item.

    Attributes:
        id: of the item.
        group: heading it stands under, such as ``worst by PSNR``.
        texts: what is shown, by heading.
        pictures: PNG bytes by caption; shown in HTML only, never part of the JSON.
    """

    id: str
    group: str
    texts: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One result.

    Attributes:
        task: ``report``, ``classification``, ``retrieval`` or ``inpainting``.
        measurements: all numbers.
        model: name, hash, dtype and the like of the model that was run, or None if predictions came from a file.
        data: what it was measured on: counts, split, label counts; no patient's name or id.
        item_ids: ids of the items, in order, no one twice.
        item_groups: a number for each item, the same for items of one patient.
        columns: per-item values by name, each as long as ``item_ids``; None where an item has none.
        curves, cases: for plots and pages.
        failed: ids of items that could not be used, with the reason's code and message.
        missing: what was not computed, and why (a package, weights, labels that are not there).
    """

    task: str
    measurements: Sequence[Measurement]
    model: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    item_ids: Sequence[str] = ()
    item_groups: Sequence[int] = ()
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    cases: Sequence[Case] = ()
    failed: Sequence[Mapping[str, str]] = ()
    missing: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        count = len(self.item_ids)
        assert len(self.item_groups) == count, "a group for every item"
        assert len(set(self.item_ids)) == count, "an item id twice"
        for name, values in self.columns.items():
            assert len(values) == count, f"column {name} has {len(values)} values for {count} items"
        for measurement in self.measurements:
            if measurement.statistic is not None:
                assert measurement.statistic.column in self.columns, f"no column {measurement.statistic.column}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; :func:`read_evaluation` takes it back."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "task": self.task,
            "model": None if self.model is None else dict(self.model),
            "data": dict(self.data),
            "metrics": [measurement.to_dict() for measurement in self.measurements],
            "missing": [dict(one) for one in self.missing],
            "failed": [dict(one) for one in self.failed],
            "curves": [_curve_dict(curve) for curve in self.curves],
            "items": {
                "ids": list(self.item_ids),
                "groups": list(self.item_groups),
                "columns": {name: list(values) for name, values in self.columns.items()},
            },
        }


def read_evaluation(values: Any, where: str) -> Evaluation:
    """Return the evaluation of its JSON form (without pictures, which it does not hold).

    Raises:
        DataError: if it is not a result of ``chexmix evaluate``.
    """
    try:
        if values["schema"] != SCHEMA:
            raise DataError(Reason.BAD_RECORD, f"schema {values['schema']!r}", where=where, expected=SCHEMA)
        items = values["items"]
        return Evaluation(
            task=values["task"],
            measurements=[_measurement(one) for one in values["metrics"]],
            model=values["model"],
            data=values["data"],
            item_ids=items["ids"],
            item_groups=items["groups"],
            columns=items["columns"],
            curves=[_curve(one) for one in values["curves"]],
            failed=values["failed"],
            missing=values["missing"],
        )
    except (KeyError, TypeError, AssertionError) as error:
        raise DataError(
            Reason.BAD_RECORD, f"no evaluation ({error!r})", where=where, expected="a result of `chexmix evaluate`"
        ) from None


def _measurement(values: Mapping[str, Any]) -> Measurement:
    statistic, interval = values.get("statistic"), values["interval"]
    return Measurement(
        name=values["name"],
        value=values["value"],
        n=values["n"],
        fields=values["fields"],
        interval=None if interval is None else (interval[0], interval[1]),
        reason=values.get("reason"),
        statistic=None if statistic is None else ItemStatistic(**statistic),
    )


def _curve_dict(curve: Curve) -> dict[str, Any]:
    series = [
        {"name": one.name, "x": list(one.x), "y": list(one.y)}
        | ({} if one.low is None or one.high is None else {"low": list(one.low), "high": list(one.high)})
        for one in curve.series
    ]
    texts = {"name": curve.name, "title": curve.title, "x_label": curve.x_label, "y_label": curve.y_label}
    return {**texts, "is_roc": curve.is_roc, "series": series}


def _curve(values: Mapping[str, Any]) -> Curve:
    return Curve(**{**values, "series": [Series(**one) for one in values["series"]]})
