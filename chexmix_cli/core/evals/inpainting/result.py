"""From the numbers of single films to a result: means, intervals, signatures, curves. N films, M numbers."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.evals.inpainting.run import CEILING, Collected, Key
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, group_numbers, percentile_intervals
from chexmix_cli.core.evals.result import Curve, Evaluation, ItemStatistic, Measurement, Series
from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings

_UNITS = {"psnr": "PSNR of the hidden part (dB)", "ssim": "SSIM of the hidden part"}
_JOINED = {"blend": "blended", "paste": "pasted"}


def chosen_rows(rows: Sequence[ManifestRow], settings: EvaluateInpaintingSettings, seed: int) -> list[ManifestRow]:
    """Return the rows that are measured, in order: all, or a random sample by the seed."""
    if not settings.images or settings.images >= len(rows):
        return list(rows)
    drawn = np.random.default_rng(seed).permutation(len(rows))[: settings.images]
    return [rows[index] for index in sorted(drawn.tolist())]


def inpainting_evaluation(
    collected: Collected,
    settings: EvaluateInpaintingSettings,
    *,
    seed: int,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    failed: Sequence[Mapping[str, str]],
) -> Evaluation:
    """Return the result of a run.

    Args:
        collected: what the films gave.
        settings: of the run.
        seed: of masks and samples.
        model, data, failed: as :class:`Evaluation` holds them.
    """
    keys = list(collected.values)
    values_NM = np.array(
        [[np.nan if value is None else value for value in collected.values[key]] for key in keys], np.float64
    ).T.reshape(len(collected.rows), len(keys))
    # Films of unknown patients stand alone.
    groups_N = group_numbers([row.patient for row in collected.rows])
    intervals: list[tuple[float, float] | None] = [None] * len(keys)
    if settings.bootstrap.resamples and len(collected.rows):
        drawn_RM = bootstrap(
            groups_N,
            lambda indices: _means(values_NM[indices]),
            resamples=settings.bootstrap.resamples,
            seed=settings.bootstrap.seed,
        )
        intervals = percentile_intervals(drawn_RM)
    means_M = _means(values_NM)
    measurements = [
        _measurement(key, values_NM[:, number], float(means_M[number]), intervals[number], settings, seed)
        for number, key in enumerate(keys)
    ]
    return Evaluation(
        task="inpainting",
        measurements=measurements,
        model=model,
        data={**data, "images": len(collected.rows), "patients": len(set(groups_N.tolist()))},
        item_ids=[row.id for row in collected.rows],
        item_groups=groups_N.tolist(),
        columns={_column(key): list(values) for key, values in collected.values.items()},
        curves=_curves(keys, measurements, settings.methods.fills),
        cases=collected.cases,
        failed=failed,
        missing=_infinite(keys, values_NM),
    )


def _means(values_NM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each column over the films that have a number; NaN where none has."""
    count_M = (~np.isnan(values_NM)).sum(axis=0)
    means: NDArray[np.float64] = np.where(count_M > 0, np.nansum(values_NM, axis=0) / np.maximum(count_M, 1), np.nan)
    return means


def _measurement(
    key: Key,
    values_N: NDArray[np.float64],
    mean: float,
    interval: tuple[float, float] | None,
    settings: EvaluateInpaintingSettings,
    seed: int,
) -> Measurement:
    count = int((~np.isnan(values_N)).sum())
    fields = {"protocol": key.protocol, "pattern": key.pattern, "ratio": f"{key.ratio:g}", "method": key.method}
    if key.region is not None and key.against is not None:
        fields |= {"region": key.region, "against": key.against, "join": key.join}
    else:
        fields["codes"] = "hidden"
    fields |= {"mean": "per-image", "seed": str(seed)}
    fills = settings.methods.fills
    if key.method in fills:
        if key.protocol == "leak-free":
            fields |= {"ring": str(settings.masks.ring), "blank": settings.masks.blank}
        if key.join == "blend":
            fields["detail"] = f"{settings.methods.detail:g}"
        fill = fills[key.method]
        if fill.strategy == "iterative":
            fields |= {"rounds": str(fill.rounds), "schedule": fill.schedule}
        if fill.choice == "sample":
            fields |= {"samples": str(fill.samples), "top_p": f"{fill.top_p:g}"}
        if fill.choice != "best":
            fields["temperature"] = f"{fill.temperature:g}"
    return Measurement(
        name=key.metric,
        value=mean if count else None,
        n=count,
        fields=fields,
        interval=interval if count else None,
        reason=None if count else "infinite or undefined for every image",
        statistic=ItemStatistic(kind="mean", column=_column(key)),
    )


def _column(key: Key) -> str:
    parts = [key.metric, key.protocol, key.pattern, f"{key.ratio:g}", key.method]
    if key.region is not None and key.against is not None:
        parts += [key.region, key.against, key.join]
    return " ".join(parts)


def _infinite(keys: Sequence[Key], values_NM: NDArray[np.float64]) -> list[dict[str, str]]:
    """Return how many films a mean leaves out, where it does."""
    counts = np.isnan(values_NM).sum(axis=0)
    return [
        {"what": _column(key), "reason": f"{count} of {len(values_NM)} images: equal pictures, infinite; left out"}
        for key, count in zip(keys, counts.tolist(), strict=True)
        if count
    ]


def _curves(keys: Sequence[Key], measurements: Sequence[Measurement], fills: Container[str]) -> list[Curve]:
    """Return a plot for each metric, protocol and pattern: the hidden part against the original, by ratio."""
    lines: dict[tuple[str, str, str], dict[str, list[tuple[float, Measurement]]]] = {}
    for key, measurement in zip(keys, measurements, strict=True):
        is_shown = key.region == "masked" and key.against == "original" and measurement.value is not None
        if is_shown:
            plot = lines.setdefault((key.metric, key.protocol, key.pattern), {})
            # Baselines and the ceiling have one form each, which goes without saying.
            name = f"{key.method}, {_JOINED[key.join]}" if key.method in fills else key.method
            plot.setdefault(name, []).append((key.ratio, measurement))
    return [
        Curve(
            name=f"{metric}-{pattern}-{protocol}",
            title=f"{'Block' if pattern == 'block' else pattern.capitalize()} masks, {protocol}",
            x_label="share of codes hidden",
            y_label=_UNITS[metric],
            series=[_series(method, points) for method, points in sorted(plot.items(), key=_model_first)],
        )
        for (metric, protocol, pattern), plot in lines.items()
    ]


def _model_first(line: tuple[str, Any]) -> tuple[bool, bool, str]:
    return "-" not in line[0], line[0] == CEILING, line[0]


def _series(method: str, points: list[tuple[float, Measurement]]) -> Series:
    values = [(ratio, one.value, one.interval) for ratio, one in sorted(points, key=lambda point: point[0])]
    bounds = [interval for _, _, interval in values if interval is not None]
    has_bounds = len(bounds) == len(values)
    return Series(
        name=method,
        x=[ratio for ratio, _, _ in values],
        y=[value for _, value, _ in values if value is not None],
        low=[low for low, _ in bounds] if has_bounds else None,
        high=[high for _, high in bounds] if has_bounds else None,
    )
