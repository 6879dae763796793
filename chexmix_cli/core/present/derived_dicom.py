"""A filled film as a derived DICOM image: Secondary Capture, of the source's patient and study, marked synthetic.

It is a file of that patient, identity and all: it is written where the user says, and nothing of it goes elsewhere.
Pixel spacing is left out on purpose: nothing synthetic is to be measured.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from chexmix_cli import __version__
from chexmix_cli.core.data.dicom.file import DicomFile, quiet
from chexmix_cli.core.data.dicom.orientation import is_upright
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.present.documents.capture import add_pixels, source_image
from chexmix_cli.core.present.documents.header import code, derived_uid, document_bytes, with_file_header
from chexmix_cli.core.present.marking import with_mark
from chexmix_cli.core.text.disclaimer import GENERATED_IN_PART

#: Attributes of patient, study and series that must stand in the file, empty where the source has none (type 2).
_REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "PatientOrientation",
)  # fmt: skip
#: Attributes that are copied where the source has them.
_COPIED = (
    "SpecificCharacterSet", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "PatientAge", "StudyDescription", "BodyPartExamined", "Laterality",
    "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip


def derived_dicom(source: DicomFile, picture_YX: NDArray[np.uint8], *, model: str, what: str) -> bytes:
    """Return the file's bytes. The same source, picture and words give the same bytes, UIDs included.

    Args:
        source: the film's file, its header at least.
        picture_YX: the whole film filled; a strip that says so is added below.
        model: name of the model.
        what: how it was made, one line of ASCII; part of the derivation description.

    Raises:
        DataError: if the source's header cannot be copied.
    """
    marked_YX = with_mark(picture_YX)
    with quiet():
        try:
            dataset = _copied_header(source)
            _describe(dataset, source, marked_YX, model, what)
            return document_bytes(with_file_header(dataset))
        except Exception as error:  # values that break the rules of their kind make pydicom raise almost anything
            raise DataError(Reason.CORRUPT, f"the header cannot be copied ({type(error).__name__})") from None


def _copied_header(source: DicomFile) -> Dataset:
    dataset = Dataset()
    for keyword in (*_REQUIRED, *_COPIED):
        if keyword in source.dataset:
            dataset[keyword] = source.dataset[keyword]
        elif keyword in _REQUIRED:
            setattr(dataset, keyword, None)
    if not is_upright(source):
        dataset.PatientOrientation = None  # the picture may have been turned since
    return dataset


def _describe(dataset: Dataset, source: DicomFile, picture_YX: NDArray[np.uint8], model: str, what: str) -> None:
    made = hashlib.sha256(picture_YX.tobytes() + what.encode() + model.encode() + __version__.encode()).hexdigest()
    study, instance = source.text("StudyInstanceUID"), source.text("SOPInstanceUID")
    dataset.StudyInstanceUID = study or derived_uid("study", made.encode())
    dataset.SeriesInstanceUID = derived_uid("series", f"{study} {instance} {made}".encode())
    dataset.SOPInstanceUID = derived_uid("instance", f"{study} {instance} {made}".encode())
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Modality = source.text("Modality") or "OT"
    dataset.SeriesNumber, dataset.InstanceNumber = None, 1
    dataset.SeriesDescription = "SYNTHETIC in part: filled by a model"
    dataset.ConversionType = "SYN"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SyntheticData = "YES"
    dataset.SecondaryCaptureDeviceManufacturer = "chexmix"
    dataset.SecondaryCaptureDeviceManufacturerModelName = model
    dataset.SecondaryCaptureDeviceSoftwareVersions = __version__
    dataset.DerivationDescription = f"{GENERATED_IN_PART}. chexmix {__version__}, {model}: {what}"[:1024]
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = "chexmix", model
    equipment.SoftwareVersions = __version__
    equipment.ContributionDescription = "Hidden parts of the image filled in by a generative model"
    equipment.PurposeOfReferenceCodeSequence = [code("109103", "DCM", "Modifying Equipment")]
    dataset.ContributingEquipmentSequence = [equipment]
    sop_class = source.text("SOPClassUID")
    if instance is not None and sop_class is not None:
        dataset.SourceImageSequence = [source_image(sop_class, instance)]
    add_pixels(dataset, picture_YX)
