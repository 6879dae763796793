"""A report beside the head: what is said of each finding, and what a person is told."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.infer.classification.heads import Head, Validation
from chexmix_cli.core.infer.reports.agreement import second_opinion
from chexmix_cli.core.text.header import Header

LABELS = ("Pneumonia", "Effusion", "Bacterial", "Edema")
NORMAL = "FINDINGS: No pleural effusion. No pneumonia.\nIMPRESSION: No acute disease."


def head(lowest=0.6):
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    known = Validation(auroc=0.8, interval=(lowest, 0.9), positives=20, negatives=20)
    return Head(
        labels=LABELS,
        layer=1,
        mean_D=zeros,
        scale_D=ones,
        weight_KD=np.eye(4, dtype=np.float32),
        bias_K=zeros,
        slope_K=ones,
        offset_K=zeros,
        threshold_K=np.array([0.3, 0.5, 0.5, 0.5], np.float32),
        model="m",
        validation={"Pneumonia": known, "Effusion": known},
    )


def opinion(text, probabilities, header=None, **how):
    return second_opinion(text, header or Header(), head(**how), np.array(probabilities))


def test_each_finding_agrees_conflicts_or_is_silent():
    found = opinion(NORMAL, (0.6, 0.1, 0.9, 0.9))
    assert {name: one.agreement.value for name, one in found.opinions.items()} == {
        "Pneumonia": "conflicts",
        "Effusion": "agrees",
        "Bacterial": "silent",
        "Edema": "silent",
    }
    assert found.conflicts == [
        "Pneumonia: present by the classifier (0.60, present from 0.30), but the report denies it"
    ]
    stated = opinion("FINDINGS: Pleural effusion. Pneumonia.", (0.9, 0.1, 0.9, 0.9))
    assert stated.conflicts == [
        "Effusion: absent by the classifier (0.10, present from 0.50), but the report states it"
    ]


@pytest.mark.parametrize(
    ("probability", "said"), [(0.1, "agrees"), (0.2, "silent"), (0.55, "silent"), (0.6, "conflicts"), (1, "conflicts")]
)
def test_near_its_threshold_a_head_is_in_doubt(probability, said):
    """Three times the odds of 0.3 are those of 0.5625, a third of them those of 0.125."""
    assert opinion(NORMAL, (probability, 0.1, 0.1, 0.1)).opinions["Pneumonia"].agreement.value == said


def test_a_head_that_does_not_tell_a_finding_does_not_object_to_it():
    found = opinion(NORMAL, (0.6, 0.1, 0.9, 0.9), lowest=0.48)
    assert found.opinions["Pneumonia"].agreement.value == "conflicts"
    assert found.conflicts == []


def test_a_cause_is_a_matter_of_childrens_films():
    text = "FINDINGS: Pneumonia.\nIMPRESSION: Bacterial pneumonia."
    child, adult = (opinion(text, (0.9, 0.1, 0.1, 0.1), Header(age_group=group)) for group in ("child", "adult"))
    assert child.opinions["Bacterial"].agreement.value == "conflicts"
    assert adult.opinions["Bacterial"].agreement.value == "silent"


def test_a_report_against_itself_is_told_without_a_head():
    text = "FINDINGS: Bacterial pneumonia.\nIMPRESSION: Viral pneumonia."
    found = second_opinion(text, Header(), None, None)
    assert found.conflicts == ["the report contradicts itself (cause: Bacterial and Viral)"]
    assert found.fields() == {"contradictions": ["cause: Bacterial and Viral"]}
    assert second_opinion(NORMAL, Header(), None, None).fields() == {}


def test_the_record_has_what_the_head_says():
    fields = opinion(NORMAL, (0.6, 0.1, 0.9, 0.9)).fields()["head"]
    assert fields["probabilities"]["Pneumonia"] == 0.6
    assert fields["threshold"]["Pneumonia"] == pytest.approx(0.3)
    assert fields["val_auroc"] == {"Pneumonia": 0.8, "Effusion": 0.8}
    assert fields["agreement"]["Effusion"] == "agrees"
