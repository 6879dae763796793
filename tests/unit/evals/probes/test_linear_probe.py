"""The linear probe against scikit-learn's own pipeline, and that it learns from train rows and by patient only."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.probes.linear import best_threshold, fit_probe
from chexmix_cli.core.settings.classification import ProbeSettings

NAN = np.nan


def planted(count=240, hidden=6, seed=0, noise=1.0, offset=0.0):
    """Return states of far-apart scales, a label that depends on two of their numbers, and patients of three images."""
    rng = np.random.default_rng(seed)
    state_ND = rng.normal(size=(count, hidden)) * 10.0 ** np.arange(-2, hidden - 2) + 3.0
    standard_ND = (state_ND - state_ND.mean(0)) / state_ND.std(0)
    label_N = (standard_ND[:, 0] - standard_ND[:, 1] + noise * rng.normal(size=count) > offset).astype(float)
    return state_ND.astype(np.float32), label_N, np.arange(count) // 3


def fit(states, labels_NK, groups_N, names=None, **settings):
    labels_NK = labels_NK if labels_NK.ndim == 2 else labels_NK[:, None]
    names = names or [f"finding {number}" for number in range(labels_NK.shape[1])]
    states = states if isinstance(states, dict) else {1: states}
    return fit_probe(
        states, labels_NK, names, groups_N, ProbeSettings(**settings), model="m", provenance={"data": "planted"}
    )


def pipeline(c, **options):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-8, max_iter=10000, **options))


def test_it_is_the_pipeline_of_scikit_learn():
    state_ND, label_N, groups_N = planted()
    other_ND = planted(seed=5)[0]
    found = fit(state_ND, label_N, groups_N, c=(0.05,))
    wanted = pipeline(0.05).fit(state_ND.astype(np.float64), label_N)
    assert np.allclose(found.head.probabilities(other_ND)[:, 0], wanted.predict_proba(other_ND)[:, 1], atol=1e-5)
    left_out_N = cross_val_predict(
        pipeline(0.05), state_ND.astype(np.float64), label_N, groups=groups_N, cv=GroupKFold(5), method="predict_proba"
    )[:, 1]
    assert found.chosen["finding 0"]["auroc"] == pytest.approx(roc_auc_score(label_N, left_out_N), abs=1e-6)


def test_a_grid_is_read_by_its_principal_components_and_the_head_reads_the_grid():
    """Components of all rows, then the same regression on them; the head gives its numbers from the states."""
    state_ND, label_N, groups_N = planted(hidden=8)
    state_ND /= state_ND.std(axis=0) * np.arange(1, 9)
    other_ND = state_ND[::-1] * 1.5 + 0.25
    partial_N = np.where(np.arange(240) < 90, NAN, label_N)
    found = fit(state_ND, np.stack([label_N, partial_N], axis=1), groups_N, c=(0.05,), grid=2, components=3)
    assert (found.head.grid, found.head.pooling, found.head.features) == (2, "grid2", "layer1-grid2")
    assert found.head.weight_KD.shape == (2, 8)
    reduce = PCA(3).fit(state_ND.astype(np.float64))
    for place, is_there_N in enumerate((np.ones(240, bool), ~np.isnan(partial_N))):
        wanted = pipeline(0.05).fit(reduce.transform(state_ND[is_there_N]), label_N[is_there_N])
        wanted_N = wanted.predict_proba(reduce.transform(other_ND))[:, 1]
        assert np.allclose(found.head.probabilities(other_ND)[:, place], wanted_N, atol=1e-4)
    assert found.head.provenance["probe"]["components"] == 3
    assert fit(state_ND[:, :2], label_N, groups_N, c=(0.05,), grid=2).head.weight_KD.shape == (1, 2)


def test_each_label_has_its_own_rows():
    state_ND, label_N, groups_N = planted()
    partial_N = np.where(np.arange(240) < 90, NAN, label_N)
    found = fit(state_ND, np.stack([label_N, partial_N], axis=1), groups_N, c=(0.1,))
    has = ~np.isnan(partial_N)
    wanted = pipeline(0.1).fit(state_ND[has].astype(np.float64), partial_N[has])
    assert np.allclose(found.head.probabilities(state_ND)[:, 1], wanted.predict_proba(state_ND)[:, 1], atol=1e-5)
    assert found.chosen["finding 1"]["n_positive"] + found.chosen["finding 1"]["n_negative"] == 150


def test_weighing_classes_takes_the_shift_of_probabilities_back():
    state_ND, label_N, groups_N = planted(1500, offset=1.8)
    found = fit(state_ND, label_N, groups_N, c=(1.0,), balance="weight")
    wanted = pipeline(1.0, class_weight="balanced").fit(state_ND.astype(np.float64), label_N)
    odds = (1 - label_N).sum() / label_N.sum()
    logit_N = wanted.decision_function(state_ND.astype(np.float64)) - np.log(odds)
    assert np.allclose(found.head.logits(state_ND)[:, 0], logit_N, atol=1e-4)
    assert found.head.probabilities(state_ND).mean() == pytest.approx(label_N.mean(), abs=0.02)


def test_the_layer_and_the_strength_are_those_of_the_best_cross_validated_auroc():
    state_ND, label_N, groups_N = planted()
    noise_ND = np.random.default_rng(3).normal(size=state_ND.shape).astype(np.float32)
    found = fit({1: noise_ND, 4: state_ND, 5: noise_ND[::-1].copy()}, label_N, groups_N)
    assert found.head.layer == 4
    assert max(found.layer_aurocs, key=lambda layer: found.layer_aurocs[layer]) == 4
    wide_ND = np.random.default_rng(4).normal(size=(240, 120))
    wide_ND[:, :2] = state_ND[:, :2] / state_ND[:, :2].std(0)
    strengths = (1e-3, 1e-1, 1e3)
    scores = {
        c: roc_auc_score(
            label_N,
            cross_val_predict(
                pipeline(c), wide_ND, label_N, groups=groups_N, cv=GroupKFold(5), method="decision_function"
            ),
        )
        for c in strengths
    }
    assert fit(wide_ND, label_N, groups_N, c=strengths).chosen["finding 0"]["c"] == max(scores, key=scores.__getitem__)


def test_patients_stay_together():
    """A number that names the patient, and labels by patient: splitting by image would look perfect."""
    rng = np.random.default_rng(0)
    groups_N = np.repeat(np.arange(60), 4)
    label_N = rng.permutation(np.repeat([0.0, 1.0], 30))[groups_N]
    state_ND = np.eye(60)[groups_N] + 0.01 * rng.normal(size=(240, 60))
    found = fit(state_ND, label_N, groups_N, c=(1.0,)).chosen["finding 0"]["auroc"]
    split = StratifiedKFold(5, shuffle=True, random_state=0)
    by_image = roc_auc_score(
        label_N, cross_val_predict(pipeline(1.0), state_ND, label_N, cv=split, method="predict_proba")[:, 1]
    )
    assert found < 0.65 < 0.95 < by_image


def test_the_same_rows_give_the_same_head_and_nothing_else_enters():
    state_ND, label_N, groups_N = planted()
    first, second = fit(state_ND, label_N, groups_N), fit(state_ND.copy(), label_N, groups_N + 100)
    assert np.array_equal(first.head.weight_KD, second.head.weight_KD)
    assert np.allclose(first.head.mean_D, state_ND.mean(0), rtol=1e-5)
    assert np.allclose(first.head.scale_D, state_ND.std(0), rtol=1e-5)


def test_labels_that_cannot_be_fitted_are_named_with_the_reason():
    state_ND, label_N, groups_N = planted()
    none_N, one_N = np.zeros(240), np.zeros(240)
    one_N[:2] = 1  # two images of one patient
    found = fit(state_ND, np.stack([none_N, label_N, one_N], axis=1), groups_N, names=["Hernia", "Mass", "Edema"])
    assert found.head.labels == ("Mass",)
    assert found.skipped == {
        "Hernia": "0 patients with it, 80 without, to fit on",
        "Edema": "1 patients with it, 80 without, to fit on",
    }
    with pytest.raises(DataError, match="no label can be fitted: Hernia: 0 patients with it"):
        fit(state_ND, none_N, groups_N, names=["Hernia"])


def test_two_patients_of_a_class_are_enough_to_fit_though_not_to_choose():
    state_ND, _, groups_N = planted(30)
    label_N = np.isin(groups_N, (0, 5)).astype(float)
    found = fit(state_ND, label_N, groups_N, calibration="platt")
    assert found.chosen["finding 0"]["n_positive"] == 6
    assert 0 < found.head.probabilities(state_ND).mean() < 1


def test_platt_and_temperature_repair_what_overfitting_spoils():
    rng = np.random.default_rng(1)
    state_ND = rng.normal(size=(300, 80))
    label_N = (state_ND[:, 0] + 1.5 * rng.normal(size=300) > 0).astype(float)
    fresh_ND = rng.normal(size=(4000, 80))
    fresh_N = (fresh_ND[:, 0] + 1.5 * rng.normal(size=4000) > 0).astype(float)
    loss = {}
    for calibration in ("none", "platt", "temperature"):
        head = fit(state_ND, label_N, np.arange(300), c=(10.0,), calibration=calibration).head
        prob_N = np.clip(head.probabilities(fresh_ND)[:, 0], 1e-9, 1 - 1e-9)
        loss[calibration] = -np.mean(fresh_N * np.log(prob_N) + (1 - fresh_N) * np.log(1 - prob_N))
        assert head.calibration == calibration
    assert max(loss["platt"], loss["temperature"]) < loss["none"] - 0.2
    assert (head.offset_K == 0).all()
    assert (head.slope_K > 0).all()
    assert (head.slope_K < 1).all()


def test_the_threshold_of_the_best_f1_by_trying_all():
    rng = np.random.default_rng(2)
    for _ in range(20):
        prob_N = np.round(rng.uniform(size=40), 1)
        label_N = (rng.uniform(size=40) < prob_N).astype(np.int64)
        found = best_threshold(label_N, prob_N)
        scores = {cut: f1_score(label_N, prob_N >= cut, zero_division=0) for cut in sorted(set(prob_N))}
        assert f1_score(label_N, prob_N >= found, zero_division=0) == pytest.approx(max(scores.values()))
        assert found == max(cut for cut in scores if scores[cut] == pytest.approx(max(scores.values())))
    assert best_threshold(np.zeros(3, np.int64), np.array([0.1, 0.2, 0.3])) == 0.5
