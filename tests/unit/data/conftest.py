"""Synthetic DICOM files with hand-made pixels, and the real chest film that pydicom-data brings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from input_helpers import RAMP, Put
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from chexmix_cli.core.data.dicom.file import parse_whole
from chexmix_cli.core.data.dicom.render import render_dicom
from chexmix_cli.core.data.presets import Intensity
from chexmix_cli.core.settings.inference import InputSettings

CR = "1.2.840.10008.5.1.4.1.1.1"
MAX_BYTES = 64 << 20


def build_dataset(pixels: NDArray[Any], **attributes: Any) -> Dataset:
    """Return a chest radiograph that holds an array; keyword arguments set (or with None remove) attributes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CR, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tests set values that the standard does not allow
        for keyword, value in attributes.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
    if "BitsStored" in attributes and "HighBit" not in attributes:
        dataset.HighBit = dataset.BitsStored - 1
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def lut_item(entries: list[int], first: int, bits: int, *, is_signed: bool = False) -> Dataset:
    """Return an item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if is_signed else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    return item


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Dataset]:
    """Return ``build_dataset``."""
    return build_dataset


@pytest.fixture(scope="session")
def file_bytes() -> Callable[[Dataset], bytes]:
    """Return ``to_bytes``."""
    return to_bytes


@pytest.fixture(scope="session")
def lut() -> Callable[..., Dataset]:
    """Return ``lut_item``."""
    return lut_item


@pytest.fixture(scope="session")
def render() -> Callable[..., tuple[NDArray[np.uint8], list[str]]]:
    """Return a function from a data set, through a file, to its grey values and notes."""

    def rendered(
        dataset: Dataset, intensity: Intensity = "voi", settings: InputSettings | None = None
    ) -> tuple[NDArray[np.uint8], list[str]]:
        file = parse_whole(to_bytes(dataset), MAX_BYTES)
        loaded = render_dicom(file, settings or InputSettings(), intensity)
        return np.asarray(loaded.image), loaded.notes

    return rendered


@pytest.fixture(scope="session")
def rg1_path() -> Callable[[str], Path]:
    """Return a function from an encoding to the file of the real film (CR chest PA, MONOCHROME1; pydicom-data)."""

    def path(encoding: str) -> Path:
        found = get_testdata_file(f"RG1_{encoding}.dcm", download=False)
        assert isinstance(found, str), "pydicom-data is a test dependency"
        return Path(found)

    return path


@pytest.fixture(scope="session")
def rg1_array(rg1_path: Callable[[str], Path]) -> NDArray[np.uint16]:
    """Return the real film's stored values, uncompressed."""
    array: NDArray[np.uint16] = pydicom.dcmread(rg1_path("UNCR")).pixel_array
    return array


@pytest.fixture(scope="session")
def small_film(rg1_array: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return every tenth pixel of the real film, even sides: (194, 184), 15 bits."""
    return np.ascontiguousarray(rg1_array[: 194 * 10 : 10, : 184 * 10 : 10])


@pytest.fixture
def put(tmp_path: Path, dataset_of, file_bytes) -> Put:
    """Return a function that writes a DICOM file below the test's folder; keyword arguments are attributes."""

    def write(name: str, **attributes: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(dataset_of(RAMP, **attributes)))
        return path

    return write
