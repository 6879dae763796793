"""What the tests of documents share: a film's file, a report's parts, a document read back."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from chexmix_cli.core.data.dicom.file import DicomFile, parse_header, quiet
from chexmix_cli.core.present.documents.header import document_bytes

FINDINGS = "The lungs are not clear, with opacification suggestive of pneumonia.\nThe heart is normal."
IMPRESSION = "Pneumonia; follow up at 37 °C."


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
