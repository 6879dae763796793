"""AUROC while more and more of the image is masked: of the model's embeddings and of the pixel baseline, in one run.

Every feature has two probes: fitted on images as they are (``clean``), and fitted on images masked by the same pattern
and ratio (``masked``). Masks are nested, and the same for model and baseline. What is masked are tokens, after the
image tokenizer has read the whole image: a code's neighbours may know a little of what it hid (``hidden: tokens`` in
the signatures). Of the baseline, the pixels themselves are masked.

R rows, N items, P positions, K labels, S seeds, M columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.bootstrap import bootstrap, percentile_intervals
from chexmix_cli.core.evals.classified import Floats, Items
from chexmix_cli.core.evals.evaluation import Curve, Measurement, Series
from chexmix_cli.core.evals.pixel_baseline import PixelComponents, fill_masked
from chexmix_cli.core.evals.ranked import RankedScores
from chexmix_cli.core.infer.heads import Head
from chexmix_cli.core.infer.position_masks import Pattern, hidden_positions, hiding_order
from chexmix_cli.core.settings.classification import SweepSettings
from chexmix_cli.core.settings.evaluation import BootstrapSettings

States = NDArray[np.float32]
Masks = NDArray[np.bool_]


class Features(Protocol):
    """One kind of features: the model's embeddings, or the baseline's components; ``hidden`` says what is masked."""

    name: str
    hidden: str

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' features, and what gives those of evaluated rows in the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Probabilities at one place of a curve: (S, N, K), one set a seed."""

    features: Features
    fit: str
    pattern: Pattern | None
    ratio: float
    prob_SNK: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPlan:
    """What is masked.

    Attributes:
        ratios: shares of the positions, rising.
        settings: patterns and seeds.
        seed: the first one; the masks of train rows take it too, under their own ids.
        grid_size: positions along a side.
        train_ids, ids: of the rows fitted on (empty with a head that is there), and evaluated.
    """

    ratios: Sequence[float]
    settings: SweepSettings
    seed: int
    grid_size: int
    train_ids: Sequence[str]
    ids: Sequence[str]

    def masks(self, pattern: Pattern, ratio: float, seed: int, ids: Sequence[str]) -> Masks:
        """Return the masks of rows, (R, P) bool."""
        orders = [hiding_order(pattern, self.grid_size, seed=seed, key=row_id) for row_id in ids]
        return np.stack([hidden_positions(order, ratio) for order in orders])


class ModelFeatures:
    """The model's embeddings of one layer.

    Args:
        name: in the results.
        embed: gives embeddings (R, D) of codes (R, P) with masks (R, P); the string names the bar.
        train_codes_RP, codes_RP: of the rows fitted on and evaluated.
        unmasked: their embeddings without masks, which are there already.
    """

    def __init__(
        self,
        name: str,
        embed: Callable[[NDArray[np.uint16], Masks, str], States],
        train_codes_RP: NDArray[np.uint16],
        codes_RP: NDArray[np.uint16],
        unmasked: tuple[States, States],
    ) -> None:
        self.name, self.hidden = name, "tokens"
        self._embed, self._train_codes_RP, self._codes_RP = embed, train_codes_RP, codes_RP
        self._train_RD, self._seen_RD = unmasked

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' embeddings, and the function of the evaluated rows'."""
        if is_masked_RP is None:
            return self._train_RD, self.evaluated
        return self._embed(self._train_codes_RP, is_masked_RP, what), self.evaluated

    def evaluated(self, is_masked_RP: Masks | None, what: str) -> States:
        """Return the evaluated rows' embeddings."""
        return self._seen_RD if is_masked_RP is None else self._embed(self._codes_RP, is_masked_RP, what)


