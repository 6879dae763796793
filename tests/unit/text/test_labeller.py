from __future__ import annotations

import random

import pytest

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, NIH_FINDINGS
from chexmix_cli.core.text.labelling.finding_patterns import CONCEPTS, FINDINGS
from chexmix_cli.core.text.labelling.labeller import READABLE, find_mentions, label_concepts, label_report, sentences
from chexmix_cli.core.text.places import SIDES, ZONES, Place
from chexmix_cli.core.text.templates import UNIVERSES, write_report

PLACES = [Place(side, zone) for side in SIDES for zone in ZONES]
#: Sentence to what it says, by concept.
SAID = {
    # lists of denials
    "No effusion or pneumothorax.": {"effusion": 0, "pneumothorax": 0},
    "No focal consolidation, pleural effusion, or pneumothorax.": {
        "consolidation": 0,
        "effusion": 0,
        "pneumothorax": 0,
    },
    "No large effusion, moderate edema, or focal consolidation.": {"effusion": 0, "edema": 0, "consolidation": 0},
    "Neither effusion nor pneumothorax is seen.": {"effusion": 0, "pneumothorax": 0},
    "There are no XXXX of a pleural effusion.": {"effusion": 0},
    "Negative for pneumothorax or rib fracture.": {"pneumothorax": 0, "fracture": 0},
    # where a denial stops
    "No pneumothorax, small left pleural effusion.": {"pneumothorax": 0, "effusion": 1},
    "No evidence of pneumonia, but mild cardiomegaly is present.": {"pneumonia": 0, "cardiomegaly": 1},
    "No consolidation and mild pulmonary edema.": {"consolidation": 0, "edema": 1},
    "No acute fracture. Old healed rib fractures.": {"fracture": 1},
    "No pneumothorax; right effusion.": {"pneumothorax": 0, "effusion": 1},
    "The lungs are clear except for left basilar atelectasis.": {"opacity": 0, "atelectasis": 1},
    "Bibasilar atelectasis, without effusion.": {"atelectasis": 1, "effusion": 0},
    # denials behind
    "Pneumothorax is not seen.": {"pneumothorax": 0},
    "Previously seen right lower lobe opacity is no longer seen.": {"opacity": 0},
    "The pneumothorax has resolved.": {"pneumothorax": 0},
    "Interval resolution of left pleural effusion.": {"effusion": 0},
    "Pulmonary edema is unlikely.": {"edema": 0},
    # denials that are none
    "No significant change in moderate right pleural effusion.": {"effusion": 1},
    "No interval change in the effusion.": {"effusion": 1},
    "Effusion not significantly changed.": {"effusion": 1},
    # doubt
    "Bibasilar opacities may represent atelectasis or pneumonia.": {"opacity": 1, "atelectasis": -1, "pneumonia": -1},
    "Right basilar opacity, atelectasis versus pneumonia.": {"opacity": 1, "atelectasis": -1, "pneumonia": -1},
    "Pneumonia cannot be excluded.": {"pneumonia": -1},
    "Cannot exclude small effusion.": {"effusion": -1},
    "Small effusion is present and pneumonia cannot be excluded.": {"effusion": 1, "pneumonia": -1},
    "This may be secondary to edema, or alternatively atypical infection.": {"edema": -1, "pneumonia": -1},
    "Likely atelectasis.": {"atelectasis": -1},
    "Opacity raises concern for pneumonia.": {"opacity": 1, "pneumonia": -1},
    "Question small right pleural effusion.": {"effusion": -1},
    "Blunting of the left costophrenic angle.": {"effusion": -1},
    "No blunting of the costophrenic angles.": {"effusion": 0},
    "Findings consistent with pneumonia.": {"pneumonia": 1},
    "There is no focal opacity to suggest pneumonia.": {"opacity": 0, "pneumonia": 0},
    # spoken of only
    "History of pneumonia.": {},
    "Recommend follow-up to exclude underlying mass.": {},
    "Please note that fractures may not be demonstrated.": {},
    "Is there pneumonia?": {},
    # sizes
    "The heart is enlarged.": {"cardiomegaly": 1},
    "Mildly enlarged cardiac silhouette.": {"cardiomegaly": 1},
    "The heart is not enlarged.": {"cardiomegaly": 0},
    "Borderline heart size.": {"cardiomegaly": -1},
    "Heart size is at the upper limits of normal.": {"cardiomegaly": -1},
    "The cardiac silhouette may be enlarged.": {"cardiomegaly": -1},
    "Heart size is normal and mediastinal contours are unremarkable.": {"cardiomegaly": 0, "enlarged_mediastinum": 0},
    "The cardiomediastinal silhouette is within normal limits.": {"cardiomegaly": 0, "enlarged_mediastinum": 0},
    "The mediastinum is widened.": {"enlarged_mediastinum": 1},
    "No mediastinal widening.": {"enlarged_mediastinum": 0},
    "Mediastinal lymph nodes are enlarged.": {},
    "Stable heart size, moderately enlarged and tortuous aorta.": {},
    "The heart is stable in size.": {},
    # devices
    "PICC line tip in the SVC.": {"device": 1},
    "ET tube terminates 3.5 cm above the carina.": {"device": 1},
    "The endotracheal tube has been removed.": {"device": 0},
    "Status post removal of the chest tube, no pneumothorax.": {"device": 0, "pneumothorax": 0},
    # other things of the same name
    "Subcutaneous emphysema along the left chest wall.": {},
    "Small pericardial effusion.": {},
    "Findings consistent with COVID-19 infection.": {"covid": 1},
    "Known thyroid mass.": {},
    "Fluid is seen in the pleural space.": {"effusion": 1},
}


