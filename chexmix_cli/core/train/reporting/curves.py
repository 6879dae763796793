"""RUN/losses.png: each quantity of a run over its steps, train and validation on one axis; the task's metric beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.present.plots import panels_png

_VAL = "val_"


def write_curves(records: Sequence[dict[str, Any]], path: Path, *, metric: str, best_step: int = 0) -> None:
    """Draw the curves of metrics records; nothing is drawn where there are none.

    Args:
        records: of a run.
        path: of the picture.
        metric: name of the validation figure that decides which model is best; it has a place of its own unless it is
            the validation side of a loss.
        best_step: where it was best, which is marked; 0: nowhere yet.
    """
    found = dict.fromkeys(name for record in records for name in record)
    # What is measured on one side alone says little about learning, but for the loss that is minimised.
    names = [name for name in found if name.startswith("loss") or f"{_VAL}{name}" in found]
    names = [name for name in names if name == "loss" or _points(records, name) != _points(records, "loss")]
    panels = {name: [("train", name), ("validation", f"{_VAL}{name}")] for name in names}
    if metric in found and metric.removeprefix(_VAL) not in panels:
        panels[metric.removeprefix(_VAL)] = [("validation", metric)]
    curves = [_curve(records, title, lines, metric, best_step) for title, lines in panels.items()]
    if not curves:
        return
    with atomic_write(path) as file:
        file.write(panels_png(curves))


def _curve(
    records: Sequence[dict[str, Any]], title: str, lines: Sequence[tuple[str, str]], metric: str, best_step: int
) -> Curve:
    series = []
    for label, name in lines:
        points = _points(records, name)
        if points:
            series.append(Series(name=label, x=list(points), y=list(points.values())))
    best = _points(records, metric).get(best_step)
    if best is not None and metric in dict(lines).values():
        series.append(Series(name=f"best, step {best_step}", x=[best_step], y=[best]))
    return Curve(name=title, title=title, x_label="optimiser steps", y_label="", series=series)


def _points(records: Sequence[dict[str, Any]], name: str) -> dict[int, float]:
    return {record["step"]: record[name] for record in records if name in record}
