"""What every document takes from the film's file, who made it, and how its elements, UIDs and bytes come about.

A document's UIDs follow from its content: whatever changes a byte of it changes its SOP Instance UID, and the same
input, weights and seed give the same file. So Content Date and Time, which DICOM demands, are the study's own unless
:attr:`Maker.at` says when the work was done. A document says of itself which of the two it has.
"""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from chexmix_cli import __version__
from chexmix_cli.core.data.dicom.file import DicomFile, quiet
from chexmix_cli.core.errors import DataError, Reason

MANUFACTURER = "chexmix"
#: ISO_IR 192: UTF-8, whatever the source's is (PS3.3 C.12.1.1.2).
UTF_8 = "ISO_IR 192"
#: Content Date and Time of a document whose study states no date: de-identified files have it, and nobody takes it for
#: a real one.
UNDATED = ("19000101", "000000")

#: Type 2 of Patient (PS3.3 C.7.1.1) and General Study (C.7.2.1): there in any case, empty where the source has none.
_REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
#: Copied where the source has them: whose the id and the number are, and what was done to the header.
_COPIED = (
    "IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDescription",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
#: The same for sequences: what is copied of an item, and what an item needs to mean anything.
_COPIED_SEQUENCES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "DeidentificationMethodCodeSequence": ((*_CODE, "CodingSchemeVersion"), _CODE),
    "ProcedureCodeSequence": ((*_CODE, "CodingSchemeVersion"), _CODE),
    "IssuerOfAccessionNumberSequence": (("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"), ()),
}
#: Of the film's pixels: whether they name the patient, and that they were once compressed with loss.
_OF_PIXELS = (
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
#: Dates of a film with their times, the first that is whole counts.
_DATES = (
    ("StudyDate", "StudyTime"), ("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
)  # fmt: skip
#: Forms of DA, TM and AS (PS3.5 6.2), and the values of Patient's Sex.
_RULES = {
    "Date": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "Time": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "PatientAge": re.compile(r"\d{3}[DWMY]"),
    "PatientSex": re.compile(r"[MFO]"),
}
_PRIVATE_GROUP, _PRIVATE_CREATOR = 0x0041, "CHEXMIX"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """The image a document rests on: UIDs of its class, its series and itself."""

    sop_class: str
    series: str
    instance: str


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """Whose study a document belongs to.

    Attributes:
        elements: of the Patient, General Study and Patient Study modules, in UTF-8. They name the patient.
        image: the film; None where it was no DICOM image.
        modality: of the film, such as ``DX``; None where it is unknown.
        dated: date and time of the study, or of the film where the study has none, DA and TM; None without both.
        film: what the film's pixels bring with them into any picture of it: annotation in them, lossy compression.
    """

    elements: Dataset
    image: ImageReference | None = None
    modality: str | None = None
    dated: tuple[str, str] | None = None
    film: Dataset = field(default_factory=Dataset)

    @classmethod
    @quiet()
    def of_file(cls, source: DicomFile) -> StudyHeader:
        """Return what a film's file says; values that break the rules of their kind are left out.

        Raises:
            DataError: if it names no study.
        """
        elements, film = _copied(source), Dataset()
        for keyword in _OF_PIXELS:
            if source.value(keyword) is not None:
                setattr(film, keyword, source.value(keyword))
        study = source.text("StudyInstanceUID")
        if study is None:
            raise DataError(
                Reason.CORRUPT, "the file names no study (StudyInstanceUID)", hint="no document can be filed under it"
            )
        elements.StudyInstanceUID = study
        uids = [source.text(name) for name in ("SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID")]
        image = ImageReference(*uids) if all(uids) else None  # type: ignore[arg-type]
        return cls(elements, image, source.text("Modality"), _dated(source), film)

    @classmethod
    def fresh(cls, key: bytes) -> StudyHeader:
        """Return the header of a study of its own, of nobody that is known.

        Args:
            key: what the study's UID follows from: the film's bytes, or what else tells it from all others.
        """
        elements = Dataset()
        elements.SpecificCharacterSet = UTF_8
        for keyword in _REQUIRED:
            setattr(elements, keyword, None)
        elements.StudyInstanceUID = derived_uid("study", key)
        return cls(elements)

    @property
    def study_uid(self) -> str:
        """Return the Study Instance UID."""
        return str(self.elements.StudyInstanceUID)


@dataclass(frozen=True, kw_only=True, slots=True)
class Maker:
    """Who made a document: this programme, with one model.

    Attributes:
        model: name of the weights.
        weights_hash: SHA-256 of the weights, 64 hexadecimal digits; the device's serial number.
        version: of this programme.
        at: when the work was done. None dates documents as their studies are: the same input gives the same bytes.
    """

    model: str
    weights_hash: str
    version: str = __version__
    at: datetime | None = None

    @property
    def device_uid(self) -> str:
        """Return the UID of programme and weights together, as a device that observes."""
        return derived_uid("device", f"{self.version} {self.model} {self.weights_hash}".encode())


def new_document(study: StudyHeader, maker: Maker, sop_class: str, modality: str, description: str) -> Dataset:
    """Return a dataset with patient, study, series, equipment and dates, for content to be added.

    The UIDs of series and instance are missing: :func:`finish_document` adds them.

    Args:
        study: whose it is.
        maker: who made it.
        sop_class: UID of its kind.
        modality: of its series (PS3.3 C.7.3.1.1.1).
        description: of its series, to be read in a list.
    """
    dataset = Dataset()
    dataset.update(study.elements)
    dataset.SOPClassUID = sop_class
    dataset.Modality = modality
    dataset.SeriesDescription = description
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, maker.model[:64]
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = maker.weights_hash[:64], maker.version
    dataset.DeviceUID = maker.device_uid
    date, time = study.dated or UNDATED
    if maker.at is not None:
        date, time = maker.at.strftime("%Y%m%d"), maker.at.strftime("%H%M%S.%f")
    dataset.ContentDate, dataset.ContentTime = date, time
    return dataset


@quiet()
def finish_document(dataset: Dataset, record: Mapping[str, Any]) -> Dataset:
    """Return a document with the record's id, its UIDs, which follow from all its content, and its file's header.

    Raises:
        DataError: if a value taken from the source cannot be written.
    """
    block = dataset.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "UT", str(record["id"]))
    content = _encoded(dataset)
    dataset.SeriesInstanceUID = derived_uid("series", content)
    dataset.SOPInstanceUID = derived_uid("instance", content)
    return with_file_header(dataset)


def with_file_header(dataset: Dataset) -> Dataset:
    """Return a dataset with the header that a file of it begins with."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


@quiet()
def document_bytes(dataset: Dataset) -> bytes:
    """Return a finished document as a file's bytes (PS3.10)."""
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def record_id(dataset: Dataset) -> str | None:
    """Return the id of the record a document was made of; None if it is none of ours, or was stripped of it."""
    try:
        return str(dataset.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR)[0x01].value)
    except KeyError:
        return None


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a coded entry (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def derived_uid(kind: str, key: bytes) -> str:
    """Return a UID that follows from bytes (a UUID under 2.25, PS3.5 B.2)."""
    digest = hashlib.sha256(f"chexmix {kind} ".encode() + key).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _copied(source: DicomFile) -> Dataset:
    elements = Dataset()
    elements.SpecificCharacterSet = UTF_8
    for keyword in (*_REQUIRED, *_COPIED):
        values = [text for text in source.texts(keyword) if _is_valid(keyword, text)]
        if values or keyword in _REQUIRED:
            setattr(elements, keyword, values[0] if len(values) == 1 else values or None)
    for keyword, (parts, demanded) in _COPIED_SEQUENCES.items():
        items = [_item(item, parts) for item in source.items(keyword)]
        items = [item for item in items if all(part in item for part in demanded) and len(item)]
        if items:
            setattr(elements, keyword, items)
    if elements.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethodCodeSequence" not in elements:
        # Type 1C, which de-identified files miss now and then.
        elements.DeidentificationMethod = elements.get("DeidentificationMethod") or "not stated in the source"
    return elements


def _item(source: DicomFile, keywords: Sequence[str]) -> Dataset:
    """Return an item with some of its values, so that no text of it stays in the source's character set."""
    item = Dataset()
    for keyword in keywords:
        if (text := source.text(keyword)) is not None:
            setattr(item, keyword, text)
    return item


def _dated(source: DicomFile) -> tuple[str, str] | None:
    for date, time in _DATES:
        on, at = source.text(date), source.text(time)
        if on is not None and _is_valid(date, on):
            return on, at if at is not None and _is_valid(time, at) else UNDATED[1]
    return None


def _is_valid(keyword: str, text: str) -> bool:
    """Return whether a value says something and keeps the rules of its kind; names and numbers are as they are."""
    rule = next((rule for ending, rule in _RULES.items() if keyword.endswith(ending)), None)
    return bool(text) and (rule is None or rule.fullmatch(text) is not None)


def _encoded(dataset: Dataset) -> bytes:
    written = io.BytesIO()
    try:
        dataset.save_as(written, implicit_vr=False, little_endian=True)
    except Exception as error:  # values that break the rules of their kind make pydicom raise almost anything
        raise DataError(Reason.CORRUPT, f"the header cannot be copied ({type(error).__name__})") from None
    return written.getvalue()