class PixelFeatures:
    """Components of the pixels, fitted on the train rows as the probe sees them.

    Args:
        train_pixels_RYX, pixels_RYX: of the rows fitted on and evaluated.
        components: how many.
        seed: of the decomposition.
    """

    def __init__(self, train_pixels_RYX: States, pixels_RYX: States, components: int, seed: int) -> None:
        self.name, self.hidden = f"pixels-pca{components}", "pixels"
        self._train_RYX, self._pixels_RYX = train_pixels_RYX, pixels_RYX
        self._components, self._seed = components, seed

    def train(self, is_masked_RP: Masks | None, what: str) -> tuple[States, Callable[[Masks | None, str], States]]:
        """Return the train rows' components, and the function of the evaluated rows' in the same components."""
        seen_RYX = self._train_RYX if is_masked_RP is None else fill_masked(self._train_RYX, is_masked_RP)
        found = PixelComponents(seen_RYX, self._components, self._seed)

        def evaluated(is_masked_RP: Masks | None, what: str) -> States:
            masked = self._pixels_RYX if is_masked_RP is None else fill_masked(self._pixels_RYX, is_masked_RP)
            return found.features(masked)

        return found.features(seen_RYX), evaluated


def sweep(features: Features, plan: SweepPlan, items: Items, fit: Callable[[States], Head]) -> list[Point]:
    """Return the points of one kind of features: both fits, every pattern and ratio.

    Args:
        features: the model's or the baseline's.
        plan: ratios, patterns, seeds, rows.
        items: what is scored.
        fit: gives the probe of train features.
    """
    train_RD, evaluated = features.train(None, f"{features.name}, train rows")
    clean = fit(train_RD)
    points = _clean_points(features, clean, evaluated, plan, items)
    for pattern in plan.settings.patterns:
        for ratio in (ratio for ratio in plan.ratios if ratio > 0):
            what = f"{features.name}, {pattern} {ratio:g}"
            is_masked_RP = plan.masks(pattern, ratio, plan.seed, plan.train_ids)
            masked_RD, as_masked = features.train(is_masked_RP, f"{what}, train rows")
            masked = fit(masked_RD)
            probs: dict[str, list[Floats]] = {"clean": [], "masked": []}
            for seed in range(plan.seed, plan.seed + plan.settings.seeds):
                is_hidden_RP = plan.masks(pattern, ratio, seed, plan.ids)
                seen_RD = evaluated(is_hidden_RP, what)
                # The model's embeddings do not hang on what was fitted, and are made once; the baseline's do.
                masked_seen_RD = seen_RD if as_masked == evaluated else as_masked(is_hidden_RP, what)
                probs["clean"].append(items.pooled(clean.probabilities(seen_RD)))
                probs["masked"].append(items.pooled(masked.probabilities(masked_seen_RD)))
            points += [
                Point(features=features, fit=fitted, pattern=pattern, ratio=ratio, prob_SNK=np.stack(found))
                for fitted, found in probs.items()
            ]
    return points


def sweep_head(features: ModelFeatures, plan: SweepPlan, items: Items, head: Head) -> list[Point]:
    """Return the points of a head that is there: fitted once, on what its file says."""
    points = _clean_points(features, head, features.evaluated, plan, items)
    for pattern in plan.settings.patterns:
        for ratio in (ratio for ratio in plan.ratios if ratio > 0):
            what = f"{features.name}, {pattern} {ratio:g}"
            found = [
                items.pooled(head.probabilities(features.evaluated(plan.masks(pattern, ratio, seed, plan.ids), what)))
                for seed in range(plan.seed, plan.seed + plan.settings.seeds)
            ]
            points.append(Point(features=features, fit="clean", pattern=pattern, ratio=ratio, prob_SNK=np.stack(found)))
    return points


def _clean_points(
    features: Features, head: Head, evaluated: Callable[[Masks | None, str], States], plan: SweepPlan, items: Items
) -> list[Point]:
    if 0 not in plan.ratios:
        return []
    found = items.pooled(head.probabilities(evaluated(None, f"{features.name}, unmasked")))
    return [Point(features=features, fit="clean", pattern=None, ratio=0.0, prob_SNK=found[None])]


