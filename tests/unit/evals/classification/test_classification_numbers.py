"""The protocol: items, policies, undefined labels, means; and that nothing of the evaluated rows enters the fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, COMPETITION_FINDINGS
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.classification.items import drawn_rows, items_of, label_names, merged_labels
from chexmix_cli.core.evals.classification.protocol import (
    ClassificationProtocol,
    SplitImages,
    evaluate_predictions,
    evaluate_probe,
)
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings as Settings
from chexmix_cli.core.settings.load import build

PLAIN = {"bootstrap": {"resamples": 0}}


def row(number, labels, **fields):
    return ManifestRow(id=f"image {number}", file=Path("none.png"), labels=labels, **fields)


def numbers(evaluation, name, label, **fields):
    return [
        one
        for one in evaluation.measurements
        if one.name == name and one.fields["label"] == label and fields.items() <= one.fields.items()
    ]


def predicted(rows, probs, names, **settings):
    return evaluate_predictions(rows, names, np.array(probs, float), build(Settings, {**PLAIN, **settings}), None)


def test_a_study_is_scored_by_the_highest_or_mean_of_its_views():
    rows = [
        row(0, {"Mass": 1}, study="a", patient="p"),
        row(1, {"Mass": 0}, study="b", patient="q"),
        row(2, {"Mass": 1}, study="a", patient="p"),
        row(3, {"Mass": 0}, patient="r"),
    ]
    probs = np.array([[0.2], [0.5], [0.6], [0.3]])
    for study, wanted in (("one", probs.ravel()), ("max", [0.6, 0.5, 0.3]), ("mean", [0.4, 0.5, 0.3])):
        items = items_of(rows, study)
        assert items.pooled(probs).ravel() == pytest.approx(wanted)
    assert items.ids == ["image 0", "image 1", "image 3"]
    (found,) = numbers(predicted(rows, probs, ["Mass"], study="max"), "auroc", "Mass")
    assert (found.value, found.n, found.fields["by"]) == (1.0, 3, "study-max")
    (found,) = numbers(predicted(rows, probs, ["Mass"]), "auroc", "Mass")
    assert found.value == pytest.approx(0.5)


def test_a_study_has_the_strongest_label_of_its_views():
    assert merged_labels([{"a": 0, "b": -1, "c": None}, {"a": 1, "b": 0, "d": 0}]) == {
        "a": 1,
        "b": -1,
        "c": None,
        "d": 0,
    }


def test_studies_of_the_same_name_and_other_patients_are_two():
    rows = [row(0, {}, study="s1", patient="p"), row(1, {}, study="s1", patient="q")]
    assert items_of(rows, "max").members == [[0], [1]]


def test_labels_come_in_the_order_their_data_sets_publish():
    everything = [dict.fromkeys(["Zebra", *reversed(CHEXPERT_FINDINGS), "Hernia"], 0)]
    assert label_names(["chexpert"], []) == list(CHEXPERT_FINDINGS)
    assert label_names(["competition"], []) == list(COMPETITION_FINDINGS)
    assert label_names(["all"], everything) == [*CHEXPERT_FINDINGS, "Hernia", "Zebra"]
    assert label_names(["Mass", "competition", "Edema"], []) == ["Mass", *COMPETITION_FINDINGS]


def test_one_class_is_null_with_the_counts_and_enters_no_mean():
    """The official CheXpert validation set has no Fracture: its AUROC is not 0, not 0.5, and not in the mean."""
    rows = [row(number, {"Mass": number % 2, "Fracture": 0, "Edema": int(number > 1)}) for number in range(4)]
    probs = [[0.4, 0.1, 0.1], [0.5, 0.2, 0.2], [0.1, 0.3, 0.3], [0.9, 0.4, 0.4]]
    found = predicted(rows, probs, ["Mass", "Fracture", "Edema"])
    (fracture,) = numbers(found, "auroc", "Fracture")
    assert (fracture.value, fracture.reason) == (None, "0 positive, 4 negative")
    assert (fracture.fields["pos"], fracture.fields["neg"]) == ("0", "4")
    (macro,) = numbers(found, "auroc", "macro")
    assert macro.value == pytest.approx((1.0 + 1.0) / 2)
    assert macro.fields["labels"] == "2 of 3"
    assert numbers(found, "brier", "macro")[0].fields["labels"] == "3 of 3"
    (f1,) = numbers(found, "f1", "Fracture")
    assert f1.value is None
    none = predicted([row(0, {"Mass": 1})], [[0.3]], ["Mass"])
    assert numbers(none, "auroc", "macro")[0].reason == "it is defined for no label"


def test_policies_are_a_row_each_and_said_in_every_signature():
    rows = [row(0, {"Edema": 1}), row(1, {"Edema": 0}), row(2, {"Edema": -1}), row(3, {"Edema": -1}), row(4, {})]
    found = predicted(rows, [[0.8], [0.3], [0.2], [0.9], [0.5]], ["Edema"])
    by_policy = {one.fields["policy"]: one.value for one in numbers(found, "auroc", "Edema")}
    assert by_policy == pytest.approx({"ignore": 1.0, "zeros": 2 / 3, "ones": 2 / 3, "mixed": 2 / 3})
    assert all("policy" in one.fields and "unstated" in one.fields for one in found.measurements)
    zeros = predicted(rows, [[0.8], [0.3], [0.2], [0.9], [0.5]], ["Edema"], labels={"unstated": "zeros"})
    assert {one.n for one in numbers(zeros, "auroc", "Edema", policy="ignore")} == {3}
    certain = predicted(rows[:2], [[0.8], [0.3]], ["Edema"])
    assert [one.fields["policy"] for one in numbers(certain, "auroc", "Edema")] == ["ignore"]


def test_the_competition_has_a_mean_of_its_own():
    labels = [
        {name: int((number >> place) & 1) for place, name in enumerate([*COMPETITION_FINDINGS, "Mass"])}
        for number in range(64)
    ]
    rows = [row(number, found) for number, found in enumerate(labels)]
    names = [*COMPETITION_FINDINGS, "Mass"]
    probs = [[0.2 + 0.6 * found[name] if name != "Mass" else 0.5 for name in names] for found in labels]
    found = predicted(rows, probs, names)
    assert numbers(found, "auroc", "macro of the competition's")[0].value == 1.0
    assert numbers(found, "auroc", "macro")[0].value == pytest.approx((5 + 0.5) / 6)


def test_labels_without_predictions_are_named():
    found = predicted([row(0, {"Mass": 1, "Edema": 1}), row(1, {"Mass": 0})], [[0.3], [0.1]], ["Mass"])
    (edema,) = numbers(found, "auroc", "Edema")
    assert (edema.value, edema.reason) == (None, "there are no predictions of it")
    assert numbers(found, "auroc", "macro")[0].fields["labels"] == "1 of 2"
    with pytest.raises(DataError, match=r"labels: there are probabilities of Hernia; expected some of Mass"):
        predicted([row(0, {"Mass": 1})], [[0.3]], ["Hernia"])


def planted(count, seed, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    label_R = np.arange(count) % 2
    state_RD = scale * (rng.normal(size=(count, 4)) + label_R[:, None] * [1.5, 0, 0, 0]) + shift
    return state_RD.astype(np.float32), label_R


def films(state_RD, label_R, split):
    rows = [
        row(f"{split} {number}", {"Mass": int(label)}, patient=f"{split} {number // 2}")
        for number, label in enumerate(label_R)
    ]
    return SplitImages(rows=rows, codes_RP=np.arange(len(rows), dtype=np.uint16)[:, None])


def run(train, seen, **settings):
    """Evaluate states that stand in a table: an image's one code is its row of it."""
    states = {"train rows": train[0], "evaluated rows": seen[0]}

    def embed(codes_RP, layers, is_masked_RP, what):
        return dict.fromkeys(layers, states[what][codes_RP[:, 0]])

    protocol = ClassificationProtocol(
        settings=build(Settings, {**PLAIN, **settings}), seed=0, fingerprint="m", layers=[1, 2], ratios=[], picture=None
    )
    return evaluate_probe(films(*train, "train"), films(*seen, "val"), embed, protocol)


