"""What the tests of documents share: a film's file, a report's parts, a document read back."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from chexmix_cli.core.data.dicom.file import DicomFile, parse_header, quiet
from chexmix_cli.core.present.documents.header import Maker, document_bytes

FINDINGS = "The lungs are not clear, with opacification suggestive of pneumonia.\nThe heart is normal."
IMPRESSION = "Pneumonia; follow up at 37 °C."

#: A record as ``generate-report`` writes it, of the fields that documents read.
RECORD: dict[str, Any] = {
    "id": "case 1",
    "status": "ok",
    "view": "PA",
    "report": f"FINDINGS: {FINDINGS}\nIMPRESSION: {IMPRESSION}",
    "sections": {"findings": FINDINGS, "impression": IMPRESSION},
    "head": {
        "probabilities": {"Pneumonia": 0.9912717160690142, "Edema": 0.043999663854906064},
        "threshold": {"Pneumonia": 0.5884132981300354, "Edema": 0.24426625669002533},
        "agreement": {"Pneumonia": "agrees", "Edema": "silent"},
    },
    "finish": "next_image",
    "mark": "AI-generated, preliminary, unverified; not for clinical use",
}
MAKER = Maker(model="chexmix-mini", weights_hash="ab" * 32)


def film_file(**values: Any) -> DicomFile:
    """Return a film's header as it comes from disk: written, and parsed again. A value of None takes it out."""
    dataset = Dataset()
    stated = {
        "SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.3.4.5", "SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3", "Modality": "DX",
        "PatientName": "Müller^Zoë", "PatientID": "77", "PatientBirthDate": "19600229", "PatientSex": "F",
        "PatientAge": "064Y", "StudyDate": "20240102", "StudyTime": "030405", "ReferringPhysicianName": "Roe^Jan",
        "StudyID": "S1", "AccessionNumber": "A1",
    }  # fmt: skip
    with quiet():
        for keyword, value in (stated | values).items():
            if value is not None:
                setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    written = io.BytesIO()
    with quiet():
        pydicom.dcmwrite(written, dataset, enforce_file_format=True)
    written.seek(0)
    return parse_header(written, 1 << 20)


def written(dataset: Dataset) -> pydicom.FileDataset:
    """Return a document as another programme reads it from its file."""
    return pydicom.dcmread(io.BytesIO(document_bytes(dataset)))
