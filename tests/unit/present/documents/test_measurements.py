"""TID 1500: read by highdicom's own reader; codes; what is missing."""

from __future__ import annotations

import sys

import pydicom
import pytest
from document_parts import film_file, written

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, NIH_FINDINGS
from chexmix_cli.core.errors import DataError, MachineError
from chexmix_cli.core.present.documents.findings import FindingScore, finding_scores
from chexmix_cli.core.present.documents.header import StudyHeader, document_bytes
from chexmix_cli.core.present.documents.measurements import measurement_sr


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason="needs chexmix[clinical]")


def evaluations(group) -> list:
    """Return what a group says of presence; highdicom counts the algorithm's family among its evaluations."""
    return [one for one in group.get_qualitative_evaluations() if one.name.scheme_designator == "99CHEXMIX"]


def test_highdicom_reads_each_finding_with_its_probability(highdicom, record, study, maker):
    found = highdicom.sr.ComprehensiveSR.from_dataset(written(measurement_sr(record, study, maker)))
    assert (found.VerificationFlag, found.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    groups = found.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Pneumonia", "Edema"]
    assert [group.finding_type.meaning for group in groups] == ["Pneumonia", "Pulmonary edema"]
    for group, (name, probability) in zip(groups, record["head"]["probabilities"].items(), strict=True):
        (measurement,) = group.get_measurements()
        assert measurement.name.meaning == "Probability"
        assert (measurement.value, measurement.unit.value) == (probability, "1")
        (presence,) = evaluations(group)
        assert presence.value.meaning == {"Pneumonia": "Present", "Edema": "Absent"}[name]
        (image,) = [one for one in group[0].ContentSequence if one.ValueType == "IMAGE"]
        assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    context = found.content.get_observer_contexts()
    assert [one.observer_identifying_attributes.serial_number for one in context] == [maker.weights_hash]


def test_the_threshold_and_the_weights_are_parameters_of_the_algorithm(highdicom, record, study, maker):
    dataset = written(measurement_sr(record, study, maker))
    texts = [element.value for element in dataset.iterall() if element.keyword == "TextValue"]
    assert "present from 0.5884132981300354" in texts
    assert f"weights {maker.weights_hash}" in texts


def test_without_a_threshold_nothing_is_called_present(highdicom, record, study, maker):
    del record["head"]["threshold"]
    found = highdicom.sr.ComprehensiveSR.from_dataset(written(measurement_sr(record, study, maker)))
    groups = found.content.get_image_measurement_groups()
    assert [evaluations(group) for group in groups] == [[], []]


def test_same_input_same_bytes(highdicom, record, study, maker):
    first = document_bytes(measurement_sr(record, study, maker))
    assert document_bytes(measurement_sr(dict(record), StudyHeader.of_file(film_file()), maker)) == first


def test_every_label_has_a_code_that_is_valid(highdicom, record, study, maker):
    names = dict.fromkeys((*CHEXPERT_FINDINGS, *NIH_FINDINGS))
    record["head"] = {"probabilities": dict.fromkeys(names, 0.5)}
    found = written(measurement_sr(record, study, maker))
    groups = highdicom.sr.ComprehensiveSR.from_dataset(found).content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(names)
    assert len(found.CodingSchemeIdentificationSequence) == 1
    assert found.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99CHEXMIX"


def test_codes_that_are_not_ours_are_those_of_the_standard():
    from pydicom.sr._concepts_dict import concepts

    known = {
        (value, scheme, meaning)
        for scheme, names in concepts.items()
        for found in names.values()
        for value, (meaning, _) in found.items()
    }
    codes = {FindingScore(name, 0.5, None).code for name in (*CHEXPERT_FINDINGS, *NIH_FINDINGS)}
    assert len({code for code in codes if code[1] != "99CHEXMIX"}) == 7
    assert {code for code in codes if code[1] != "99CHEXMIX"} <= known
    for constant in (("122157", "DCM", "Probability"), ("168537006", "SCT", "Plain radiography")):
        assert constant in known


def test_an_adults_film_has_no_cause_of_pneumonia(record):
    record["head"]["probabilities"] |= {"Bacterial": 0.9, "Viral": 0.8}
    assert [score.name for score in finding_scores(record)] == ["Pneumonia", "Edema", "Bacterial", "Viral"]
    assert [score.name for score in finding_scores({**record, "age_group": "adult"})] == ["Pneumonia", "Edema"]


def test_a_record_of_classify_does_too():
    (score,) = finding_scores({"probabilities": {"Edema": 0.3}, "threshold": {"Edema": 0.2}})
    assert (score.probability, score.threshold, score.is_present) == (0.3, 0.2, True)


def test_there_is_no_document_without_probabilities(record, study, maker):
    del record["head"]
    with pytest.raises(DataError, match="no probabilities"):
        measurement_sr(record, study, maker)


def test_a_missing_package_is_named_with_its_extra(record, study, maker, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom.sr", None)
    with pytest.raises(MachineError, match="highdicom is not installed") as caught:
        measurement_sr(record, study, maker)
    assert caught.value.hint == "pip install 'chexmix[clinical]'"


def test_procedure_codes_of_the_film_are_reported(highdicom, record, maker):
    procedure = pydicom.Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "X1", "99HOS", "Thorax"
    found = written(measurement_sr(record, StudyHeader.of_file(film_file(ProcedureCodeSequence=[procedure])), maker))
    (reported,) = [
        one for one in found.ContentSequence if one.ConceptNameCodeSequence[0].CodeMeaning == "Procedure reported"
    ]
    assert reported.ConceptCodeSequence[0].CodeValue == "X1"