def sweep_numbers(
    points: Sequence[Point],
    label_NK: Floats,
    groups_N: NDArray[np.int64],
    fields: dict[str, str],
    settings: BootstrapSettings,
) -> tuple[list[Measurement], list[Curve]]:
    """Return AUROC at every point (mean over labels and seeds), the area under each curve, and the curves.

    Args:
        points: of all features.
        label_NK: of the items, the same labels that the points' probabilities have.
        groups_N: patient of each item.
        fields: that all numbers share.
        settings: of the bootstrap.
    """
    ranked = RankedScores(
        np.concatenate([prob_NK for point in points for prob_NK in point.prob_SNK], axis=1),
        np.concatenate([label_NK for point in points for _ in point.prob_SNK], axis=1),
    )
    lines = _lines(points)

    def numbers(weight_N: Floats) -> Floats:
        value_M = ranked.auroc(weight_N)
        found, start = [], 0
        for point in points:
            stop = start + point.prob_SNK.shape[0] * label_NK.shape[1]
            defined = value_M[start:stop][~np.isnan(value_M[start:stop])]
            found.append(defined.mean() if len(defined) else np.nan)
            start = stop
        return np.array([*found, *(_area(points, places, found) for places in lines.values())])

    value_M = numbers(np.ones(len(label_NK)))
    intervals: list[tuple[float, float] | None] = [None] * len(value_M)
    if settings.resamples:
        values_RM = bootstrap(
            groups_N,
            lambda index: numbers(np.bincount(index, minlength=len(label_NK)).astype(np.float64)),
            resamples=settings.resamples,
            seed=settings.seed,
        )
        intervals = percentile_intervals(values_RM)
    made = [
        _measurement("auroc", value, interval, len(label_NK), _point_fields(point, fields))
        for point, value, interval in zip(points, value_M, intervals, strict=False)
    ]
    rest = zip(lines, value_M[len(points) :], intervals[len(points) :], strict=True)
    for (features, fit, pattern), value, interval in rest:
        ratios = "-".join(f"{points[place].ratio:g}" for place in lines[features, fit, pattern])
        named = {"features": features, "probe": fit, "pattern": pattern, "ratios": ratios, **fields}
        made.append(_measurement("auroc-mask-area", value, interval, len(label_NK), named))
    return made, _curves(points, lines, value_M, intervals)


def _lines(points: Sequence[Point]) -> dict[tuple[str, str, Pattern], list[int]]:
    """Return the places of each curve's points by features, fit and pattern; the unmasked point is of all."""
    lines: dict[tuple[str, str, Pattern], list[int]] = {}
    for place, point in enumerate(points):
        if point.pattern is not None:
            start = [other for other, found in enumerate(points) if _is_start(found, point)]
            lines.setdefault((point.features.name, point.fit, point.pattern), start).append(place)
    return lines


def _is_start(found: Point, point: Point) -> bool:
    return found.pattern is None and found.features is point.features


def _area(points: Sequence[Point], places: Sequence[int], values: Sequence[float]) -> float:
    """Return the mean height of a curve: its area by trapezoids over the range of ratios."""
    ratio = np.array([points[place].ratio for place in places])
    height = np.array([values[place] for place in places])
    if len(places) < 2:
        return float(height[0])
    return float(((height[1:] + height[:-1]) / 2 * np.diff(ratio)).sum() / (ratio[-1] - ratio[0]))


def _point_fields(point: Point, fields: dict[str, str]) -> dict[str, str]:
    return {
        "features": point.features.name,
        "hidden": point.features.hidden,
        "probe": point.fit,
        "pattern": point.pattern or "none",
        "ratio": f"{point.ratio:g}",
        "seeds": str(len(point.prob_SNK)),
        **fields,
    }


def _measurement(
    name: str, value: float, interval: tuple[float, float] | None, count: int, fields: dict[str, Any]
) -> Measurement:
    is_defined = bool(np.isfinite(value))
    return Measurement(
        name=name,
        value=float(value) if is_defined else None,
        n=count,
        fields={"label": "macro", **fields},
        interval=interval if is_defined else None,
        reason=None if is_defined else "no label with both classes",
    )


def _curves(
    points: Sequence[Point],
    lines: dict[tuple[str, str, Pattern], list[int]],
    value_M: Floats,
    intervals: Sequence[tuple[float, float] | None],
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
