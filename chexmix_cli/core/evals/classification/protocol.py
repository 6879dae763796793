"""The protocol of ``chexmix evaluate classification``: fit on train rows, score the split, mask, count.

R rows, N items, P positions, D hidden, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.labels import Label, policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.evals.classification.cases import cases_of
from chexmix_cli.core.evals.classification.items import Floats, Items, Scored, items_of, label_names
from chexmix_cli.core.evals.classification.masking_numbers import sweep_numbers
from chexmix_cli.core.evals.classification.masking_sweep import (
    Masks,
    ModelFeatures,
    PixelFeatures,
    States,
    SweepPlan,
    sweep,
    sweep_head,
)
from chexmix_cli.core.evals.classification.numbers import curves, measure
from chexmix_cli.core.evals.metrics.bootstrap import group_numbers
from chexmix_cli.core.evals.probes.linear import ProbeFit, fit_probe
from chexmix_cli.core.evals.result import Case, Curve, Evaluation, Measurement
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.settings.choices import Policy
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings, ProbeSettings
from chexmix_cli.core.vocab import grid_side

#: Embeddings of codes: (codes (R, P), layers, masks or None, name of the bar) -> layer to (R, D).
Embed = Callable[[NDArray[np.uint16], Sequence[int], Masks | None, str], Mapping[int, States]]
#: PNG bytes of a row's image, or None if there is no picture of it.
Picture = Callable[[ManifestRow], bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Films:
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
class Task:
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
    picture: Picture | None


def evaluate_probe(train: Films, films: Films, embed: Embed, task: Task) -> Evaluation:
    """Return the evaluation of linear probes that are fitted on the train rows.

    Raises:
        DataError: if no label can be fitted.
    """
    settings = task.settings
    items = items_of(films.rows, settings.study)
    labels = [row.labels for row in (*train.rows, *films.rows)]
    names = label_names(settings.labels.names, labels)
    train_labels = [row.labels for row in train.rows]
    states = embed(train.codes_RP, task.layers, None, "train rows")
    patients_R = group_numbers([row.patient for row in train.rows])

    def fit(states: Mapping[int, States], policy: Policy, probe: ProbeSettings) -> ProbeFit:
        target_RK = policy_labels(train_labels, names, policy, unstated=settings.labels.unstated)
        return fit_probe(
            states, target_RK, names, patients_R, probe, model=task.fingerprint, provenance={"policy": policy}
        )

    policies = distinct(settings.labels.fit, train_labels, names)
    fits = {policy: fit(states, policy, settings.probe) for policy in policies}
    seen = embed(films.codes_RP, sorted({found.head.layer for found in fits.values()}), None, "evaluated rows")
    trained = f"{len(train.rows)}"
    scored = [
        _scored(found.head, seen[found.head.layer], items, policy, found.skipped, {"train": trained})
        for policy, found in fits.items()
    ]
    first_policy, first = next(iter(fits.items()))
    measured, columns = _measured(items, scored, settings, names)
    drawn = curves(items, scored[0], settings.labels.evaluate[0], settings.labels.unstated)
    if task.ratios:
        layer = first.head.layer
        embeddings = (states[layer], seen[layer])
        model = _model_features(first.head, embed, train, films, embeddings)

        plan = _plan(task, train, films)
        points = sweep(model, plan, items, lambda state_RD: fit({0: state_RD}, first_policy, settings.probe).head)
        if train.pixels_RYX is not None and films.pixels_RYX is not None:
            pixels = PixelFeatures(train.pixels_RYX, films.pixels_RYX, settings.sweep.baseline_components, task.seed)
            whole = replace(settings.probe, grid=1)  # these are components already
            points += sweep(pixels, plan, items, lambda state_RC: fit({0: state_RC}, first_policy, whole).head)
        fields = _sweep_fields(items, settings, first_policy, trained)
        more, masking = sweep_numbers(
            points,
            _labels(items, first.head.labels, settings),
            first.head.labels,
            items.groups_N,
            fields,
            settings.bootstrap,
            by_label=settings.sweep.by_label,
            columns=columns,
        )
        measured, drawn = [*measured, *more], [*drawn, *masking]
    probes = {policy: _probe_facts(found) for policy, found in fits.items()}
    return _evaluation(items, measured, columns, drawn, _cases(items, films.rows, scored[0], task), {"probes": probes})


def evaluate_head(films: Films, embed: Embed, head: Head, task: Task) -> Evaluation:
    """Return the evaluation of a head that is there; nothing is fitted, and there is no baseline.

    Raises:
        DataError: if it has none of the labels.
    """
    settings = task.settings
    items = items_of(films.rows, settings.study)
    wanted = label_names(settings.labels.names, [row.labels for row in films.rows])
    kept = [name for name in wanted if name in head.labels]
    absent = {name: "the head has no such label" for name in wanted if name not in head.labels}
    _require_labels(kept, wanted, head.labels)
    head = _only(head, kept)
    state_RD = embed(films.codes_RP, [head.layer], None, "evaluated rows")[head.layer]
    scored = _scored(head, state_RD, items, None, absent, {"train": "head"})
    measured, columns = _measured(items, [scored], settings, kept)
    drawn = curves(items, scored, settings.labels.evaluate[0], settings.labels.unstated)
    if task.ratios:
        model = _model_features(head, embed, films, films, (state_RD, state_RD))
        points = sweep_head(model, _plan(task, films, films), items, head)
        fields = _sweep_fields(items, settings, None, "head")
        more, masking = sweep_numbers(
            points,
            _labels(items, kept, settings),
            kept,
            items.groups_N,
            fields,
            settings.bootstrap,
            by_label=settings.sweep.by_label,
            columns=columns,
        )
        measured, drawn = [*measured, *more], [*drawn, *masking]
    facts: dict[str, Any] = {"layer": head.layer, "pooling": head.pooling, "calibration": head.calibration}
    facts = {"head": {**facts, "provenance": dict(head.provenance)}}
    return _evaluation(items, measured, columns, drawn, _cases(items, films.rows, scored, task), facts)


def evaluate_predictions(
    rows: Sequence[ManifestRow],
    names: Sequence[str],
    prob_RK: Floats,
    settings: EvaluateClassificationSettings,
    picture: Picture | None,
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
    wanted = label_names(settings.labels.names, [row.labels for row in rows])
    kept = [name for name in wanted if name in names]
    _require_labels(kept, wanted, names)
    scored = Scored(
        names=kept,
        prob_NK=items.pooled(prob_RK[:, [list(names).index(name) for name in kept]]),
        threshold_K=None,
        fit=None,
        fields={},
        absent={name: "there are no predictions of it" for name in wanted if name not in names},
    )
    measured, columns = _measured(items, [scored], settings, kept)
    drawn = curves(items, scored, settings.labels.evaluate[0], settings.labels.unstated)
    found = [] if picture is None else cases_of(items, rows, scored, settings, picture)
    return _evaluation(items, measured, columns, drawn, found, {})


def _require_labels(kept: Sequence[str], wanted: Sequence[str], there: Sequence[str]) -> None:
    if not kept:
        raise DataError(
            Reason.NOT_FOUND,
            f"there are probabilities of {', '.join(there)}",
            where="labels",
            expected=f"some of {', '.join(wanted) or 'the labels of the manifest, which has none'}",
        )


def distinct(
    policies: Sequence[Policy], labels: Sequence[Mapping[str, Label]], names: Sequence[str]
) -> Sequence[Policy]:
    """Return the policies that can differ: all, or the first where no label is uncertain."""
    has_uncertain = any(found.get(name) == -1 for found in labels for name in names)
    return policies if has_uncertain else policies[:1]


def _scored(
    head: Head,
    state_RD: States,
    items: Items,
    policy: Policy | None,
    absent: Mapping[str, str],
    fields: Mapping[str, str],
) -> Scored:
    return Scored(
        names=head.labels,
        prob_NK=items.pooled(head.probabilities(state_RD)),
        threshold_K=head.threshold_K.astype(np.float64),
        fit=policy,
        fields={"features": head.features, "calibration": head.calibration, **fields},
        absent=absent,
    )


def _measured(
    items: Items, scored: Sequence[Scored], settings: EvaluateClassificationSettings, names: Sequence[str]
) -> tuple[list[Measurement], dict[str, list[float | None]]]:
    columns: dict[str, list[float | None]] = {}
    measured = [
        measurement
        for one in scored
        for policy in distinct(settings.labels.evaluate, items.labels, names)
        for measurement in measure(items, one, policy, settings.labels.unstated, settings.bootstrap, columns=columns)
    ]
    return measured, columns


def _model_features(
    head: Head, embed: Embed, train: Films, films: Films, unmasked: tuple[States, States]
) -> ModelFeatures:
    def masked(codes_RP: NDArray[np.uint16], is_masked_RP: Masks, what: str) -> States:
        return embed(codes_RP, [head.layer], is_masked_RP, what)[head.layer]

    return ModelFeatures(head.features, masked, train.codes_RP, films.codes_RP, unmasked)


def _plan(task: Task, train: Films, films: Films) -> SweepPlan:
    return SweepPlan(
        ratios=sorted(set(task.ratios)),
        settings=task.settings.sweep,
        seed=task.seed,
        grid_size=grid_side(films.codes_RP.shape[1]),
        train_ids=[row.id for row in train.rows],
        ids=[row.id for row in films.rows],
    )


def _labels(items: Items, names: Sequence[str], settings: EvaluateClassificationSettings) -> Floats:
    return policy_labels(items.labels, names, settings.labels.evaluate[0], unstated=settings.labels.unstated)


def _sweep_fields(
    items: Items, settings: EvaluateClassificationSettings, policy: Policy | None, trained: str
) -> dict[str, str]:
    by = "image" if items.study == "one" else f"study-{items.study}"
    fitted = {} if policy is None else {"fit": policy}
    return {
        "by": by,
        **fitted,
        "policy": settings.labels.evaluate[0],
        "unstated": settings.labels.unstated,
        "train": trained,
    }


def _only(head: Head, names: Sequence[str]) -> Head:
    """Return a head of some of its labels, in their order."""
    places = [head.labels.index(name) for name in names]
    arrays: dict[str, Any] = {
        name: getattr(head, name)[places] for name in ("weight_KD", "bias_K", "slope_K", "offset_K", "threshold_K")
    }
    return replace(head, labels=tuple(names), **arrays)


def _probe_facts(found: ProbeFit) -> dict[str, Any]:
    return {
        "layer": found.head.layer,
        "layer_auroc": {str(layer): score for layer, score in found.layer_aurocs.items()},
        "labels": {name: dict(values) for name, values in found.chosen.items()},
        "not_fitted": dict(found.skipped),
    }


def _cases(items: Items, rows: Sequence[ManifestRow], scored: Scored, task: Task) -> list[Case]:
    return [] if task.picture is None else cases_of(items, rows, scored, task.settings, task.picture)


def _evaluation(
    items: Items,
    measured: Sequence[Measurement],
    columns: Mapping[str, list[float | None]],
    drawn: Sequence[Curve],
    cases: Sequence[Case],
    facts: Mapping[str, Any],
) -> Evaluation:
    counts = {"items": len(items.ids), "patients": len(set(items.groups_N.tolist()))}
    return Evaluation(
        task="classification",
        measurements=measured,
        data={**counts, **facts},
        item_ids=items.ids,
        item_groups=items.groups_N.tolist(),
        columns=columns,
        curves=drawn,
        cases=cases,
    )
