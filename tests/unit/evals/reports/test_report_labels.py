"""Clinical agreement and what else is counted: by hand, and against scikit-learn."""

from __future__ import annotations

import random

import numpy as np
import pytest

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS
from chexmix_cli.core.evals.reports.metrics.labels import (
    FIVE_FINDINGS,
    comparison_metrics,
    contradiction_metrics,
    label_counts,
    label_metrics,
    report_labels,
)
from chexmix_cli.core.evals.reports.metrics.quantity import mean_quantity, measure
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.text.comparisons import find_comparisons

FIELDS = {"ref": "both"}
NO_INTERVALS = BootstrapSettings(resamples=0)


def random_labels(seed: int, count: int = 60) -> list[dict[str, int | None]]:
    rng = random.Random(seed)
    return [{name: rng.choice((1, 0, -1, None, None)) for name in CHEXPERT_FINDINGS} for _ in range(count)]


def values(found, **fields: str) -> list[float | None]:
    numbers, _ = measure(found.quantities, np.arange(len(found.quantities[0].sums_NK)), NO_INTERVALS)
    return [one.value for one in numbers if fields.items() <= dict(one.fields).items()]


@pytest.mark.parametrize(("unc", "counts_as"), [("pos", 1), ("neg", 0)])
@pytest.mark.parametrize(("name", "findings"), [("14", CHEXPERT_FINDINGS), ("5", FIVE_FINDINGS)])
def test_f1_is_scikit_learns(unc, counts_as, name, findings):
    from sklearn.metrics import f1_score

    mine, theirs = random_labels(1), random_labels(2)

    def table(labels):
        return np.array([[(counts_as if one[f] == -1 else one[f]) == 1 for f in findings] for one in labels], int)

    found = label_metrics(mine, theirs, FIELDS)
    for average, extra in (("micro", {}), ("macro", {"zero": "0"})):
        expected = f1_score(table(theirs), table(mine), average=average, zero_division=0)
        (one,) = values(found, set=name, unc=unc, avg=average, **extra)
        assert one == pytest.approx(expected)
    expected = f1_score(table(theirs), table(mine), average="samples", zero_division=1.0)
    assert values(found, set=name, unc=unc, avg="report") == pytest.approx([expected])


def test_a_finding_without_support_drags_the_macro_average_only_where_that_is_asked():
    blank = dict.fromkeys(CHEXPERT_FINDINGS)
    mine = [{**blank, "Edema": 1}, blank]
    found = label_metrics(mine, mine, FIELDS)
    assert values(found, set="5", unc="pos", avg="macro", zero="0") == [pytest.approx(1 / 5)]
    assert values(found, set="5", unc="pos", avg="macro", zero="out") == [1.0]
    assert values(found, finding="Fracture", unc="pos") == [None]
    (absent,) = [q for q in found.quantities if q.fields.get("finding") == "Fracture" and q.fields["unc"] == "pos"]
    assert absent.undefined == "neither the references nor the predictions have a positive"
    # Named by one side only it is wrong, not undefined.
    wrong = label_metrics([{**blank, "Fracture": 1}, blank], mine, FIELDS)
    assert values(wrong, finding="Fracture", unc="pos") == [0.0]


def test_uncertain_is_what_the_policy_says():
    blank = dict.fromkeys(CHEXPERT_FINDINGS)
    doubt, sure = [{**blank, "Edema": -1}], [{**blank, "Edema": 1}]
    found = label_metrics(doubt, sure, FIELDS)
    assert values(found, finding="Edema", unc="pos") == [1.0]
    assert values(found, finding="Edema", unc="neg") == [0.0]


def test_reports_are_read_by_the_labeller():
    labels = report_labels(["Pulmonary edema.", "", "No edema."])
    assert [one["Edema"] for one in labels] == [1, None, 0]
    assert label_counts(labels)["Edema"] == 1


def test_comparison_claims_are_counted():
    found = comparison_metrics(["Unchanged effusion.", "Clear lungs.", ""], ["Clear."] * 3, FIELDS)
    assert values(found, of="predictions") == [pytest.approx(1 / 3)]
    assert values(found, of="references") == [0.0]


def test_reports_that_contradict_themselves_are_counted():
    torn = "FINDINGS: There is a left pleural effusion.\nIMPRESSION: No pleural effusion."
    found = contradiction_metrics(
        [torn, "FINDINGS: Clear lungs.\nIMPRESSION: Normal chest.", "", torn], [torn] * 4, FIELDS
    )
    assert values(found, of="predictions") == [0.5]
    assert values(found, of="references") == [1.0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Effusion is UNCHANGED since the prior study.", ["unchanged", "since", "prior"]),
        ("No significant interval change.", ["interval"]),
        ("There is no  longer an effusion.", ["no longer"]),
        ("Effusion has increased.", ["has increased"]),
        ("Heart size is increased; atelectatic change; interstitial markings; priority; renewal; stableness", []),
        ("Improved aeration, worsening edema, new nodule", ["improved", "worsening", "new"]),
    ],
)
def test_words_of_comparison(text, found):
    assert find_comparisons(text) == found


def test_intervals_come_from_the_same_resamples_of_patients_for_every_number():
    rng = np.random.default_rng(0)
    scores = rng.random(40).tolist()
    first = mean_quantity("a", scores, {})
    other = mean_quantity("b", [1 - one for one in scores], {})
    groups = np.repeat(np.arange(20), 2)
    (a, b), columns = measure([first, other], groups, BootstrapSettings(resamples=200))
    assert a.interval[0] == pytest.approx(1 - b.interval[1])
    assert a.interval[0] < a.value < a.interval[1]
    assert columns["a"] == scores
    alone = measure([first], np.arange(40), BootstrapSettings(resamples=200))[0][0]
    assert alone.interval != a.interval, "patients are drawn, not items"


def test_a_mean_leaves_out_what_has_no_value_and_says_how_many_have():
    (one,), _ = measure([mean_quantity("a", [1.0, None, 0.0], {})], np.arange(3), NO_INTERVALS)
    assert (one.value, one.n) == (0.5, 2)
    (none,), _ = measure([mean_quantity("a", [None], {})], np.arange(1), NO_INTERVALS)
    assert (none.value, none.n, none.reason) == (None, 0, "no item has a value")
