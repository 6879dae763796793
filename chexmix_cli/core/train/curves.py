"""RUN/losses.png: every loss of a run over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.present.plots import curve_png


def write_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the training and validation losses of metrics records; nothing is drawn where there are none."""
    names = {name for record in records for name in record if name.removeprefix("val_").startswith("loss")}
    series = []
    for name in sorted(names):
        points = [(record["step"], record[name]) for record in records if name in record]
        series.append(Series(name=name, x=[step for step, _ in points], y=[value for _, value in points]))
    if not series:
        return
    curve = Curve(name="losses", title="Losses", x_label="optimiser steps", y_label="loss a unit", series=series)
    with atomic_write(path) as file:
        file.write(curve_png(curve))
