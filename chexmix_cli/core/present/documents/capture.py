"""The picture of a report as a DICOM image: Secondary Capture (PS3.3 A.8.1), and what all our images have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.present.documents.header import (
    MANUFACTURER,
    Maker,
    StudyHeader,
    code,
    finish_document,
    new_document,
)
from chexmix_cli.core.text.disclaimer import GENERATED


@quiet()
def picture_capture(
    record: Mapping[str, Any], study: StudyHeader, maker: Maker, pixels_YXC: NDArray[np.uint8]
) -> Dataset:
    """Return the picture of a report as a Secondary Capture image, finished.

    Args:
        record: of ``chexmix generate-report``, for its id.
        study: whose it is.
        maker: who made it.
        pixels_YXC: the picture, RGB (``core/present/picture.py: report_pixels``); nobody's name is in it but what the
            film itself shows.

    Raises:
        DataError: if the source's header cannot be written.
    """
    dataset = new_document(study, maker, SecondaryCaptureImageStorage, "OT", "Picture of a draft report, unverified")
    dataset.update(study.film)
    dataset.BodyPartExamined, dataset.PatientOrientation = "CHEST", None
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType, dataset.SyntheticData = "SYN", "YES"
    dataset.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    dataset.SecondaryCaptureDeviceManufacturerModelName = maker.model[:64]
    dataset.SecondaryCaptureDeviceSoftwareVersions = maker.version
    dataset.ImageComments = f"{GENERATED}. Film, its round trip through the image tokens, and the report on it."
    if study.image is not None:
        dataset.SourceImageSequence = [source_image(study.image.sop_class, study.image.instance)]
    add_pixels(dataset, pixels_YXC)
    return finish_document(dataset, record)


def add_pixels(dataset: Dataset, pixels: NDArray[np.uint8]) -> None:
    """Add an 8-bit picture, grey (Y, X) or RGB (Y, X, 3), as the Image Pixel module (PS3.3 C.7.6.3)."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset["PixelData"].VR = "OW"


def source_image(sop_class: str, instance: str) -> Dataset:
    """Return the reference to the image that a derived one was made of (PS3.3 C.12.4.1)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    purpose = code("121322", "DCM", "Source image for image processing operation")
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
