"""A linear probe: logistic regression on frozen, standardised embeddings, one a label.

Everything that is fitted or chosen (components, mean and scale, layer, strength of the penalty, calibration,
thresholds) comes from the rows given, by cross-validation over patients; whoever evaluates gives the train rows alone.
Components know no labels and are fitted once, on all those rows; all else leaves each fold's rows out in turn.
N images, D numbers of an embedding, C components, K labels, M numbers of a subset.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.probes.components import principal_components
from chexmix_cli.core.infer.classification.heads import Head, sigmoid
from chexmix_cli.core.settings.classification import ProbeSettings

_LOG = logging.getLogger("chexmix")


_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-8
#: So weak a penalty is none: for the one or two numbers of a calibration.
_NO_PENALTY = 1e6
_EVEN = 0.5
#: A label needs so many patients of each class: with fewer nothing can be left out.
_FEWEST_PATIENTS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFit:
    """A fitted probe, and how it came to be.

    Attributes:
        head: probabilities of the labels that could be fitted.
        skipped: the other labels, with the reason.
        chosen: label to ``c``, cross-validated ``auroc`` (None if undefined), ``n_positive`` and ``n_negative``.
        layer_aurocs: layer to its cross-validated AUROC, mean over labels; empty where there was no choice.
    """

    head: Head
    skipped: Mapping[str, str]
    chosen: Mapping[str, Mapping[str, Any]]
    layer_aurocs: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Linear:
    """One label's logistic regression on standardised numbers."""

    mean_D: Floats
    scale_D: Floats
    weight_D: Floats
    bias: float

    def logits(self, state_ND: Floats) -> Floats:
        return ((state_ND - self.mean_D) / self.scale_D) @ self.weight_D + self.bias


class _Components:
    """Principal components of embeddings, if the settings want some: what the regressions read, and the way back."""

    def __init__(self, state_ND: NDArray[np.floating[Any]], settings: ProbeSettings) -> None:
        self._pca = principal_components(state_ND, settings.components, seed=0) if settings.grid > 1 else None
        found = state_ND if self._pca is None else self._pca.transform(state_ND)
        self.state_NC: Floats = found.astype(np.float64)

    def to_states(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Return a head's arrays for embeddings in place of their components, which are linear in them, too."""
        if self._pca is None:
            return arrays
        per_component_KC = arrays["weight_KD"] / arrays["scale_D"]
        return {
            **arrays,
            "mean_D": self._pca.mean_,
            "scale_D": np.ones_like(self._pca.mean_),
            "weight_KD": per_component_KC @ self._pca.components_,
            "bias_K": arrays["bias_K"] - per_component_KC @ arrays["mean_D"],
        }


@dataclass(frozen=True, slots=True)
class _Label:
    """What one label is fitted on: the rows that have it, and how they are left out in turn."""

    index_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def fit_probe(
    states: Mapping[int, NDArray[np.floating[Any]]],
    labels_NK: Floats,
    names: Sequence[str],
    groups_N: NDArray[np.int64],
    settings: ProbeSettings,
    *,
    model: str,
    provenance: Mapping[str, Any],
) -> ProbeFit:
    """Return the probe of train rows; the same for the same arguments.

    Args:
        states: layer to embeddings (N, D) of the train rows; of several, the one of the best mean AUROC is taken.
        labels_NK: 1, 0, or NaN where an image has no label (it is left out of that label's fit).
        names: the K labels.
        groups_N: patient of each image, any whole numbers.
        settings: grid, components, strengths, folds, balance, calibration. The states are of that grid; ``layers`` is
            the caller's affair, who gives them.
        model: fingerprint of the weights that gave the states.
        provenance: goes into the head, with the protocol.

    Raises:
        DataError: if no label has two patients of each class.
    """
    usable, skipped = _usable_labels(labels_NK, names, groups_N, settings.folds)
    if not usable:
        raise DataError(
            Reason.BAD_RECORD,
            "no label can be fitted: " + "; ".join(f"{name}: {reason}" for name, reason in skipped.items()),
            expected=f"a label with {_FEWEST_PATIENTS} patients of each class",
        )
    read = {layer: _Components(state_ND, settings) for layer, state_ND in states.items()}
    layer, layer_aurocs = _choose_layer({layer: one.state_NC for layer, one in read.items()}, usable, settings)
    fits = {name: _fit_label(read[layer].state_NC, label, settings) for name, label in usable.items()}
    arrays = read[layer].to_states(_arrays([linear for linear, _, _ in fits.values()]))
    head = _calibrated(
        Head(
            labels=tuple(fits),
            layer=layer,
            grid=settings.grid,
            **{name: array.astype(np.float32) for name, array in arrays.items()},
            model=model,
            provenance={**provenance, "probe": _protocol(settings, len(groups_N), groups_N)},
        ),
        usable,
        [left_out_N for _, left_out_N, _ in fits.values()],
        settings,
    )
    return ProbeFit(
        head=head,
        skipped=skipped,
        chosen={name: chosen for name, (_, _, chosen) in fits.items()},
        layer_aurocs=layer_aurocs,
    )


def best_threshold(label_N: NDArray[np.int64], prob_N: Floats) -> float:
    """Return the probability from which on calling a finding present gives the best F1; 0.5 without both classes.

    Of several as good, the highest.
    """
    if len(np.unique(label_N)) < 2:
        return _EVEN
    order = np.argsort(-prob_N, kind="stable")
    hits_N = np.cumsum(label_N[order])
    f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + label_N.sum())
    sorted_N = prob_N[order]
    is_last_of_tie = np.append(sorted_N[1:] != sorted_N[:-1], True)
    return float(sorted_N[int(np.argmax(np.where(is_last_of_tie, f1_N, -1.0)))])


