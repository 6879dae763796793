"""The protocol of ``chexmix evaluate classification``: score the items, measure the scores, sweep over masks.

Scores come from probes fitted on train rows, from a head, or from a file; what follows is the same for all.

R rows, N items, P positions, D hidden, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import Label, policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.evals.classification.cases import cases_of
from chexmix_cli.core.evals.classification.items import Items, Scored, items_of, label_names
from chexmix_cli.core.evals.classification.masking_numbers import sweep_numbers
from chexmix_cli.core.evals.classification.masking_sweep import (
    MaskedPoint,
    Masks,
    ModelFeatures,
    PixelFeatures,
    States,
    SweepPlan,
    sweep,
    sweep_head,
)
from chexmix_cli.core.evals.classification.numbers import base_fields, curves, measure
from chexmix_cli.core.evals.classification.operating import Measured, at_point, by_group, plots
from chexmix_cli.core.evals.metrics.binary import Floats
from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
from chexmix_cli.core.evals.probes.linear import ProbeFit, fit_probe
from chexmix_cli.core.evals.result import Curve, Evaluation, Measurement
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.settings.choices import Policy, Unstated
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings, OperatingPoint, ProbeSettings
from chexmix_cli.core.vocab import grid_side

#: Embeddings of codes: (codes (R, P), layers, masks or None, name of the bar) -> layer to (R, D).
Embed = Callable[[NDArray[np.uint16], Sequence[int], Masks | None, str], Mapping[int, States]]
#: PNG bytes of a row's image, or None if there is no picture of it.
DrawRow = Callable[[ManifestRow], bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitImages:
    """Images of one split.

    Attributes:
        rows: of the manifest.
        codes_RP: theirs.
        pixels_RYX: for the baseline, or None without one.
    """

    rows: Sequence[ManifestRow]
    codes_RP: NDArray[np.uint16]
    pixels_RYX: States | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationProtocol:
    """What is to be measured.

    Attributes:
        settings: labels, fit, probe, sweep, bootstrap.
        seed: of masks and of the baseline's decomposition.
        fingerprint: of the weights.
        layers: hidden states a probe may take.
        ratios: of the masking sweep; none: no sweep.
        picture: for the cases, or None for none.
    """

    settings: EvaluateClassificationSettings
    seed: int
    fingerprint: str
    layers: Sequence[int]
    ratios: Sequence[float]
    picture: DrawRow | None


def evaluate_probe(
    train: SplitImages, images: SplitImages, embed: Embed, protocol: ClassificationProtocol
) -> Evaluation:
    """Return the evaluation of linear probes that are fitted on the train rows.

    Raises:
        DataError: if no label can be fitted.
    """
    settings = protocol.settings
    fitter = _Fitter.of(train, images, embed, protocol)
    policies = distinct(settings.labels.fit, fitter.labels, fitter.names)
    fits = {policy: fitter.fit(fitter.states, policy, settings.probe) for policy in policies}
    seen = embed(images.codes_RP, sorted({fit.head.layer for fit in fits.values()}), None, "evaluated rows")
    items = items_of(images.rows, settings.study)
    scored = [
        _scored(fit.head, seen[fit.head.layer], items, policy, fit.skipped, str(len(train.rows)), settings.point)
        for policy, fit in fits.items()
    ]
    scores = _Scores(rows=images.rows, items=items, names=fitter.names, scored=scored)
    numbers = _measure(scores, settings)
    if protocol.ratios:
        points = _probe_points(fitter, fits, seen, train, images, embed, items, protocol)
        _sweep(points, scores, settings, numbers)
    probes = {policy: _probe_facts(fit) for policy, fit in fits.items()}
    return _evaluation(scores, numbers, settings, protocol.picture, {"probes": probes})


def evaluate_head(images: SplitImages, embed: Embed, head: Head, protocol: ClassificationProtocol) -> Evaluation:
    """Return the evaluation of an existing head; nothing is fitted, and there is no baseline.

    Raises:
        DataError: if it has none of the labels.
    """
    settings = protocol.settings
    wanted, kept = _shared_labels([row.labels for row in images.rows], head.labels, settings)
    absent = {name: "the head has no such label" for name in wanted if name not in head.labels}
    head = head.of_labels(kept)
    state_RD = embed(images.codes_RP, [head.layer], None, "evaluated rows")[head.layer]
    items = items_of(images.rows, settings.study)
    scored = _scored(head, state_RD, items, None, absent, "head", settings.point)
    scores = _Scores(rows=images.rows, items=items, names=kept, scored=[scored])
    numbers = _measure(scores, settings)
    if protocol.ratios:
        model = _model_features(head, embed, images, images, (state_RD, state_RD))
        _sweep(sweep_head(model, _plan(protocol, images, images), items, head), scores, settings, numbers)
    facts: dict[str, Any] = {"layer": head.layer, "pooling": head.pooling, "calibration": head.calibration}
    facts = {"head": {**facts, "provenance": dict(head.provenance)}}
    return _evaluation(scores, numbers, settings, protocol.picture, facts)


def evaluate_predictions(
    rows: Sequence[ManifestRow],
    names: Sequence[str],
    prob_RK: Floats,
    settings: EvaluateClassificationSettings,
    picture: DrawRow | None,
) -> Evaluation:
    """Return the evaluation of probabilities that came from elsewhere.

    Args:
        rows: those that have probabilities.
        names: labels of the probabilities.
        prob_RK: probabilities of the rows.
        settings: labels, study scores, bootstrap; the rest has no effect.
        picture: for the cases, or None for none.

    Raises:
        DataError: if there are probabilities of none of the labels.
    """
    items = items_of(rows, settings.study)
    wanted, kept = _shared_labels([row.labels for row in rows], names, settings)
    scored = Scored(
        names=kept,
        prob_NK=items.pooled(prob_RK[:, [list(names).index(name) for name in kept]]),
        threshold_K=None,
        fit=None,
        fields={},
        absent={name: "there are no predictions of it" for name in wanted if name not in names},
        at=settings.point,
    )
    scores = _Scores(rows=rows, items=items, names=kept, scored=[scored])
    return _evaluation(scores, _measure(scores, settings), settings, picture, {})


def distinct(
    policies: Sequence[Policy], labels: Sequence[Mapping[str, Label]], names: Sequence[str]
) -> Sequence[Policy]:
    """Return the policies that can differ: all, or the first where no label is uncertain."""
    has_uncertain = any(found.get(name) == -1 for found in labels for name in names)
    return policies if has_uncertain else policies[:1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scores:
    """What scoring gives: items of rows, and probabilities of them: of a probe a policy, of a head, or of a file."""

    rows: Sequence[ManifestRow]
    items: Items
    names: Sequence[str]
    scored: Sequence[Scored]


@dataclass(slots=True)
class _Numbers:
    """What measuring gives, and a sweep adds to; ``columns`` are the scores and labels that the numbers follow from."""

    measurements: list[Measurement] = field(default_factory=list)
    columns: dict[str, list[float | None]] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    confusion: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitter:
    """Train rows with what is known of them, and the fit of probes on any features of theirs."""

    names: list[str]
    labels: list[Mapping[str, Label]]
    patients_R: NDArray[np.int64]
    states: Mapping[int, States]
    unstated: Unstated
    fingerprint: str

    @classmethod
    def of(cls, train: SplitImages, images: SplitImages, embed: Embed, protocol: ClassificationProtocol) -> Self:
        """Return the fitter of train rows, for the labels that either split has."""
        settings = protocol.settings
        return cls(
            names=label_names(settings.labels.names, [row.labels for row in (*train.rows, *images.rows)]),
            labels=[row.labels for row in train.rows],
            patients_R=group_numbers([row.patient for row in train.rows]),
            states=embed(train.codes_RP, protocol.layers, None, "train rows"),
            unstated=settings.labels.unstated,
            fingerprint=protocol.fingerprint,
        )

    def fit(self, states: Mapping[int, States], policy: Policy, probe: ProbeSettings) -> ProbeFit:
        """Return the probe of some features of the rows, by layer, its labels under one policy."""
        target_RK = policy_labels(self.labels, self.names, policy, unstated=self.unstated)
        return fit_probe(
            states,
            target_RK,
            self.names,
            self.patients_R,
            probe,
            model=self.fingerprint,
            provenance={"policy": policy},
        )


def _measure(scores: _Scores, settings: EvaluateClassificationSettings) -> _Numbers:
    """Return every number of the scores under every policy, and the curves of the first."""
    items, labels, numbers = scores.items, settings.labels, _Numbers()
    for scored in scores.scored:
        for policy in distinct(labels.evaluate, items.labels, scores.names):
            numbers.measurements += measure(
                items, scored, policy, labels.unstated, settings.bootstrap, columns=numbers.columns
            )
    first, policy = scores.scored[0], labels.evaluate[0]
    measured = Measured(
        items=items,
        scored=first,
        policy=policy,
        unstated=labels.unstated,
        settings=settings.bootstrap,
        fields=base_fields(items, first, policy, labels.unstated),
    )
    numbers.curves += [*plots(measured), *curves(items, first, policy, labels.unstated)]
    if first.at is not None:
        found, numbers.confusion = at_point(measured)
        numbers.measurements += found
    numbers.measurements += by_group(measured, scores.rows, settings.by)
    return numbers


def _sweep(
    points: Sequence[MaskedPoint], scores: _Scores, settings: EvaluateClassificationSettings, numbers: _Numbers
) -> None:
    """Add what the points of a masking sweep come to, under the first policies of fit and evaluation."""
    items, scored = scores.items, scores.scored[0]
    policy, unstated = settings.labels.evaluate[0], settings.labels.unstated
    fields = {
        "by": "image" if items.study == "one" else f"study-{items.study}",
        **({} if scored.fit is None else {"fit": scored.fit}),
        "policy": policy,
        "unstated": unstated,
        "train": scored.fields["train"],
    }
    measurements, masking = sweep_numbers(
        points,
        policy_labels(items.labels, scored.names, policy, unstated=unstated),
        scored.names,
        items.groups_N,
        fields,
        settings.bootstrap,
        by_label=settings.sweep.by_label,
        columns=numbers.columns,
    )
    numbers.measurements += measurements
    numbers.curves += masking


def _probe_points(
    fitter: _Fitter,
    fits: Mapping[Policy, ProbeFit],
    seen: Mapping[int, States],
    train: SplitImages,
    images: SplitImages,
    embed: Embed,
    items: Items,
    protocol: ClassificationProtocol,
) -> list[MaskedPoint]:
    """Return the points of the first policy's probe, and of the pixel baseline where there are pixels."""
    settings, plan = protocol.settings, _plan(protocol, train, images)
    policy, first = next(iter(fits.items()))
    layer = first.head.layer
    model = _model_features(first.head, embed, train, images, (fitter.states[layer], seen[layer]))
    points = sweep(model, plan, items, lambda state_RD: fitter.fit({0: state_RD}, policy, settings.probe).head)
    if train.pixels_RYX is not None and images.pixels_RYX is not None:
        components = settings.sweep.baseline_components
        pixels = PixelFeatures(train.pixels_RYX, images.pixels_RYX, components, protocol.seed)
        whole = replace(settings.probe, grid=1)  # these are components already
        points += sweep(pixels, plan, items, lambda state_RC: fitter.fit({0: state_RC}, policy, whole).head)
    return points


