"""Type 1 and 2 attributes of the mandatory modules of our documents' IODs, written from PS3.3.

Type 1: there, with a value. Type 2: there, perhaps empty. Conditional ones stand here where our documents meet their
condition. ``A > B`` is B in every item of the sequence A.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

PATIENT = {"PatientName": 2, "PatientID": 2, "PatientBirthDate": 2, "PatientSex": 2}  # C.7.1.1
GENERAL_STUDY = {  # C.7.2.1
    "StudyInstanceUID": 1,
    "StudyDate": 2,
    "StudyTime": 2,
    "ReferringPhysicianName": 2,
    "StudyID": 2,
    "AccessionNumber": 2,
}
SR_DOCUMENT_SERIES = {  # C.17.1
    "Modality": 1,
    "SeriesInstanceUID": 1,
    "SeriesNumber": 1,
    "ReferencedPerformedProcedureStepSequence": 2,
}
GENERAL_EQUIPMENT = {"Manufacturer": 2}  # C.7.5.1
SR_DOCUMENT_GENERAL = {  # C.17.2
    "InstanceNumber": 1,
    "CompletionFlag": 1,
    "VerificationFlag": 1,
    "ContentDate": 1,
    "ContentTime": 1,
    "PerformedProcedureCodeSequence": 2,
    "CurrentRequestedProcedureEvidenceSequence": 1,  # 1C: the film is referenced in the content tree
    "CurrentRequestedProcedureEvidenceSequence > StudyInstanceUID": 1,
    "CurrentRequestedProcedureEvidenceSequence > ReferencedSeriesSequence": 1,
    "CurrentRequestedProcedureEvidenceSequence > ReferencedSeriesSequence > SeriesInstanceUID": 1,
    "CurrentRequestedProcedureEvidenceSequence > ReferencedSeriesSequence > ReferencedSOPSequence": 1,
    "CurrentRequestedProcedureEvidenceSequence > ReferencedSeriesSequence > ReferencedSOPSequence"
    " > ReferencedSOPClassUID": 1,
    "CurrentRequestedProcedureEvidenceSequence > ReferencedSeriesSequence > ReferencedSOPSequence"
    " > ReferencedSOPInstanceUID": 1,
}
SR_DOCUMENT_CONTENT = {  # C.17.3
    "ValueType": 1,
    "ConceptNameCodeSequence": 1,  # 1C: the root
    "ConceptNameCodeSequence > CodeValue": 1,
    "ConceptNameCodeSequence > CodingSchemeDesignator": 1,
    "ConceptNameCodeSequence > CodeMeaning": 1,
    "ContinuityOfContent": 1,  # 1C: a container
    "ContentTemplateSequence": 1,  # 1C: a template was used
    "ContentTemplateSequence > MappingResource": 1,
    "ContentTemplateSequence > TemplateIdentifier": 1,
    "ContentSequence": 1,  # 1C: the root has content
    "ContentSequence > RelationshipType": 1,
    "ContentSequence > ValueType": 1,
    "ContentSequence > ConceptNameCodeSequence": 1,
    "ContentSequence > ConceptNameCodeSequence > CodeValue": 1,
    "ContentSequence > ConceptNameCodeSequence > CodingSchemeDesignator": 1,
    "ContentSequence > ConceptNameCodeSequence > CodeMeaning": 1,
}
SOP_COMMON = {"SOPClassUID": 1, "SOPInstanceUID": 1, "SpecificCharacterSet": 1}  # C.12.1; 1C: more than ASCII

BASIC_TEXT_SR = {  # A.35.1
    "patient": PATIENT,
    "general-study": GENERAL_STUDY,
    "sr-document-series": SR_DOCUMENT_SERIES,
    "general-equipment": GENERAL_EQUIPMENT,
    "sr-document-general": SR_DOCUMENT_GENERAL,
    "sr-document-content": SR_DOCUMENT_CONTENT,
    "sop-common": SOP_COMMON,
}


def cases(iod: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    """Return each attribute of an IOD once, with its type."""
    return sorted({(name, kind) for module in iod.values() for name, kind in module.items()})


def check_attribute(dataset: Dataset, path: str, kind: int) -> None:
    """Assert that an attribute is as its type demands, in every item on the way to it."""
    keyword, _, rest = path.partition(" > ")
    assert keyword in dataset, f"{keyword} is missing"
    if kind == 1:
        assert not dataset[keyword].is_empty, f"{keyword} is empty"
    for item in dataset[keyword].value if rest else ():
        check_attribute(item, rest, kind)