def probability_quantiles(prob_N: Floats) -> tuple[float, ...]:
    """Return the quantiles of probabilities in hundredths, each a value that occurs, in six digits."""
    found_Q = np.quantile(prob_N, np.linspace(0, 1, 101), method="lower")
    return tuple(float(f"{value:.6g}") for value in found_Q)


def _usable_labels(
    labels_NK: Floats, names: Sequence[str], groups_N: NDArray[np.int64], folds: int
) -> tuple[dict[str, _Label], dict[str, str]]:
    usable: dict[str, _Label] = {}
    skipped: dict[str, str] = {}
    for name, value_N in zip(names, labels_NK.T, strict=True):
        index_N = np.flatnonzero(~np.isnan(value_N))
        label_N, group_N = value_N[index_N].astype(np.int64), groups_N[index_N]
        patients = [len(np.unique(group_N[label_N == kind])) for kind in (1, 0)]
        if min(patients) < _FEWEST_PATIENTS:
            skipped[name] = f"{patients[0]} patients with it, {patients[1]} without, to fit on"
            continue
        splitter = GroupKFold(min(folds, len(np.unique(group_N))))
        parts = [(fit_N, rest_N) for fit_N, rest_N in splitter.split(index_N, groups=group_N)]
        usable[name] = _Label(index_N, label_N, [part for part in parts if len(np.unique(label_N[part[0]])) == 2])
    return usable, skipped