def exact_pipeline():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=9999))


def test_mean_scale_strength_and_threshold_come_from_train_rows_alone():
    """Evaluated rows of another mean and scale: standardised by themselves they would have another Brier score."""
    train, seen = planted(120, 0), planted(60, 1, shift=2.0, scale=3.0)
    found = run(train, seen, probe={"c": [0.1]})
    fitted = exact_pipeline().fit(train[0].astype(float), train[1])
    prob_R = fitted.predict_proba(seen[0].astype(float))[:, 1]
    assert numbers(found, "auroc", "Mass")[0].value == pytest.approx(roc_auc_score(seen[1], prob_R))
    assert numbers(found, "brier", "Mass")[0].value == pytest.approx(brier_score_loss(seen[1], prob_R), abs=1e-6)
    leaky = exact_pipeline().fit(seen[0].astype(float), seen[1])
    assert (
        abs(numbers(found, "brier", "Mass")[0].value - brier_score_loss(seen[1], leaky.predict_proba(seen[0])[:, 1]))
        > 0.01
    )
    turned = run(train, (seen[0], 1 - seen[1]), probe={"c": [0.1]})
    assert turned.data["probes"] == found.data["probes"]
    column = "probability of Mass, fit ignore"
    assert turned.columns[column] == found.columns[column]


def test_intervals_are_by_patient_and_repeat():
    settings = {"bootstrap": {"resamples": 200}}
    first = run(planted(60, 0), planted(60, 1), **settings)
    (found,) = numbers(first, "auroc", "Mass")
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert first.item_groups[:4] == [0, 0, 1, 1]
    again = run(planted(60, 0), planted(60, 1), **settings)
    assert [one.interval for one in again.measurements] == [one.interval for one in first.measurements]


def test_fewer_rows_are_whole_patients_and_the_same_each_time():
    rows = [row(number, {}, patient=f"p{number // 3}") for number in range(60)]
    found = drawn_rows(rows, 20, seed=0)
    assert len(found) == 18
    assert found == drawn_rows(rows, 20, seed=0)
    assert found != drawn_rows(rows, 20, seed=1)
    patients = {one.patient for one in found}
    assert found == [one for one in rows if one.patient in patients]
    assert drawn_rows(rows, 0, seed=0) == drawn_rows(rows, 99, seed=0) == rows


def test_a_mean_and_its_interval_are_over_the_same_labels():
    """A rare label that many resamples lose must not leave the mean of the others as an interval of the mean."""
    rows = [row(number, {"Mass": number % 2, "Hernia": int(number == 0)}) for number in range(40)]
    probs = [[number % 2, 0.0] for number in range(40)]
    found = predicted(rows, probs, ["Mass", "Hernia"], bootstrap={"resamples": 300})
    (macro,) = numbers(found, "auroc", "macro")
    assert numbers(found, "auroc", "Mass")[0].value == 1.0
    assert macro.value == 0.75  # all have the same score for Hernia: one half
    assert macro.interval is not None
    assert macro.interval[1] < 0.8
