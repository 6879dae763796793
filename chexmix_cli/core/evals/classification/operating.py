"""What a head does at one threshold, and in parts of the items: the numbers a clinic asks for.

The threshold of each finding is chosen for a sensitivity or a specificity on rows that were left out of the fit in
turn (:meth:`Head.thresholds_at`), never on the rows it is measured on: there it reaches about what was asked for.

N items, K labels, Q metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.classification.items import Items, Scored
from chexmix_cli.core.evals.metrics.binary import Floats, RankedScores
from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, weighted_intervals
from chexmix_cli.core.evals.result import Curve, Measurement, Series
from chexmix_cli.core.settings.choices import Policy, Unstated
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.text.header import age_group_of

METRICS = ("sensitivity", "specificity", "ppv", "npv")
#: Points of a curve with a band; bins of a calibration plot; resamples of a band.
_GRID, _BINS, _BAND = 51, 10, 200
_MOST_DRAWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What is measured: items, their scores, and the policies that make 0 and 1 of their labels.

    Attributes:
        items, scored: as :func:`numbers.measure` takes them.
        policy, unstated: of the labels.
        settings: of the bootstrap.
        fields: of every number.
    """

    items: Items
    scored: Scored
    policy: Policy
    unstated: Unstated
    settings: BootstrapSettings
    fields: Mapping[str, str]

    @property
    def labels(self) -> Floats:
        """Return 1, 0 or NaN, (N, K)."""
        return policy_labels(self.items.labels, self.scored.names, self.policy, unstated=self.unstated)


def at_point(measured: Measured) -> tuple[list[Measurement], dict[str, dict[str, float]]]:
    """Return the numbers at the scores' operating point, and each label's confusion matrix with its threshold.

    Raises:
        SettingsError: if the scores have no thresholds for it.
    """
    scored, label_NK = measured.scored, measured.labels
    threshold_K = scored.at_K
    if threshold_K is None or np.isnan(threshold_K).all():
        raise SettingsError(
            "has no thresholds to choose from",
            where="--at",
            expected="a probe fitted here, or a head of `chexmix finetune --method probe` that kept them",
        )
    called_NK = scored.prob_NK >= threshold_K

    def counts(weight_N: Floats) -> Floats:
        return _counts(weight_N, called_NK, label_NK)

    count_4K = counts(np.ones(len(label_NK)))
    value_QK = _rates(count_4K)
    groups_N = measured.items.groups_N
    intervals = weighted_intervals(
        groups_N, lambda weight_N: _rates(counts(weight_N)), value_QK.shape, measured.settings
    )
    made, confusion = [], {}
    for place, name in enumerate(scored.names):
        if np.isnan(threshold_K[place]):
            continue
        tp, fp, fn, tn = (int(value) for value in count_4K[:, place])
        confusion[name] = {"threshold": float(threshold_K[place]), "tp": tp, "fp": fp, "fn": fn, "tn": tn}
        fields = {"label": name.replace("|", "/"), **measured.fields, "at": str(scored.at)}
        for number, metric in enumerate(METRICS):
            value = value_QK[number, place]
            made.append(
                _number(metric, value, tp + fp + fn + tn, fields, intervals[number, place], "its denominator is 0")
            )
    return made, confusion


def by_group(measured: Measured, rows: Sequence[ManifestRow], groupings: Sequence[str]) -> Iterator[Measurement]:
    """Yield the AUROC of each label in each group of the items, with its interval.

    An item belongs to the group of its first row; ``not stated`` is a group, too.
    """
    scored, label_NK = measured.scored, measured.labels
    firsts = [rows[member[0]] for member in measured.items.members]
    for grouping in groupings:
        value_N = np.array([group_of(row, grouping) for row in firsts])
        for group in sorted(set(value_N)):
            index_N = np.flatnonzero(value_N == group)
            ranked = RankedScores(scored.prob_NK[index_N], label_NK[index_N])
            positives_K, negatives_K = ranked.counts()
            value_K = ranked.auroc(np.ones(len(index_N)))
            groups_N = measured.items.groups_N[index_N]
            intervals = weighted_intervals(groups_N, ranked.auroc, value_K.shape, measured.settings)
            for place, name in enumerate(scored.names):
                count = int(positives_K[place] + negatives_K[place])
                if not count:
                    continue
                fields = {
                    "label": name.replace("|", "/"),
                    **measured.fields,
                    "group": f"{grouping}={group}".replace("|", "/"),
                    "pos": str(positives_K[place]),
                    "neg": str(negatives_K[place]),
                }
                yield _number("auroc", value_K[place], count, fields, intervals[place], "one class is missing")


