"""A report held against itself and against a head: what contradicts, what agrees, what is silent."""

from __future__ import annotations

import pytest

from chexmix_cli.core.text.consistency import Contradiction, compare_findings, find_contradictions
from chexmix_cli.core.text.header import Header, age_group_of
from chexmix_cli.core.text.word_phrases import find_phrases


@pytest.mark.parametrize(
    ("findings", "impression", "found"),
    [
        ("No pleural effusion.", "Effusion.", [("finding", one) for one in ("Pleural Effusion", "Effusion")]),
        ("Cardiomegaly. Clear lungs.", "Cardiomegaly.", []),
        ("The heart is enlarged.", "The heart is normal in size.", [("finding", "Cardiomegaly")]),
        # A pneumonia is an opacity, an effusion is none.
        ("The lungs are clear.", "Pneumonia.", [("finding", "Lung Opacity")]),
        ("No lung opacity.", "Effusion.", []),
        ("There is consolidation.", "No lung opacity.", [("finding", "Lung Opacity")]),
        ("Possible nodule.", "No nodule.", []),
        # What is not acute may stand beside "no acute disease", nothing beside a normal film.
        ("Emphysema is seen.", "No acute cardiopulmonary disease.", []),
        ("Pulmonary edema is seen.", "No acute cardiopulmonary disease.", [("finding", "No Finding")]),
        ("Emphysema is seen.", "Unremarkable chest radiograph.", [("finding", "No Finding")]),
        ("Normal chest radiograph.", "Emphysema.", [("finding", "No Finding")]),
        ("Pacemaker. No effusion.", "Normal chest radiograph.", []),
        ("Emphysema is seen.", "Emphysema. Otherwise unremarkable chest radiograph.", []),
        ("Pneumonia, likely bacterial.", "Pneumonia of viral cause.", [("cause", "Bacterial", "Viral")]),
        ("PA view of the chest. No effusion.", "Anteroposterior film.", [("view", "PA", "AP")]),
        ("Frontal PA and lateral views of the chest. No effusion.", "No effusion.", []),
    ],
)  # fmt: skip
def test_contradictions_of_findings_and_impression(findings, impression, found):
    expected = [Contradiction(kind, what) for kind, *names in found for what in [tuple(names)]]
    assert find_contradictions(f"FINDINGS: {findings}\nIMPRESSION: {impression}") == expected


def test_a_text_without_sections_contradicts_itself_by_cause_and_view_alone():
    assert find_contradictions("No effusion. Effusion.") == []
    assert list(map(str, find_contradictions("AP view, later a PA view. Viral or bacterial pneumonia."))) == [
        "cause: Bacterial and Viral",
        "view: PA and AP",
    ]
    assert str(Contradiction("finding", ("Edema",))) == "Edema: stated and denied"
    assert find_contradictions("") == []


def test_findings_beside_a_head():
    text = "FINDINGS: Opacity suggests pneumonia. No effusion. Possible edema.\nIMPRESSION: Viral pneumonia."
    head = {
        "Pneumonia": 1, "Effusion": 1, "Edema": 1, "Mass": 0, "Cardiomegaly": None, "Viral": 0, "Bacterial": 0,
        "No Finding": 0, "Lung Opacity": 1, "Tuberculosis": 1,
    }  # fmt: skip
    assert compare_findings(text, head) == {
        "Pneumonia": "agrees", "Effusion": "conflicts", "Edema": "silent", "Mass": "silent", "Cardiomegaly": "silent",
        "Viral": "conflicts", "Bacterial": "agrees", "No Finding": "agrees", "Lung Opacity": "agrees",
    }  # fmt: skip
    assert compare_findings("Pneumonia.", {"Viral": 1, "Lung Opacity": 0}) == {
        "Viral": "silent",
        "Lung Opacity": "conflicts",
    }
    assert compare_findings("Possible consolidation.", {"Lung Opacity": 0}) == {"Lung Opacity": "silent"}


def test_a_head_that_sees_a_pneumonia_does_not_deny_the_opacity():
    head = {"Lung Opacity": 0, "Pneumonia": 1}
    assert compare_findings("Pneumonia.", head) == {"Lung Opacity": "silent", "Pneumonia": "agrees"}
    assert compare_findings("Pneumonia.", {**head, "Pneumonia": 0})["Lung Opacity"] == "conflicts"


def test_what_a_header_rules_out():
    text = "AP view of the chest, an apical PATIENT. Lateral chest x-rays. Bacterial pneumonia. PA."
    assert Header().contradictions(text) == []
    assert Header(view="PA", age_group="child").contradictions(text) == ["AP", "lateral chest x-rays"]
    assert Header(view="AP", age_group="adult").contradictions(text) == ["lateral chest x-rays", "bacterial", "PA"]
    assert Header(view="FRONTAL").contradictions(text) == ["lateral chest x-rays"]
    assert Header(view="LATERAL").contradictions(text) == ["AP", "PA"]
    assert Header(view="OTHER").contradictions(text) == ["AP", "lateral chest x-rays", "PA"]
    assert Header(view="no view").contradictions(text) == []
    assert Header(view="PA").contradictions("An antero-posterior film.") == ["antero-posterior"]


def test_capitals_are_matched_as_capitals():
    assert find_phrases("PA pa Pa, APA PAD PA.", ("PA",)) == ["PA", "PA"]
    assert find_phrases("New NEW newborn", ("new",)) == ["new", "new"]


@pytest.mark.parametrize(("years", "group"), [(None, None), (17.9, "child"), (18, "adult"), (0, "child")])
def test_age_groups(years, group):
    assert age_group_of(years) == group
