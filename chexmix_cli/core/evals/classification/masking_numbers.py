"""What a masking sweep comes to: AUROC at each point, areas under curves, intervals, curves.

N items, K labels, S seeds, L points, M columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.classification.masking_sweep import MaskedPoint
from chexmix_cli.core.evals.classification.numbers import mean_of_same
from chexmix_cli.core.evals.metrics.binary import Floats, RankedScores
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, percentile_intervals
from chexmix_cli.core.evals.result import Curve, ItemStatistic, Measurement, Series
from chexmix_cli.core.settings.choices import Pattern
from chexmix_cli.core.settings.evaluation import BootstrapSettings

Interval = tuple[float, float] | None
Columns = dict[str, list[float | None]]


def sweep_numbers(
    points: Sequence[MaskedPoint],
    label_NK: Floats,
    names: Sequence[str],
    groups_N: NDArray[np.int64],
    fields: Mapping[str, str],
    settings: BootstrapSettings,
    *,
    by_label: bool,
    columns: Columns,
) -> tuple[list[Measurement], list[Curve]]:
    """Return AUROC at every point (mean over labels and seeds), the area under each curve, and the curves.

    Args:
        points: of all features.
        label_NK: of the items, the same labels that the points' probabilities have.
        names: the K labels.
        groups_N: patient of each item.
        fields: that all numbers share.
        settings: of the bootstrap.
        by_label: also each label's AUROC at every point (mean over seeds).
        columns: gets what these follow from, where there is one mask an item: two models are then compared in pairs.
    """
    ranked = RankedScores(
        np.concatenate([prob_NK for point in points for prob_NK in point.prob_SNK], axis=1),
        np.concatenate([label_NK for point in points for _ in point.prob_SNK], axis=1),
    )
    lines = _lines(points)
    stops = np.cumsum([point.prob_SNK.shape[0] * len(names) for point in points])[:-1]
    count = len(label_NK)

    def by_point(weight_N: Floats) -> Floats:
        parts = np.split(ranked.auroc(weight_N), stops)
        return np.stack([value_M.reshape(-1, len(names)).mean(axis=0) for value_M in parts])

    is_defined_K = ~np.isnan(by_point(np.ones(count))[0])

    def numbers(weight_N: Floats) -> Floats:
        value_LK = by_point(weight_N)
        mean_L = np.array([mean_of_same(value_K, is_defined_K) for value_K in value_LK])
        areas = np.array([_area(points, places, mean_L) for places in lines.values()])
        return np.concatenate([mean_L, areas, value_LK.ravel() if by_label else []])

    value_M = numbers(np.ones(count))
    intervals: list[Interval] = [None] * len(value_M)
    if settings.resamples:
        values_RM = bootstrap(
            groups_N,
            lambda index: numbers(np.bincount(index, minlength=count).astype(np.float64)),
            resamples=settings.resamples,
            seed=settings.seed,
        )
        intervals = percentile_intervals(values_RM)
    defined = {"labels": f"{is_defined_K.sum()} of {len(names)}"}
    named = [("auroc", {"label": "macro", **_point_fields(point, fields), **defined}) for point in points]
    named += [
        ("auroc-mask-area", {"label": "macro", **_line_fields(points, *line), **fields, **defined})
        for line in lines.items()
    ]
    if by_label:
        named += [
            ("auroc", {"label": name.replace("|", "/"), **_point_fields(point, fields)})
            for point in points
            for name in names
        ]
    statistics: list[ItemStatistic | None] = [None] * (len(points) + len(lines))
    if by_label:
        statistics += [_statistic(columns, point, names, k, label_NK) for point in points for k in range(len(names))]
    made = [
        _measurement(*one, value, interval, count, statistic)
        for one, value, interval, statistic in zip(named, value_M, intervals, statistics, strict=True)
    ]
    return made, _curves(points, lines, value_M, intervals)


def _statistic(
    columns: Columns, point: MaskedPoint, names: Sequence[str], place: int, label_NK: Floats
) -> ItemStatistic | None:
    """Put one label's probabilities at a point among the columns; None where several masks have several of them."""
    if len(point.prob_SNK) > 1:
        return None
    hidden = "unmasked" if point.pattern is None else f"{point.pattern} {point.ratio:g}"
    score = f"probability of {names[place]}, {point.features.name}, fit {point.fit}, {hidden}"
    label = f"{names[place]}, masking"
    columns[score] = [float(value) for value in point.prob_SNK[0, :, place]]
    columns[label] = [None if np.isnan(value) else float(value) for value in label_NK[:, place]]
    return ItemStatistic(kind="auroc", column=score, labels=label)