def _shared_labels(
    labels: Sequence[Mapping[str, Label]], there: Sequence[str], settings: EvaluateClassificationSettings
) -> tuple[list[str], list[str]]:
    """Return the labels that are asked for, and those of them with probabilities: DataError if there are none."""
    wanted = label_names(settings.labels.names, labels)
    kept = [name for name in wanted if name in there]
    if not kept:
        raise DataError(
            Reason.NOT_FOUND,
            f"there are probabilities of {', '.join(there)}",
            where="labels",
            expected=f"some of {', '.join(wanted) or 'the labels of the manifest, which has none'}",
        )
    return wanted, kept


def _scored(
    head: Head,
    state_RD: States,
    items: Items,
    policy: Policy | None,
    absent: Mapping[str, str],
    trained: str,
    at: OperatingPoint | None,
) -> Scored:
    return Scored(
        names=head.labels,
        prob_NK=items.pooled(head.probabilities(state_RD)),
        threshold_K=head.threshold_K.astype(np.float64),
        at=at,
        at_K=None if at is None else head.thresholds_at(at),
        fit=policy,
        fields={"features": head.features, "calibration": head.calibration, "train": trained},
        absent=absent,
    )


def _model_features(
    head: Head, embed: Embed, train: SplitImages, images: SplitImages, unmasked: tuple[States, States]
) -> ModelFeatures:
    def masked(codes_RP: NDArray[np.uint16], is_masked_RP: Masks, what: str) -> States:
        return embed(codes_RP, [head.layer], is_masked_RP, what)[head.layer]

    return ModelFeatures(head.features, masked, train.codes_RP, images.codes_RP, unmasked)


