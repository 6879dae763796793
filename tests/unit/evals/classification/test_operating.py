"""Numbers at an operating point and by group, on scores whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.classification.items import Scored, items_of
from chexmix_cli.core.evals.classification.operating import Measured, at_point, by_group, plots
from chexmix_cli.core.settings.classification import EvaluateClassificationSettings, OperatingPoint
from chexmix_cli.core.settings.evaluation import BootstrapSettings

PROB = (0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1)
LABELS = (1, 1, 0, 1, 0, 1, 0, 0)


def measured(at_K=(0.5,), resamples=0):
    rows = [
        ManifestRow(
            id=str(number),
            file=Path("x"),
            patient=str(number),
            sex="F" if number % 2 else "M",
            age=[None, 4.0, 40.0][number % 3],
            labels={"Mass": label},
        )
        for number, label in enumerate(LABELS)
    ]
    scored = Scored(
        names=("Mass",),
        prob_NK=np.array(PROB)[:, None],
        threshold_K=None,
        fit=None,
        fields={},
        absent={},
        at=OperatingPoint("sensitivity", 0.75),
        at_K=None if at_K is None else np.array(at_K),
    )
    made = Measured(
        items=items_of(rows, "one"),
        scored=scored,
        policy="ignore",
        unstated="ignore",
        settings=BootstrapSettings(resamples=resamples),
        fields={"by": "image"},
    )
    return made, rows


def test_the_rates_are_those_of_the_confusion_matrix():
    found, confusion = at_point(measured()[0])
    assert confusion == {"Mass": {"threshold": 0.5, "tp": 3, "fp": 1, "fn": 1, "tn": 3}}
    assert {one.name: one.value for one in found} == dict.fromkeys(("sensitivity", "specificity", "ppv", "npv"), 0.75)
    assert {one.fields["at"] for one in found} == {"sensitivity=0.75"}
    (found, confusion) = at_point(measured(at_K=(0.95,))[0])
    assert [one.reason for one in found if one.name == "ppv"] == ["its denominator is 0"]


def test_scores_without_thresholds_are_refused():
    for thresholds in (None, (np.nan,)):
        with pytest.raises(SettingsError, match="no thresholds to choose from"):
            at_point(measured(at_K=thresholds)[0])


def test_groups_have_their_own_numbers_and_say_how_many_they_are():
    made, rows = measured(resamples=200)
    found = {one.fields["group"]: one for one in by_group(made, rows, ["sex", "age_group"])}
    # Men: 0.9+ 0.7- 0.4- 0.2-; women: 0.8+ 0.6+ 0.3+ 0.1-.
    assert found["sex=M"].value == found["sex=F"].value == 1.0
    assert (found["sex=M"].fields["pos"], found["sex=F"].fields["pos"], found["sex=M"].n) == ("1", "3", 4)
    assert set(found) == {"sex=F", "sex=M", "age_group=not stated", "age_group=child", "age_group=adult"}
    assert found["age_group=adult"].reason is not None or 0 <= found["age_group=adult"].value <= 1


def test_the_band_holds_the_curve():
    roc, calibration = plots(measured(resamples=200)[0])
    (series,) = roc.series
    assert (np.array(series.low) <= np.array(series.y) + 1e-9).all()
    assert (np.array(series.high) >= np.array(series.y) - 1e-9).all()
    assert series.name == "Mass 0.812"  # 13 of 16 pairs
    assert calibration.series[0].y == [0, 0, 1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("text", ["sensitivity", "recall=0.9", "specificity=1", "sensitivity=x"])
def test_what_is_no_operating_point_is_refused(text):
    with pytest.raises(SettingsError, match="--at: is"):
        EvaluateClassificationSettings(at=text)
    with pytest.raises(SettingsError, match="by"):
        EvaluateClassificationSettings(by=("weight",))
