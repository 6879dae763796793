"""One number of an evaluation as sums over items, so that a resample of patients costs a row of a matrix product.

N items, K sums a number needs, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, percentile_intervals
from chexmix_cli.core.evals.result import ItemStatistic, Measurement
from chexmix_cli.core.settings.evaluation import BootstrapSettings

#: Sums (R, K) to values (R,), NaN where the number is not defined.
Finisher = Callable[[Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number.

    Attributes:
        name, fields: as in ``Measurement``.
        sums_NK: what each item adds.
        finish: the number of the sums.
        undefined: why there is none, where ``finish`` gives NaN.
        column: per-item values by which two results can be compared, where the number is their mean.
    """

    name: str
    fields: Mapping[str, str]
    sums_NK: Floats
    finish: Finisher
    undefined: str = "no item has a value"
    column: tuple[str, Sequence[float | None]] | None = None
    has_interval: bool = True


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A number that could not be computed, and why."""

    name: str
    fields: Mapping[str, str]
    reason: str


@dataclass
class Found:
    """What a family of metrics gives.

    Attributes:
        quantities: numbers, and absent ones, in the order they are shown.
        columns: further per-item values.
    """

    quantities: list[Quantity | Absent] = field(default_factory=list)
    columns: dict[str, Sequence[float | None]] = field(default_factory=dict)


def mean_quantity(
    name: str, values: Sequence[float | None], fields: Mapping[str, str], *, scale: float = 1.0, column: str = ""
) -> Quantity:
    """Return the mean of per-item values; items without one are left out and the count says so.

    Args:
        name: of the metric, and of its column unless ``column`` says otherwise.
        values: a value for each item, or None.
        fields: of the signature.
        scale: multiplies the mean.
        column: name of the per-item values.
    """
    value_N = np.array([0.0 if value is None else value for value in values], np.float64)
    has_value_N = np.array([value is not None for value in values], np.float64)
    return Quantity(
        name=name,
        fields=fields,
        sums_NK=np.stack([value_N, has_value_N], axis=1),
        finish=lambda sums_RK: scale * divide(sums_RK[:, 0], sums_RK[:, 1]),
        column=(column or name, list(values)) if scale == 1.0 else None,
    )


def divide(above: Floats, below: Floats) -> Floats:
    """Return the quotient, NaN where the divisor is 0."""
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
    return found


def measure(
    quantities: Sequence[Quantity | Absent], groups_N: NDArray[np.int64], settings: BootstrapSettings
) -> tuple[list[Measurement], dict[str, Sequence[float | None]]]:
    """Return the numbers with their intervals by patient, and the per-item columns they name.

    Args:
        quantities: in the order wanted.
        groups_N: patient of each item.
        settings: of the bootstrap; every number sees the same resamples.
    """
    present = [one for one in quantities if isinstance(one, Quantity)]
    intervals: dict[int, tuple[float, float] | None] = {}
    if settings.resamples and present and len(groups_N):
        all_NK = np.concatenate([one.sums_NK for one in present], axis=1)
        sums_RK = bootstrap(
            groups_N,
            lambda drawn: np.bincount(drawn, minlength=len(groups_N)) @ all_NK,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        stops = np.cumsum([one.sums_NK.shape[1] for one in present])
        for number, part_RK in zip(present, np.split(sums_RK, stops[:-1], axis=1), strict=True):
            if number.has_interval:
                intervals[id(number)] = percentile_intervals(number.finish(part_RK)[:, None])[0]
    columns: dict[str, Sequence[float | None]] = {}
    measurements = []
    for one in quantities:
        if isinstance(one, Absent):
            measurements.append(
                Measurement(name=one.name, value=None, n=len(groups_N), fields=one.fields, reason=one.reason)
            )
            continue
        value = float(one.finish(one.sums_NK.sum(axis=0, keepdims=True))[0])
        is_defined = bool(np.isfinite(value))
        if one.column is not None:
            columns[one.column[0]] = one.column[1]
        measurements.append(
            Measurement(
                name=one.name,
                value=value if is_defined else None,
                n=_count(one, len(groups_N)),
                fields=one.fields,
                interval=intervals.get(id(one)) if is_defined else None,
                reason=None if is_defined else one.undefined,
                statistic=None if one.column is None else ItemStatistic(kind="mean", column=one.column[0]),
            )
        )
    return measurements, columns


def _count(one: Quantity, count: int) -> int:
    """Return how many items a number comes from: those with a value where it is their mean."""
    return count if one.column is None else sum(value is not None for value in one.column[1])