def _plan(protocol: ClassificationProtocol, train: SplitImages, images: SplitImages) -> SweepPlan:
    return SweepPlan(
        ratios=sorted(set(protocol.ratios)),
        settings=protocol.settings.sweep,
        seed=protocol.seed,
        grid_size=grid_side(images.codes_RP.shape[1]),
        train_ids=[row.id for row in train.rows],
        ids=[row.id for row in images.rows],
    )


def _probe_facts(fit: ProbeFit) -> dict[str, Any]:
    return {
        "layer": fit.head.layer,
        "layer_auroc": {str(layer): score for layer, score in fit.layer_aurocs.items()},
        "labels": {name: dict(values) for name, values in fit.chosen.items()},
        "not_fitted": dict(fit.skipped),
    }


def _evaluation(
    scores: _Scores,
    numbers: _Numbers,
    settings: EvaluateClassificationSettings,
    picture: DrawRow | None,
    facts: Mapping[str, Any],
) -> Evaluation:
    items = scores.items
    cases = [] if picture is None else cases_of(items, scores.rows, scores.scored[0], settings, picture)
    counts = {"items": len(items.ids), "patients": len(set(items.groups_N.tolist()))}
    return Evaluation(
        task="classification",
        measurements=numbers.measurements,
        data={**counts, **facts, **({"confusion": numbers.confusion} if numbers.confusion else {})},
        item_ids=items.ids,
        item_groups=items.groups_N.tolist(),
        columns=numbers.columns,
        curves=numbers.curves,
        cases=cases,
    )