@pytest.mark.parametrize("sentence", SAID)
def test_a_sentence_is_read_as_a_person_reads_it(sentence):
    assert label_concepts(sentence) == SAID[sentence]


def test_every_finding_that_data_sets_label_can_be_read():
    assert set(READABLE) == {*CHEXPERT_FINDINGS, *NIH_FINDINGS, "COVID-19"}
    assert {concept for concepts in FINDINGS.values() for concept in concepts} <= set(CONCEPTS)


def test_an_unknown_finding_is_not_guessed():
    with pytest.raises(KeyError, match="Measles"):
        label_report("No measles.", ["Measles"])


def test_present_outweighs_uncertain_outweighs_absent():
    text = "No effusion. Possible effusion."
    assert label_report(text, ["Pleural Effusion"]) == {"Pleural Effusion": -1}
    assert label_report(text + " Small effusion.", ["Pleural Effusion"]) == {"Pleural Effusion": 1}
    assert label_report("Heart size is normal.", ["Pleural Effusion"]) == {"Pleural Effusion": None}


def test_concepts_join_into_the_findings_of_either_list():
    labels = label_report("Right infiltrate. Pulmonary nodule. Pleural thickening.", READABLE)
    present = {name for name, label in labels.items() if label == 1}
    assert present == {"Infiltration", "Lung Opacity", "Nodule", "Lung Lesion", "Pleural_Thickening", "Pleural Other"}
    assert labels["Mass"] is None


def test_only_findings_and_impression_are_read():
    text = "INDICATION: Evaluate pneumonia. Effusion.\nCOMPARISON: Edema.\nFINDINGS: No mass.\nIMPRESSION: Atelectasis."
    assert label_concepts(text) == {"mass": 0, "atelectasis": 1}
    assert label_concepts("Small effusion. No edema.") == {"effusion": 1, "edema": 0}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("No acute cardiopulmonary abnormality.", 1),
        ("Normal chest.", 1),
        ("The lungs are clear. No effusion.", 1),
        ("PICC line in place. No pneumothorax.", 1),
        ("Small effusion. No acute disease otherwise.", 0),
        ("Possible pneumonia.", 0),
        ("Emphysema.", 0),
        ("Abnormal chest radiograph without lung opacity.", 0),
        ("No lung opacity, but the film is not normal.", 0),
        ("No abnormal chest radiograph. No effusion.", 1),
        ("The film is rotated.", None),
        ("", None),
    ],
)
def test_no_finding_follows_from_all_others(text, label):
    assert label_report(text, ["No Finding"]) == {"No Finding": label}


def test_an_empty_report_says_nothing():
    assert set(label_report("", READABLE).values()) == {None}
    assert set(label_report(" \n", READABLE).values()) == {None}


def test_a_report_that_repeats_itself_without_an_end_is_read():
    assert label_concepts("no effusion and " * 400) == {"effusion": 0}
    assert label_concepts("possible mass with " * 400) == {"mass": -1}


def test_sentences_end_where_they_end():
    text = "Tube 3.5 cm above the carina, seen by Dr. Jones. 1. No mass. 2. Atelectasis vs. pneumonia\n\nClear lungs"
    assert sentences(text) == [
        "Tube 3.5 cm above the carina, seen by Dr. Jones.",
        "1.",
        "No mass.",
        "2.",
        "Atelectasis vs. pneumonia",
        "Clear lungs",
    ]


def test_mentions_come_in_order_with_their_places():
    sentence = "Mild edema, no effusion."
    found = [(sentence[mention.start : mention.end], mention.label) for mention in find_mentions(sentence)]
    assert found == [("edema", 1), ("effusion", 0)]


@pytest.mark.parametrize("source", sorted(UNIVERSES))
def test_template_reports_are_read_exactly(source):
    """What a template report says is known by construction: what it states is present, and nothing else is."""
    universe = UNIVERSES[source]
    # What claims an opacity is not labelled beside the absence of one.
    claims = ("Pneumonia", "Consolidation", "Infiltration") if "Lung Opacity" in universe else ()
    findings = [name for name in sorted(universe) if name not in ("Bacterial", "Viral", *claims)]
    rng = random.Random(source)
    for _ in range(150):
        drawn = rng.sample(
            [name for name in findings if name != "No Finding"],
            min(rng.choice((0, 1, 2, 3)), 1 + 2 * (len(findings) > 3)),
        )
        labels = drawn or (["COVID-19"] if source == "hannover" else ["No Finding"])
        cause = rng.choice(("Bacterial", "Viral", None)) if source == "kermany" and drawn else None
        stated = [*labels, cause] if cause else labels
        age = rng.choice(("child", None, None) if cause else ("child", "adult", None))
        places = {name: rng.sample(PLACES, rng.choice((1, 2, 3))) for name in drawn if rng.random() < 0.3}
        said, impression = write_report(stated, universe=universe, view="PA", age_group=age, rng=rng, places=places)
        found = label_report(f"FINDINGS: {said}\nIMPRESSION: {impression}", findings)
        assert {name for name, label in found.items() if label == 1} == set(labels), (said, impression)
        # The findings alone leave at most a doubt.
        alone = label_report(said, findings)
        assert {name for name, label in alone.items() if label in (1, -1)} == set(labels), said
