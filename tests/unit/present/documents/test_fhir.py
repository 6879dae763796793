"""FHIR R4B, under the models of fhir.resources."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from document_parts import FINDINGS, IMPRESSION, film_file

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents.fhir import diagnostic_report
from chexmix_cli.core.present.documents.header import Maker, StudyHeader


def validated(resource: dict) -> dict:
    """Return a resource as the models give it back."""
    models = pytest.importorskip("fhir.resources.R4B.diagnosticreport", reason="fhir.resources is not installed")
    return json.loads(models.DiagnosticReport.model_validate_json(json.dumps(resource)).model_dump_json())


def contained(report: dict, kind: str) -> list[dict]:
    return [one for one in report["contained"] if one["resourceType"] == kind]


@pytest.mark.parametrize("of", ["film", "picture"])
@pytest.mark.parametrize("has_head", [True, False])
def test_the_models_take_it_and_change_nothing(of, has_head, record, study, maker):
    if not has_head:
        del record["head"]
    report = diagnostic_report(record, study if of == "film" else StudyHeader.fresh(b"film"), maker)
    assert validated(report) == report


def test_the_models_would_find_what_is_wrong(record, study, maker):
    report = diagnostic_report(record, study, maker)
    for wrong in ({"effectiveDateTime": "2.1.2024"}, {"conclusions": "x"}, {"result": [{"reference": 1}]}, {"code": 1}):
        with pytest.raises(ValueError, match="validation error"):
            validated({**report, **wrong})
    for required in ("status", "code"):
        with pytest.raises(ValueError, match="validation error"):
            validated({name: value for name, value in report.items() if name != required})


def test_it_is_a_preliminary_report_of_the_study(record, study, maker):
    report = validated(diagnostic_report(record, study, maker))
    assert report["status"] == "preliminary"
    assert report["imagingStudy"] == [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}}]
    assert report["code"]["coding"][0]["code"] == "43468-8"
    assert "not for clinical use" in report["code"]["text"]
    assert report["conclusion"] == IMPRESSION
    assert report["effectiveDateTime"] == "2024-01-02"
    assert base64.b64decode(report["presentedForm"][0]["data"]).decode() == record["report"]
    (patient,) = contained(report, "Patient")
    assert patient["name"] == [{"text": "Müller Zoë", "family": "Müller", "given": ["Zoë"]}]
    assert (patient["gender"], patient["birthDate"]) == ("female", "1960-02-29")
    assert patient["identifier"] == [{"value": "77"}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("^^^^", None),
        ("Madonna", [{"text": "Madonna", "family": "Madonna"}]),
        ("^Ada^B^Dr", [{"text": "Ada B Dr", "given": ["Ada", "B"]}]),
        (
            "Yamada^Tarou=山田^太郎",
            [
                {"text": "Yamada Tarou", "family": "Yamada", "given": ["Tarou"]},
                {"text": "山田 太郎", "family": "山田", "given": ["太郎"]},
            ],
        ),
    ],
)
def test_a_name_is_given_as_far_as_it_goes(name, expected, record, maker):
    film = film_file(PatientName=name, SpecificCharacterSet="ISO_IR 192")
    (patient,) = contained(validated(diagnostic_report(record, StudyHeader.of_file(film), maker)), "Patient")
    assert patient.get("name") == expected


def test_each_finding_is_an_observation_of_the_device(record, study, maker):
    report = validated(diagnostic_report(record, study, maker))
    pneumonia, edema = contained(report, "Observation")
    assert pneumonia["valueQuantity"]["value"] == record["head"]["probabilities"]["Pneumonia"]
    assert pneumonia["interpretation"][0]["coding"][0]["code"] == "POS"
    assert edema["interpretation"][0]["coding"][0]["code"] == "NEG"
    assert edema["referenceRange"][0]["high"]["value"] == record["head"]["threshold"]["Edema"]
    assert edema["code"]["coding"] == [
        {"system": "http://snomed.info/sct", "code": "19242006", "display": "Pulmonary edema"}
    ]
    assert report["result"] == [{"reference": "#finding-1"}, {"reference": "#finding-2"}]
    (device,) = contained(report, "Device")
    assert device["serialNumber"] == maker.weights_hash


@pytest.mark.parametrize("has_head", [True, False])
def test_what_is_contained_is_referred_to_and_the_other_way_round(has_head, record, study, maker):
    """Invariants dom-3 and ref-1 of FHIR, which the models do not check."""
    if not has_head:
        del record["head"]
    report = diagnostic_report(record, study, maker)
    texts = json.dumps(report)
    ids = {one["id"] for one in report["contained"]}
    assert len(ids) == len(report["contained"])
    assert ids == {part.partition('"')[0] for part in texts.split('"reference": "#')[1:]}


def test_the_narrative_is_xhtml_whatever_the_text(record, study, maker):
    record["report"] = 'FINDINGS: a < b & c > "d" \x00\x0b\ud800 ]]>\nIMPRESSION: <script>x</script>'
    record["report"] = record["report"].encode("utf-8", "replace").decode()
    report = validated(diagnostic_report(record, study, maker))
    root = ElementTree.fromstring(report["text"]["div"])
    assert root.tag == "{http://www.w3.org/1999/xhtml}div"
    text = "".join(root.itertext())
    assert "not for clinical use" in text
    assert 'a < b & c > "d"' in text
    assert "<script>x</script>" in text


def test_same_input_same_resource_and_other_input_another_identifier(record, study, maker):
    first = diagnostic_report(record, study, maker)
    assert first == diagnostic_report(record, StudyHeader.of_file(film_file()), maker)
    other = diagnostic_report({**record, "id": "case 2"}, study, maker)
    assert first["identifier"] != other["identifier"]


def test_when_the_work_was_done_stands_in_it_if_it_is_known(record, study):
    at = datetime(2026, 11, 29, 10, 20, tzinfo=UTC)
    report = diagnostic_report(record, study, Maker(model="m", weights_hash="a", at=at))
    assert datetime.fromisoformat(report["issued"]) == at
    assert "issued" not in diagnostic_report(record, study, Maker(model="m", weights_hash="a"))
    assert validated(report)["status"] == "preliminary"


def test_there_is_no_report_without_text(record, study, maker):
    with pytest.raises(DataError, match="no report"):
        diagnostic_report({"id": "1"}, study, maker)


def test_the_text_is_the_records(record, study, maker):
    text = "".join(ElementTree.fromstring(diagnostic_report(record, study, maker)["text"]["div"]).itertext())
    assert FINDINGS.replace("\n", "") in text
