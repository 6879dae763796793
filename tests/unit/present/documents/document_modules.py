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

GENERAL_SERIES = {"Modality": 1, "SeriesInstanceUID": 1, "SeriesNumber": 2}  # C.7.3.1
GENERAL_IMAGE = {"InstanceNumber": 2, "PatientOrientation": 2}  # C.7.6.1; 2C: there is no Image Orientation (Patient)
IMAGE_PIXEL = {  # C.7.6.3
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": 1,
    "PlanarConfiguration": 1,  # 1C: more than one sample a pixel
    "Rows": 1,
    "Columns": 1,
    "BitsAllocated": 1,
    "BitsStored": 1,
    "HighBit": 1,
    "PixelRepresentation": 1,
    "PixelData": 1,  # 1C: the pixels are in the file
}
SC_EQUIPMENT = {"ConversionType": 1}  # C.8.6.1
ENCAPSULATED_DOCUMENT_SERIES = {"Modality": 1, "SeriesInstanceUID": 1, "SeriesNumber": 1}  # C.24.1
ENCAPSULATED_DOCUMENT = {  # C.24.2
    "InstanceNumber": 1,
    "ContentDate": 2,
    "ContentTime": 2,
    "AcquisitionDateTime": 2,
    "BurnedInAnnotation": 1,
    "SourceInstanceSequence": 1,  # 1C: made of a DICOM instance
    "SourceInstanceSequence > ReferencedSOPClassUID": 1,
    "SourceInstanceSequence > ReferencedSOPInstanceUID": 1,
    "DocumentTitle": 2,
    "ConceptNameCodeSequence": 2,
    "MIMETypeOfEncapsulatedDocument": 1,
    "EncapsulatedDocument": 1,
}

BASIC_TEXT_SR = {  # A.35.1
    "patient": PATIENT,
    "general-study": GENERAL_STUDY,
    "sr-document-series": SR_DOCUMENT_SERIES,
    "general-equipment": GENERAL_EQUIPMENT,
    "sr-document-general": SR_DOCUMENT_GENERAL,
    "sr-document-content": SR_DOCUMENT_CONTENT,
    "sop-common": SOP_COMMON,
}
COMPREHENSIVE_SR = BASIC_TEXT_SR  # A.35.3: of the same modules
ENCAPSULATED_PDF = {  # A.45.1
    "patient": PATIENT,
    "general-study": GENERAL_STUDY,
    "encapsulated-document-series": ENCAPSULATED_DOCUMENT_SERIES,
    "general-equipment": GENERAL_EQUIPMENT,
    "sc-equipment": SC_EQUIPMENT,
    "encapsulated-document": ENCAPSULATED_DOCUMENT,
    "sop-common": SOP_COMMON,
}
SECONDARY_CAPTURE = {  # A.8.1
    "patient": PATIENT,
    "general-study": GENERAL_STUDY,
    "general-series": GENERAL_SERIES,
    "sc-equipment": SC_EQUIPMENT,
    "general-acquisition": {},  # C.7.10.1: all of it optional
    "general-image": GENERAL_IMAGE,
    "image-pixel": IMAGE_PIXEL,
    "sc-image": {},  # C.8.6.2: all of it optional
    "sop-common": SOP_COMMON,
}
#: Kind of document -> its IOD's key in the tables of highdicom, and the modules above.
IODS = {
    "sr": ("basic-text-sr", BASIC_TEXT_SR),
    "measurements": ("comprehensive-sr", COMPREHENSIVE_SR),
    "pdf": ("encapsulated-pdf", ENCAPSULATED_PDF),
    "picture": ("secondary-capture-image", SECONDARY_CAPTURE),
}
#: Attributes that only a document of a DICOM film has: they refer to it.
OF_FILMS = ("CurrentRequestedProcedureEvidenceSequence", "SourceInstanceSequence")


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