def _lines(points: Sequence[MaskedPoint]) -> dict[tuple[str, str, Pattern], list[int]]:
    """Return the indices of each curve's points by features, fit and pattern; the unmasked point belongs to all."""
    lines: dict[tuple[str, str, Pattern], list[int]] = {}
    for place, point in enumerate(points):
        if point.pattern is not None:
            start = [other for other, found in enumerate(points) if _is_start(found, point)]
            lines.setdefault((point.features.name, point.fit, point.pattern), start).append(place)
    return lines


def _is_start(found: MaskedPoint, point: MaskedPoint) -> bool:
    return found.pattern is None and found.features is point.features


def _area(points: Sequence[MaskedPoint], places: Sequence[int], value_L: Floats) -> float:
    """Return the mean height of a curve: its area by trapezoids over the range of ratios."""
    ratio = np.array([points[place].ratio for place in places])
    height = value_L[list(places)]
    if len(places) < 2:
        return float(height[0])
    return float(((height[1:] + height[:-1]) / 2 * np.diff(ratio)).sum() / (ratio[-1] - ratio[0]))


def _point_fields(point: MaskedPoint, fields: Mapping[str, str]) -> dict[str, str]:
    return {
        "features": point.features.name,
        "hidden": point.features.hidden,
        "probe": point.fit,
        "pattern": point.pattern or "none",
        "ratio": f"{point.ratio:g}",
        "seeds": str(len(point.prob_SNK)),
        **fields,
    }


def _line_fields(
    points: Sequence[MaskedPoint], line: tuple[str, str, Pattern], places: Sequence[int]
) -> dict[str, str]:
    features, fit, pattern = line
    last = points[places[-1]]
    return {
        "features": features,
        "hidden": last.features.hidden,
        "probe": fit,
        "pattern": pattern,
        "ratios": "-".join(f"{points[place].ratio:g}" for place in places),
        "seeds": str(len(last.prob_SNK)),
    }


def _measurement(
    name: str,
    fields: Mapping[str, str],
    value: float,
    interval: Interval,
    count: int,
    statistic: ItemStatistic | None,
) -> Measurement:
    is_defined = bool(np.isfinite(value))
    return Measurement(
        name=name,
        value=float(value) if is_defined else None,
        n=count,
        fields=fields,
        interval=interval if is_defined else None,
        reason=None if is_defined else "no label with both classes",
        statistic=statistic if is_defined else None,
    )


def _curves(
    points: Sequence[MaskedPoint],
    lines: dict[tuple[str, str, Pattern], list[int]],
    value_M: Floats,
    intervals: Sequence[Interval],
) -> list[Curve]:
    curves = []
    for pattern in dict.fromkeys(pattern for _, _, pattern in lines):
        series = []
        for (features, fit, found), places in lines.items():
            if found != pattern or not np.isfinite(value_M[places]).all():
                continue
            bounds = [interval for place in places if (interval := intervals[place]) is not None]
            has_bounds = len(bounds) == len(places)
            series.append(
                Series(
                    name=f"{features}, probe fitted {fit}",
                    x=[100 * points[place].ratio for place in places],
                    y=[float(value_M[place]) for place in places],
                    low=[low for low, _ in bounds] if has_bounds else None,
                    high=[high for _, high in bounds] if has_bounds else None,
                )
            )
        curves.append(
            Curve(
                name=f"masking-{pattern}",
                title=f"AUROC with part of the image masked ({pattern}), mean over labels",
                x_label="masked, %",
                y_label="AUROC",
                series=series,
            )
        )
    return curves
