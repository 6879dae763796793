"""Labels as targets: policies, left-out findings, and the arithmetic of balance against counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError, TrainingError
from chexmix_cli.core.settings.finetuning import LabelSettings
from chexmix_cli.core.train.finetune.labels import (
    choose_findings,
    class_counts,
    log_odds,
    make_targets,
    present_weights,
    repeats,
)


def rows(*labels: dict[str, int | None]) -> list[ManifestRow]:
    return [ManifestRow(id=f"r{index}", file=Path("x.png"), labels=found) for index, found in enumerate(labels)]


NAN = math.nan
MIXED = rows({"Edema": 1, "Mass": None}, {"Edema": -1, "Mass": 0}, {"Edema": 0}, {"Edema": 0, "Mass": 0})


@pytest.mark.parametrize(
    ("settings", "edema", "mass"),
    [
        ({}, [1, NAN, 0, 0], [NAN, 0, NAN, 0]),
        ({"uncertain": "zeros"}, [1, 0, 0, 0], [NAN, 0, NAN, 0]),
        ({"uncertain": "ones"}, [1, 1, 0, 0], [NAN, 0, NAN, 0]),
        ({"unstated": "zeros"}, [1, NAN, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_what_is_neither_yes_nor_no_follows_its_policy(settings, edema, mass):
    found = make_targets(MIXED, ("Edema", "Mass"), LabelSettings(**settings))
    assert torch.equal(found.isnan(), torch.tensor([edema, mass]).T.isnan())
    assert torch.equal(found.nan_to_num(9), torch.tensor([edema, mass]).T.float().nan_to_num(9))


def test_findings_with_one_class_are_left_out_and_said():
    names, remarks = choose_findings(MIXED, LabelSettings())
    assert names == ("Edema",)
    assert remarks == ["'Mass' has 0 present and 2 absent in split 'train': left out"]
    assert choose_findings(MIXED[:3], LabelSettings(uncertain="ones", names=("Edema",))) == (("Edema",), [])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"names": ("Edma",)}, SettingsError, r"no row of split 'train' has the label 'Edma'; expected Edema, Mass"),
        ({"names": ("Edema", "Mass")}, SettingsError, "'Mass' has 0 present and 2 absent .* expected both classes"),
    ],
)
def test_findings_that_cannot_be_learned_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        choose_findings(MIXED, LabelSettings(**settings))


def test_the_nearest_name_is_offered_and_no_finding_at_all_is_refused():
    with pytest.raises(SettingsError) as caught:
        choose_findings(MIXED, LabelSettings(names=("Edma",)))
    assert caught.value.hint == "did you mean 'Edema'?"
    with pytest.raises(TrainingError, match="no finding has both classes"):
        choose_findings(MIXED[2:], LabelSettings())
    with pytest.raises(SettingsError, match="each finding once"):
        LabelSettings(names=("Edema", "Edema"))


# Finding 0: 2 present, 6 absent. Finding 1: 4 present, 2 absent, 2 not counted.
TARGET = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1, NAN, NAN]]).T


def test_weights_and_odds_are_those_of_the_counts():
    assert [counts.tolist() for counts in class_counts(TARGET)] == [[6, 2], [2, 4]]
    assert present_weights(TARGET).tolist() == [3.0, 0.5]
    assert log_odds(TARGET).tolist() == pytest.approx([math.log(2 / 6), math.log(4 / 2)])


def test_an_image_is_repeated_for_the_rarest_class_it_is_in():
    # Present 0: 6 / 2 = 3 times; absent 1: 4 / 2 = 2 times; the rest once.
    assert repeats(TARGET) == [3, 3, 2, 1, 1, 1, 1, 1]
    shown = torch.cat([TARGET[index : index + 1].repeat(times, 1) for index, times in enumerate(repeats(TARGET))])
    absent, present = class_counts(shown[:, :1])
    assert (absent.item(), present.item()) == (7, 6)


def test_repeats_have_a_bound():
    target = torch.zeros(200, 1)
    target[0] = 1
    assert max(repeats(target)) == 50
