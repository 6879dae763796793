"""Retrieval of reports by image and of images by report: recalls, ranks, and by what protocol.

What is found is said by a relevance: the ``pair`` itself; a report of identical ``text`` (identical ones are one
candidate, as in CXR-CLIP); the same ``labels``, all of them. A tie is ranked in its middle, so that scores that say
nothing are worth what chance is worth. A report's text is the section that was embedded and no other: a set whose text
is "the longest section" gives other numbers.

N pairs, n of a pool, E vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, group_numbers, percentile_intervals
from chexmix_cli.core.evals.metrics.ranks import Ranks, Scores, Turned, precision, random_recall, rank
from chexmix_cli.core.evals.result import Curve, ItemStatistic, Measurement, Series
from chexmix_cli.core.evals.retrieval.pools import class_pool, draw_order, exclusive_class
from chexmix_cli.core.settings.retrieval import RetrievalEvaluationSettings

DEPTHS = (1, 5, 10)
#: Depths of precision in a class-balanced pool (GLoRIA), and of hits there (BenchX).
CLASS_DEPTHS = (5, 10, 100)
_DIRECTIONS = ("image-to-text", "text-to-image")
_MOST_CURVE_DEPTH = 100

#: Gives the scores of a pool's images against its reports, once to rank reports by and once to rank images by.
PoolScores = Callable[[NDArray[np.int64]], tuple[Scores, Scores]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Images with their reports.

    Attributes:
        ids: of the pairs, no one twice.
        patients: of each, None where not known.
        texts: the compared text of each, or None where texts are not known.
        labels: finding to 1, 0, -1 or None, for each pair; None where labels are not known.
    """

    ids: Sequence[str]
    patients: Sequence[Hashable | None]
    texts: Sequence[str] | None = None
    labels: Sequence[Mapping[str, int | None]] | None = None


@dataclass(slots=True)
class RetrievalResult:
    """Numbers, per-pair columns, curves, and what could not be computed."""

    measurements: list[Measurement] = field(default_factory=list)
    columns: dict[str, list[float | None]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)


