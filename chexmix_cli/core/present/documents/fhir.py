"""A report as FHIR: a DiagnosticReport (R4B) with patient, device and an observation a finding contained in it.

It is one resource that needs no server: everything it refers to is in it, but for the study, which is named by its UID.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from pydicom.valuerep import PersonName

from chexmix_cli.core.present.documents.findings import LOCAL_SCHEME, FindingScore, finding_scores
from chexmix_cli.core.present.documents.header import MANUFACTURER, Maker, StudyHeader, derived_uid
from chexmix_cli.core.present.documents.text_report import TITLE, report_sections
from chexmix_cli.core.text.disclaimer import GENERATED

Resource = dict[str, Any]

#: URIs of code systems by the designators that DICOM has for them (PS3.16 8).
_SYSTEMS = {
    "LN": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    LOCAL_SCHEME: f"urn:oid:{derived_uid('code system', b'findings')}",
}
_HL7 = "http://terminology.hl7.org/CodeSystem"
_DICOM_UID = "urn:dicom:uid"
_SEXES = {"M": "male", "F": "female", "O": "other"}


def diagnostic_report(record: Mapping[str, Any], study: StudyHeader, maker: Maker) -> Resource:
    """Return a record's report as a FHIR R4B DiagnosticReport, preliminary. The same arguments give the same resource.

    Args:
        record: of ``chexmix generate-report``; with a head, each finding is an observation.
        study: whose it is.
        maker: who made it.

    Raises:
        DataError: if the record has no report.
    """
    sections = report_sections(record)
    dates = _dates(study, maker)
    common = {"status": "preliminary", "subject": {"reference": "#patient"}, **dates}
    observations = [_observation(number, score, common) for number, score in enumerate(finding_scores(record), start=1)]
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "text": {"status": "generated", "div": _narrative(record, sections)},
        # What is contained has to be referred to, and only observations can refer to a device.
        "contained": [_patient(study), *([_device(maker)] if observations else []), *observations],
        **common,
        "category": [{"coding": [{"system": f"{_HL7}/v2-0074", "code": "RAD", "display": "Radiology"}]}],
        "code": {"coding": [_coding(TITLE)], "text": f"Chest radiograph, draft report. {GENERATED}."},
        "performer": [{"display": f"{MANUFACTURER} {maker.version}, {maker.model}, weights {maker.weights_hash}"}],
        "imagingStudy": [{"identifier": _uid_identifier(study.study_uid)}],
        "presentedForm": [
            {
                "contentType": "text/plain; charset=utf-8",
                "language": "en",
                "data": base64.b64encode(str(record["report"]).encode()).decode(),
                "title": "Draft report, unverified",
            }
        ],
    }
    if observations:
        report["result"] = [{"reference": f"#{one['id']}"} for one in observations]
    impression = "\n".join(text for name, text in sections if name == "impression")
    if impression:
        report["conclusion"] = impression
    whole = json.dumps([report, record["id"]], sort_keys=True).encode()
    report["identifier"] = [_uid_identifier(derived_uid("diagnostic report", whole))]
    return report


def _patient(study: StudyHeader) -> Resource:
    elements = study.elements
    patient: Resource = {"resourceType": "Patient", "id": "patient"}
    if elements.get("PatientID"):
        identifier: Resource = {"value": str(elements.PatientID)}
        if elements.get("IssuerOfPatientID"):
            identifier["assigner"] = {"display": str(elements.IssuerOfPatientID)}
        patient["identifier"] = [identifier]
    if names := _names(elements.get("PatientName")):
        patient["name"] = names
    if elements.get("PatientSex") in _SEXES:
        patient["gender"] = _SEXES[elements.PatientSex]
    if elements.get("PatientBirthDate"):
        patient["birthDate"] = _date(str(elements.PatientBirthDate))
    return patient


def _names(name: PersonName | None) -> list[Resource]:
    """Return a name in each script it is written in, parted, as far as it goes (PS3.5 6.2.1)."""
    found = []
    for written in () if not name else name.components:
        family, given, middle = ([*written.split("^"), "", "", ""])[:3]
        parts = {
            "text": " ".join(written.replace("^", " ").split()),
            "family": family.strip(),
            "given": [part.strip() for part in (given, middle) if part.strip()],
        }
        found.append({part: value for part, value in parts.items() if value})
    return [one for one in found if one]


def _device(maker: Maker) -> Resource:
    return {
        "resourceType": "Device",
        "id": "device",
        "identifier": [_uid_identifier(maker.device_uid)],
        "manufacturer": MANUFACTURER,
        "serialNumber": maker.weights_hash,
        "deviceName": [{"name": maker.model, "type": "model-name"}],
        "version": [{"value": maker.version}],
    }


def _observation(number: int, score: FindingScore, common: Resource) -> Resource:
    """Return a finding: its probability, whether it counts as present, and from which probability on."""
    found: Resource = {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        **common,
        "category": [{"coding": [{"system": f"{_HL7}/observation-category", "code": "imaging", "display": "Imaging"}]}],
        "code": {"coding": [_coding(score.code)], "text": f"Probability of {score.name.replace('_', ' ')}"},
        "device": {"reference": "#device"},
        "valueQuantity": {"value": score.probability, "system": "http://unitsofmeasure.org", "code": "1"},
        "note": [{"text": f"{GENERATED}."}],
    }
    if score.threshold is not None:
        verdict = ("POS", "Positive") if score.is_present else ("NEG", "Negative")
        coding = {"system": f"{_HL7}/v3-ObservationInterpretation", "code": verdict[0], "display": verdict[1]}
        found["interpretation"] = [{"coding": [coding]}]
        limit = {"value": score.threshold, "system": "http://unitsofmeasure.org", "code": "1"}
        found["referenceRange"] = [{"high": limit, "text": "counts as present from this probability on"}]
    return found


def _narrative(record: Mapping[str, Any], sections: list[tuple[str, str]]) -> str:
    """Return the report as the XHTML that a FHIR reader shows."""
    parts = [f"<p><b>{escape(GENERATED)}</b></p>"]
    for name, text in sections:
        heading = "" if name == "preamble" else f"<b>{name.replace('_', ' ').capitalize()}</b><br/>"
        parts.append(f"<p>{heading}{escape(_printable(text)).replace(chr(10), '<br/>')}</p>")
    parts += [f"<p>Conflict: {escape(one)}</p>" for one in record.get("conflicts", [])]
    return f'<div xmlns="http://www.w3.org/1999/xhtml" lang="en" xml:lang="en">{"".join(parts)}</div>'


def _printable(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _dates(study: StudyHeader, maker: Maker) -> Resource:
    """Return when the film was taken and, if it is known, when the report was written."""
    found: Resource = {}
    if study.dated is not None:
        found["effectiveDateTime"] = _date(study.dated[0])
    if maker.at is not None:
        found["issued"] = maker.at.astimezone().isoformat(timespec="milliseconds")
    return found


def _date(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def _coding(code: tuple[str, str, str]) -> Resource:
    value, scheme, meaning = code
    return {"system": _SYSTEMS[scheme], "code": value.replace(" ", "-"), "display": meaning}


def _uid_identifier(uid: str) -> Resource:
    return {"system": _DICOM_UID, "value": f"urn:oid:{uid}"}