def _choose_layer(
    states: Mapping[int, Floats], usable: Mapping[str, _Label], settings: ProbeSettings
) -> tuple[int, dict[int, float]]:
    """Return the layer of the best mean cross-validated AUROC at the middle strength, the lowest of several as good."""
    if len(states) == 1:
        return next(iter(states)), {}
    middle = sorted(settings.c)[(len(settings.c) - 1) // 2]
    found: dict[int, float] = {}
    for layer, state_ND in states.items():
        scores = [_auroc(label, _left_out(state_ND, label, middle, settings)) for label in usable.values()]
        defined = [score for score in scores if score is not None]
        found[layer] = float(np.mean(defined)) if defined else float("-inf")
    best = max(sorted(found), key=lambda layer: found[layer])
    return best, {layer: score for layer, score in found.items() if np.isfinite(score)}


def _fit_label(state_ND: Floats, label: _Label, settings: ProbeSettings) -> tuple[_Linear, Floats, dict[str, Any]]:
    """Return the regression of one label at its best strength, the left-out logits at it, and what was chosen."""
    best: tuple[float, float, Floats] | None = None
    for c in sorted(settings.c):  # of several as good, the strongest penalty
        left_out_N = _left_out(state_ND, label, c, settings)
        score = _auroc(label, left_out_N)
        rank = float("-inf") if score is None else score
        if best is None or rank > best[0]:
            best = (rank, c, left_out_N)
    assert best is not None, "settings hold at least one strength"
    rank, c, left_out_N = best
    chosen = {
        "c": c,
        "auroc": rank if np.isfinite(rank) else None,
        "n_positive": int(label.label_N.sum()),
        "n_negative": int((1 - label.label_N).sum()),
    }
    return _fit(state_ND[label.index_N], label.label_N, c, settings), left_out_N, chosen


def _left_out(state_ND: Floats, label: _Label, c: float, settings: ProbeSettings) -> Floats:
    """Return each row's logit by the fit without its fold; NaN where that fit would have had one class only."""
    logit_N = np.full(len(label.index_N), np.nan)
    own_ND = state_ND[label.index_N]
    for fit_N, rest_N in label.folds:
        logit_N[rest_N] = _fit(own_ND[fit_N], label.label_N[fit_N], c, settings).logits(own_ND[rest_N])
    return logit_N


def _fit(state_ND: Floats, label_N: NDArray[np.int64], c: float, settings: ProbeSettings) -> _Linear:
    scaler = StandardScaler().fit(state_ND)
    weights = "balanced" if settings.balance == "weight" else None
    # Newton's steps end at the optimum itself. The default solver stops well before it where features are correlated,
    # as states are, or takes hundreds of steps.
    model = LogisticRegression(
        C=c, class_weight=weights, solver="newton-cholesky", tol=_TOLERANCE, max_iter=_MAX_ITERATIONS
    )
    _fit_quietly(model, scaler.transform(state_ND), label_N)
    # Weighing the classes equally adds log(absent / present) to every logit: probabilities are of the rows as they are.
    shift = np.log((1 - label_N).sum() / label_N.sum()) if weights else 0.0
    return _Linear(scaler.mean_, scaler.scale_, model.coef_[0], float(model.intercept_[0] - shift))


def _fit_quietly(model: LogisticRegression, values_NM: Floats, label_N: NDArray[np.int64]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values_NM, label_N)
    if model.n_iter_.max() >= _MAX_ITERATIONS:
        _LOG.warning("a logistic regression has not converged in %d steps (C=%g)", _MAX_ITERATIONS, model.C)


def _auroc(label: _Label, logit_N: Floats) -> float | None:
    label_M, logit_M = _known(label, logit_N)
    return float(roc_auc_score(label_M, logit_M)) if len(np.unique(label_M)) == 2 else None


def _known(label: _Label, logit_N: Floats) -> tuple[NDArray[np.int64], Floats]:
    is_known_N = ~np.isnan(logit_N)
    return label.label_N[is_known_N], logit_N[is_known_N]


def _arrays(fits: Sequence[_Linear]) -> dict[str, Any]:
    """Return a head's arrays: each label has its own standardisation (of the rows that have it), a head has one.

    Labels' own means and scales are folded into weights and biases; the head's are the mean of the means and of the
    scales.
    """
    mean_D = np.mean([fit.mean_D for fit in fits], axis=0)
    scale_D = np.mean([fit.scale_D for fit in fits], axis=0)
    weight_KD = np.stack([fit.weight_D * scale_D / fit.scale_D for fit in fits])
    bias_K = np.array([fit.bias + fit.weight_D @ ((mean_D - fit.mean_D) / fit.scale_D) for fit in fits])
    arrays = {"mean_D": mean_D, "scale_D": scale_D, "weight_KD": weight_KD, "bias_K": bias_K}
    arrays |= {"slope_K": np.ones(len(fits)), "offset_K": np.zeros(len(fits)), "threshold_K": np.full(len(fits), _EVEN)}
    return arrays


def _calibrated(head: Head, usable: Mapping[str, _Label], left_out: Sequence[Floats], settings: ProbeSettings) -> Head:
    """Return a head with calibration and thresholds, both from left-out logits."""
    known = [_known(label, logit_N) for label, logit_N in zip(usable.values(), left_out, strict=True)]
    lines = [(1.0, 0.0)] * len(known)
    if settings.calibration == "platt":
        lines = [_platt(*pair) for pair in known]
    elif settings.calibration == "temperature":
        lines = [(_inverse_temperature(known), 0.0)] * len(known)
    left_out_probabilities = [
        (label_N, sigmoid(slope * logit_N + offset))
        for (label_N, logit_N), (slope, offset) in zip(known, lines, strict=True)
    ]
    thresholds = [best_threshold(label_N, prob_N) for label_N, prob_N in left_out_probabilities]
    quantiles = {
        name: (probability_quantiles(prob_N[label_N == 1]), probability_quantiles(prob_N[label_N == 0]))
        for name, (label_N, prob_N) in zip(usable, left_out_probabilities, strict=True)
        if len(np.unique(label_N)) == 2
    }
    return replace(
        head,
        slope_K=np.array([slope for slope, _ in lines], np.float32),
        offset_K=np.array([offset for _, offset in lines], np.float32),
        threshold_K=np.array(thresholds, np.float32),
        quantiles=quantiles,
        calibration=settings.calibration,
    )


def _platt(label_N: NDArray[np.int64], logit_N: Floats) -> tuple[float, float]:
    """Return slope and offset of a logistic regression on the logits (Platt 1999, without his smoothed targets)."""
    if len(np.unique(label_N)) < 2:
        return 1.0, 0.0
    model = LogisticRegression(C=_NO_PENALTY, max_iter=_MAX_ITERATIONS)
    _fit_quietly(model, logit_N[:, None], label_N)
    slope = float(model.coef_[0, 0])
    if slope <= 0:  # the logits say nothing: the share of the label is all that is known
        share = label_N.mean()
        return 0.0, float(np.log(share / (1 - share)))
    return slope, float(model.intercept_[0])


def _inverse_temperature(known: Sequence[tuple[NDArray[np.int64], Floats]]) -> float:
    """Return the one factor on all logits of the best likelihood over all labels (Guo et al. 2017)."""
    label_M, logit_M = (np.concatenate(parts) for parts in zip(*known, strict=True))
    if len(np.unique(label_M)) < 2:
        return 1.0
    model = LogisticRegression(C=_NO_PENALTY, fit_intercept=False, max_iter=_MAX_ITERATIONS)
    _fit_quietly(model, logit_M[:, None], label_M)
    factor = float(model.coef_[0, 0])
    return factor if factor > 0 else 1.0


def _protocol(settings: ProbeSettings, count: int, groups_N: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "grid": settings.grid,
        **({"components": settings.components} if settings.grid > 1 else {}),
        "c": list(settings.c),
        "folds": settings.folds,
        "balance": settings.balance,
        "calibration": settings.calibration,
        "images": count,
        "patients": len(np.unique(groups_N)),
    }
