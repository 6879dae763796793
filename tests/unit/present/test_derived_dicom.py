"""The derived DICOM image against the tables of its standard (PS3.3 A.8.1, Secondary Capture Image IOD)."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from chexmix_cli import __version__
from chexmix_cli.core.data.dicom.file import DicomFile, parse_whole
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.derived_dicom import derived_dicom

#: Type 1 (there, with a value) and type 2 (there) attributes of the mandatory modules: Patient C.7.1.1, General Study
#: C.7.2.1, General Series C.7.3.1, SC Equipment C.8.6.1, General Image C.7.6.1, Image Pixel C.7.6.3, SOP Common C.12.1.
TYPE_1 = (
    "StudyInstanceUID", "Modality", "SeriesInstanceUID", "ConversionType", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData", "SOPClassUID", "SOPInstanceUID",
)  # fmt: skip
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "SeriesNumber", "InstanceNumber", "PatientOrientation",
)  # fmt: skip


def source(**values) -> DicomFile:
    dataset = Dataset()
    for name, value in ({"StudyInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4"} | values).items():
        setattr(dataset, name, value)
    return DicomFile(dataset, pydicom.uid.ExplicitVRLittleEndian, None)


def picture(shape=(33, 41)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(content: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(content))


def test_every_mandatory_attribute_is_there():
    found = read(derived_dicom(source(), picture(), model="m", what="a box"))
    for name in TYPE_1:
        assert found[name].value not in (None, ""), name
    for name in TYPE_2:
        assert name in found, name
    assert found.SOPClassUID == found.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID
    assert found.ImageType == ["DERIVED", "SECONDARY"]
    assert found.ConversionType == "SYN"


def test_it_says_that_it_is_synthetic_and_by_whom():
    found = read(derived_dicom(source(), picture(), model="chexmix-mini", what="a box"))
    assert found.SyntheticData == "YES"
    assert "SYNTHETIC" in found.SeriesDescription
    assert "not for clinical use" in found.DerivationDescription
    assert found.DerivationDescription.endswith("chexmix-mini: a box")
    (equipment,) = found.ContributingEquipmentSequence
    assert (equipment.Manufacturer, equipment.SoftwareVersions) == ("chexmix", __version__)
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"


def test_patient_and_study_stay_series_and_instance_are_new():
    values = {"PatientName": "Roe^Jan", "PatientID": "77", "AccessionNumber": "A1", "StudyDate": "20200102"}
    given = source(
        **values, SOPClassUID="1.2.840.10008.5.1.4.1.1.1", BurnedInAnnotation="NO", WindowWidth=3, Modality="CR"
    )
    found = read(derived_dicom(given, picture(), model="m", what="w"))
    assert all(found[name].value == value for name, value in values.items())
    assert (found.StudyInstanceUID, found.BurnedInAnnotation, found.Modality) == ("1.2.3", "NO", "CR")
    assert found.SOPInstanceUID != "1.2.3.4"
    assert found.SeriesInstanceUID.startswith("2.25.")
    assert len(found.SeriesInstanceUID) <= 64
    assert pydicom.uid.UID(found.SOPInstanceUID).is_valid
    (reference,) = found.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.4"
    assert "WindowWidth" not in found
    assert "PixelSpacing" not in found


def test_pixels_come_back_with_the_mark_below():
    pixels = picture()
    found = read(derived_dicom(source(), pixels, model="m", what="w"))
    assert np.array_equal(found.pixel_array[:33], pixels)
    assert found.Rows > 33
    assert found.pixel_array[33:].max() == 255
    assert len(found.PixelData) % 2 == 0


def test_the_same_gives_the_same_bytes_and_another_picture_another_instance():
    first = derived_dicom(source(), picture(), model="m", what="w")
    assert first == derived_dicom(source(), picture(), model="m", what="w")
    other = read(derived_dicom(source(), 255 - picture(), model="m", what="w"))
    assert other.SOPInstanceUID != read(first).SOPInstanceUID
    assert parse_whole(first, 1 << 20).text("PatientID") is None


def test_a_header_that_cannot_be_copied_is_refused(monkeypatch):
    given = source(PatientName="Roe^Jan")

    def broken(self, keyword):
        raise ValueError("Roe")

    monkeypatch.setattr(Dataset, "__getitem__", broken)
    with pytest.raises(DataError, match=r"the header cannot be copied \(ValueError\)") as caught:
        derived_dicom(given, picture(), model="m", what="w")
    assert "Roe" not in str(caught.value)


@pytest.mark.parametrize(("stored", "kept"), [(["L", "F"], ["L", "F"]), (["H", "L"], None), (["R", "F"], None)])
def test_an_orientation_that_the_film_was_turned_from_is_not_told(stored, kept):
    found = read(derived_dicom(source(PatientOrientation=stored), picture(), model="m", what="w"))
    assert (list(found.PatientOrientation) if found.PatientOrientation else None) == kept