def group_of(row: ManifestRow, grouping: str) -> str:
    """Return a row's group; ``not stated`` where the manifest does not say."""
    value = age_group_of(row.age) if grouping == "age_group" else getattr(row, grouping)
    return value or "not stated"


def plots(measured: Measured) -> list[Curve]:
    """Return the ROC of the labels with most items of the rarer class, with its 95 % band, and their calibration."""
    label_NK, scored = measured.labels, measured.scored
    ranked = RankedScores(scored.prob_NK, label_NK)
    rarer_K = np.minimum(*ranked.counts())
    drawn = [int(place) for place in np.argsort(-rarer_K, kind="stable")[:_MOST_DRAWN] if rarer_K[place] > 0]
    if not drawn:
        return []
    roc = [_band(measured, ranked, label_NK, place) for place in drawn]
    calibration = [_calibration(scored.names[place], scored.prob_NK[:, place], label_NK[:, place]) for place in drawn]
    return [
        Curve(
            name="roc",
            title="ROC, with AUROC and the 95 % band by patient",
            x_label="false positive rate",
            y_label="true positive rate",
            series=roc,
            is_roc=True,
        ),
        Curve(
            name="calibration",
            title="Calibration",
            x_label="mean probability of a bin",
            y_label="share with the finding",
            series=calibration,
            is_roc=True,
        ),
    ]


def _band(measured: Measured, ranked: RankedScores, label_NK: Floats, place: int) -> Series:
    grid = np.linspace(0, 1, _GRID)
    index_N = np.flatnonzero(~np.isnan(label_NK[:, place]))
    prob_N, label_N = measured.scored.prob_NK[index_N, place], label_NK[index_N, place]

    def curve(drawn_N: NDArray[np.int64]) -> Floats:
        one = RankedScores(prob_N[drawn_N, None], label_N[drawn_N, None])
        if min(int(count[0]) for count in one.counts()) == 0:
            return np.full(_GRID, np.nan)
        return np.interp(grid, *one.roc_points(0))

    value = curve(np.arange(len(index_N)))
    name = f"{measured.scored.names[place]} {ranked.auroc(np.ones(len(label_NK)))[place]:.3f}"
    if not measured.settings.resamples:
        return Series(name=name, x=grid.tolist(), y=value.tolist())
    drawn_RG = bootstrap(measured.items.groups_N[index_N], curve, resamples=_BAND, seed=measured.settings.seed)
    low, high = np.nanquantile(drawn_RG, (0.025, 0.975), axis=0)
    return Series(name=name, x=grid.tolist(), y=value.tolist(), low=low.tolist(), high=high.tolist())


def _calibration(name: str, prob_N: Floats, label_N: Floats) -> Series:
    """Return the share with the finding against the mean probability, of bins with as many items each."""
    known_N = ~np.isnan(label_N)
    order = np.argsort(prob_N[known_N], kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    x = [float(prob_N[known_N][part].mean()) for part in parts]
    y = [float(label_N[known_N][part].mean()) for part in parts]
    return Series(name=name, x=x, y=y)


def _counts(weight_N: Floats, called_NK: NDArray[np.bool_], label_NK: Floats) -> Floats:
    """Return true and false positives, false and true negatives, (4, K)."""
    is_sick_NK, is_well_NK = label_NK == 1, label_NK == 0
    parts = (called_NK & is_sick_NK, called_NK & is_well_NK, ~called_NK & is_sick_NK, ~called_NK & is_well_NK)
    return np.stack([weight_N @ part for part in parts])


def _rates(count_4K: Floats) -> Floats:
    """Return sensitivity, specificity and the predictive values, (Q, K); NaN where nothing is to be divided by."""
    tp_K, fp_K, fn_K, tn_K = count_4K
    pairs = ((tp_K, tp_K + fn_K), (tn_K, tn_K + fp_K), (tp_K, tp_K + fp_K), (tn_K, tn_K + fn_K))
    return np.stack([np.divide(part, all_, out=np.full(len(part), np.nan), where=all_ > 0) for part, all_ in pairs])


def _number(
    name: str, value: float, count: int, fields: Mapping[str, str], interval: tuple[float, float] | None, reason: str
) -> Measurement:
    one = Measurement(name=name, value=None, n=count, fields=fields, reason=reason)
    return replace(one, value=float(value), interval=interval, reason=None) if np.isfinite(value) else one