class SubsetScores:
    """The scores of some rows and columns of others."""

    def __init__(self, scores: Scores, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        self.num_rows, self.num_columns = len(rows), len(columns)
        self._scores, self._rows, self._columns = scores, torch.from_numpy(rows), torch.from_numpy(columns)

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        return self._scores.tile(self._rows[rows], self._columns[columns])

    def aligned(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._scores.aligned(self._rows[rows], self._columns[columns])


def evaluate_pairs(
    pairs: Pairs, scores_of: PoolScores, settings: RetrievalEvaluationSettings, protocol: Mapping[str, str], seed: int
) -> RetrievalResult:
    """Return every number of the settings.

    Args:
        pairs: what is ranked; pair i is image i and report i.
        scores_of: scores of any pool of them.
        settings: relevance, pools, ties, intervals.
        protocol: fields that all numbers carry (scorer, layers, section, ...).
        seed: first of the pools' seeds.
    """
    return _Evaluator(pairs, scores_of, settings, protocol, seed).run()


class _Evaluator:
    """One evaluation under way."""

    def __init__(
        self,
        pairs: Pairs,
        scores_of: PoolScores,
        settings: RetrievalEvaluationSettings,
        protocol: Mapping[str, str],
        seed: int,
    ) -> None:
        self._pairs, self._scores_of, self._settings, self._seed = pairs, scores_of, settings, seed
        self._protocol = {**protocol, "ties": "mid-rank"}
        self._groups_N = group_numbers(pairs.patients)
        self._result = RetrievalResult()

    def run(self) -> RetrievalResult:
        count, size = len(self._pairs.ids), self._settings.pool.size
        if not size or size >= count:
            everything = np.arange(count)
            scores = self._scores_of(everything)
            for relevance, groups_N in self._relevances():
                self._whole(relevance, groups_N, scores)
        else:
            for relevance, groups_N in self._relevances():
                self._pooled(relevance, groups_N, size)
        self._class_balanced()
        if self._settings.scorer == "cosine":
            self._size_curve()
        return self._result

    def _relevances(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield each relevance with a number for every pair, negative for pairs that no number can be given."""
        for name in self._settings.relevance:
            if name == "pair":
                yield name, np.arange(len(self._pairs.ids))
            elif name == "text" and self._pairs.texts is not None:
                yield name, group_numbers([" ".join(text.split()) for text in self._pairs.texts])
            elif name == "labels" and self._pairs.labels is not None and any(map(_vector, self._pairs.labels)):
                keys = [_vector(labels) for labels in self._pairs.labels]
                yield name, np.where([bool(key) for key in keys], group_numbers(keys), -1)
            else:
                what = "text is known" if name == "text" else "label is stated"
                self._result.missing.append({"what": f"relevance {name}", "reason": f"of no pair a {what}"})

    def _ranks(
        self, relevance: str, groups: NDArray[np.int64], scores: tuple[Scores, Scores]
    ) -> tuple[Ranks, NDArray[np.int64], NDArray[np.int64]]:
        """Return ranks, the index of each column's pair, and the columns' groups."""
        columns = np.arange(len(groups))
        if relevance == "text":
            columns = np.sort(np.unique(groups, return_index=True)[1])
        column_groups = np.where(groups[columns] < 0, -2, groups[columns])
        rows = np.arange(len(groups))
        found = [
            rank(_subset(one, rows, columns), groups, column_groups, self._settings.tiles)
            for one in ((scores[0],) if scores[0] is scores[1] else scores)
        ]
        return Ranks(found[0].rows_R, found[-1].columns_C), columns, column_groups

    def _whole(self, relevance: str, groups_N: NDArray[np.int64], scores: tuple[Scores, Scores]) -> None:
        ranks, columns, column_groups = self._ranks(relevance, groups_N, scores)
        text_rank_N = np.full(len(groups_N), np.nan)
        text_rank_N[columns] = ranks.columns_C
        ranks_2N = np.stack([ranks.rows_R, text_rank_N])
        values = recalls_and_ranks(ranks_2N)
        intervals: list[tuple[float, float] | None] = [None] * len(values)
        if self._settings.bootstrap.resamples:
            drawn_RM = bootstrap(
                self._groups_N,
                lambda indices: recalls_and_ranks(ranks_2N[:, indices]),
                resamples=self._settings.bootstrap.resamples,
                seed=self._settings.bootstrap.seed,
            )
            intervals = percentile_intervals(drawn_RM)
        candidates = (len(columns), len(groups_N))
        self._columns(relevance, ranks_2N)
        queries = [int((~np.isnan(one)).sum()) for one in ranks_2N]
        for place, (direction, name) in enumerate(METRICS):
            fields = {"relevance": relevance, "direction": _DIRECTIONS[direction], "pool": str(candidates[direction])}
            self._add(
                name, values[place], queries[direction], fields, intervals[place], self._statistic(relevance, place)
            )
        sum_fields = {"relevance": relevance, "pool": str(candidates[1])}
        self._add("R@sum", values[-1], sum(queries), sum_fields, intervals[-1], None)
        self._random(relevance, groups_N, column_groups)
        if relevance == "pair":
            self._depth_curve(ranks_2N)

    def _random(self, relevance: str, row_groups: NDArray[np.int64], column_groups: NDArray[np.int64]) -> None:
        """Add what a random order gives."""
        for direction, (queries, candidates) in enumerate(((row_groups, column_groups), (column_groups, row_groups))):
            queries = queries[queries >= 0]
            if not len(queries):
                continue
            values, counts = np.unique(candidates, return_counts=True)
            number_of = dict(zip(values.tolist(), counts.tolist(), strict=True))
            num_relevant = np.array([number_of.get(group, 0) for group in queries.tolist()])
            for depth in DEPTHS:
                fields = {"relevance": relevance, "direction": _DIRECTIONS[direction], "pool": str(len(candidates))}
                value = random_recall(num_relevant, len(candidates), depth)
                self._add(f"R@{depth}", value, len(queries), {**fields, "scorer": "random"}, None, None)

    def _pooled(self, relevance: str, groups_N: NDArray[np.int64], size: int) -> None:
        seeds = range(self._seed, self._seed + self._settings.pool.seeds)
        found = []
        for seed in seeds:
            pool = np.sort(draw_order(self._pairs.ids, seed)[:size])
            ranks, _, _ = self._ranks(relevance, groups_N[pool], self._scores_of(pool))
            found.append(recalls_and_ranks((ranks.rows_R, ranks.columns_C)))
        values = np.nanmean(np.stack(found), axis=0)
        pools = {"relevance": relevance, "pool": str(size), "seeds": f"{seeds.start}..{seeds.stop - 1}"}
        for place, (direction, name) in enumerate(METRICS):
            fields = {**pools, "direction": _DIRECTIONS[direction]}
            self._add(name, values[place], size * len(seeds), fields, None, None)
        self._add("R@sum", values[-1], 2 * size * len(seeds), pools, None, None)
        if relevance == "pair":
            for depth in DEPTHS:
                self._add(f"R@{depth}", min(1.0, depth / size), size, {**pools, "scorer": "random"}, None, None)

    def _class_balanced(self) -> None:
        """Add precision and hits in the pool of as many exclusively positive images of each class (5x200)."""
        classes, per_class = self._settings.classes.classes, self._settings.classes.per_class
        name = f"{len(classes)}x{per_class}"
        numbers = [exclusive_class(one, classes) for one in self._pairs.labels or ()]
        drawn = class_pool(self._pairs.ids, numbers, per_class=per_class, seed=self._seed) if numbers else {}
        short = [f"{one} {len(drawn.get(number, ()))}" for number, one in enumerate(classes)]
        if len(drawn) < len(classes) or min(map(len, drawn.values())) < per_class:
            reason = f"images with exactly one of the classes: {', '.join(short)}; {per_class} of each are needed"
            self._result.missing.append({"what": f"class pool {name}", "reason": reason})
            return
        pool = np.sort(np.concatenate(list(drawn.values())))
        groups = np.array([numbers[place] for place in pool], np.int64)
        column: list[float | None] = [None] * len(self._pairs.ids)
        for place in pool.tolist():
            column[place] = float(numbers[place] or 0)
        self._result.columns[f"class_{name}"] = column
        depths = tuple(depth for depth in CLASS_DEPTHS if depth <= len(pool))
        scores = self._scores_of(pool)
        found, _, _ = self._ranks("class", groups, scores)
        sides = ((scores[0], found.rows_R), (Turned(scores[1]), found.columns_C))
        for direction, (one, ranks) in enumerate(sides):
            precision_nK = precision(one, groups, groups, depths, self._settings.tiles)
            fields = {"relevance": "class", "direction": _DIRECTIONS[direction], "pool": name, "seed": str(self._seed)}
            for depth, value_n in zip(depths, precision_nK.T, strict=True):
                self._spread(f"P@{depth}", value_n, pool, fields)
            for depth in DEPTHS:
                self._spread(f"hit@{depth}", (ranks <= depth).astype(float), pool, fields)

    def _spread(
        self, name: str, value_n: NDArray[np.float64], pool: NDArray[np.int64], fields: Mapping[str, str]
    ) -> None:
        """Add the mean of a per-query value of a pool, with its interval and column."""
        column = f"{name}_{fields['direction']}_{fields['pool']}"
        values_N: list[float | None] = [None] * len(self._pairs.ids)
        for place, value in zip(pool.tolist(), value_n.tolist(), strict=True):
            values_N[place] = value
        self._result.columns[column] = values_N
        interval = None
        if self._settings.bootstrap.resamples:
            drawn_RM = bootstrap(
                self._groups_N[pool],
                lambda indices: value_n[indices].mean(keepdims=True),
                resamples=self._settings.bootstrap.resamples,
                seed=self._settings.bootstrap.seed,
            )
            interval = percentile_intervals(drawn_RM)[0]
        self._add(name, float(value_n.mean()), len(pool), fields, interval, ItemStatistic(kind="mean", column=column))

    def _size_curve(self) -> None:
        """Add how recall of the pair falls as the pool grows, mean and range over the seeds."""
        count = len(self._pairs.ids)
        sizes = [size for size in self._settings.pool.curve if size <= count]
        if len(sizes) < 2:
            return
        seeds = range(self._seed, self._seed + self._settings.pool.seeds)
        orders = [draw_order(self._pairs.ids, seed) for seed in seeds]
        found_SR2 = np.empty((len(sizes), len(orders), 2))
        for place, size in enumerate(sizes):
            for number, order in enumerate(orders):
                pool = np.sort(order[:size])
                ranks, _, _ = self._ranks("pair", np.arange(size), self._scores_of(pool))
                found_SR2[place, number] = [(one <= 10).mean() for one in (ranks.rows_R, ranks.columns_C)]
        series = [
            Series(
                name=direction,
                x=sizes,
                y=found_SR2[..., number].mean(axis=1).tolist(),
                low=found_SR2[..., number].min(axis=1).tolist(),
                high=found_SR2[..., number].max(axis=1).tolist(),
            )
            for number, direction in enumerate(_DIRECTIONS)
        ]
        series.append(Series(name="random", x=sizes, y=[min(1.0, 10 / size) for size in sizes]))
        self._result.curves.append(
            Curve(
                name="retrieval-pool-size",
                title=f"Recall at 10 of the pair by pool size ({len(seeds)} pools each)",
                x_label="pairs in the pool",
                y_label="recall at 10",
                series=series,
            )
        )

    def _depth_curve(self, ranks_2N: NDArray[np.float64]) -> None:
        count = ranks_2N.shape[1]
        depths = list(range(1, min(_MOST_CURVE_DEPTH, count) + 1))
        series = [
            Series(name=direction, x=depths, y=[float((ranks <= depth).mean()) for depth in depths])
            for direction, ranks in zip(_DIRECTIONS, ranks_2N, strict=True)
        ]
        series.append(Series(name="random", x=depths, y=[depth / count for depth in depths]))
        self._result.curves.append(
            Curve(
                name="retrieval-recall",
                title=f"Recall of the pair among {count}",
                x_label="K",
                y_label="recall at K",
                series=series,
            )
        )

    def _columns(self, relevance: str, ranks_2N: NDArray[np.float64]) -> None:
        for direction, ranks in zip(_DIRECTIONS, ranks_2N, strict=True):
            columns = {"rank": ranks, "reciprocal_rank": 1 / ranks}
            columns |= {f"recall_{depth}": np.where(np.isnan(ranks), np.nan, ranks <= depth) for depth in DEPTHS}
            for name, values in columns.items():
                found = [None if value != value else float(value) for value in values.tolist()]
                self._result.columns[f"{name}_{direction}_{relevance}"] = found

    def _statistic(self, relevance: str, place: int) -> ItemStatistic | None:
        direction, name = METRICS[place]
        column = {"mean rank": "rank", "MRR": "reciprocal_rank"} | {f"R@{depth}": f"recall_{depth}" for depth in DEPTHS}
        if name not in column:
            return None
        return ItemStatistic(kind="mean", column=f"{column[name]}_{_DIRECTIONS[direction]}_{relevance}")

    def _add(
        self,
        name: str,
        value: float,
        count: int,
        fields: Mapping[str, str],
        interval: tuple[float, float] | None,
        statistic: ItemStatistic | None,
    ) -> None:
        is_defined = bool(np.isfinite(value))
        self._result.measurements.append(
            Measurement(
                name=name,
                value=float(value) if is_defined else None,
                n=count,
                fields={**self._protocol, **fields},
                interval=interval if is_defined else None,
                reason=None if is_defined else "no query has a relevant candidate",
                statistic=statistic if is_defined else None,
            )
        )


#: Numbers of one direction, in the order of :func:`recalls_and_ranks`; then comes R@sum.
METRICS = [
    (direction, name)
    for direction in range(2)
    for name in (*(f"R@{depth}" for depth in DEPTHS), "median rank", "mean rank", "MRR")
]


def recalls_and_ranks(ranks: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers of :data:`METRICS` and R@sum, in that order, (M + 1,).

    They are NaN where no query of a direction has a rank.

    Args:
        ranks: of the queries of each direction, from 1, (queries,); NaN is left out.
    """
    found: list[float] = []
    for one in ranks:
        usable = one[~np.isnan(one)]
        if not len(usable):
            found += [float("nan")] * (len(DEPTHS) + 3)
            continue
        found += [float((usable <= depth).mean()) for depth in DEPTHS]
        found += [float(np.median(usable)), float(usable.mean()), float((1 / usable).mean())]
    half = len(found) // 2
    total = sum(found[: len(DEPTHS)]) + sum(found[half : half + len(DEPTHS)])
    return np.array([*found, total])


def _vector(labels: Mapping[str, int | None]) -> tuple[tuple[str, int], ...]:
    """Return what is stated of a pair, as one value; empty if nothing is."""
    return tuple(sorted((name, value) for name, value in labels.items() if value is not None))


def _subset(scores: Scores, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Scores:
    """Return the scores of some columns, or the scores themselves if they are all."""
    return scores if len(columns) == scores.num_columns else SubsetScores(scores, rows, columns)
