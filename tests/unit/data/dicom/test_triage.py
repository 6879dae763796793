from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom.dataset import Dataset

from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.data.dicom.triage import judge
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason

PIXELS = np.zeros((64, 64), np.uint8)
CT = "1.2.840.10008.5.1.4.1.1.2"
CR, DX, RAW_DX, SC = (
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
)
UNSTATED = "the header states no body part; taken for a chest"
DESCRIBED = "chest by its descriptions; the body part is not stated"
NO_TERM = ", no term of DICOM's; the class is that of a radiograph"
NO_TERM_EITHER = ", no term of DICOM's; taken for a radiograph of the stated chest"
CAPTURE = "secondary capture: text may be burned into the pixels"


@pytest.fixture
def judged(dataset_of, file_bytes):
    """Return a function from attributes to what the header says."""

    def findings(**attributes):
        has_overlay = attributes.pop("overlay", False)
        media_class = attributes.pop("media_class", CR)
        dataset = dataset_of(PIXELS, **attributes)
        dataset.file_meta.MediaStorageSOPClassUID = media_class
        if has_overlay:
            dataset.add_new(0x60000010, "US", 64)
        data = file_bytes(dataset)
        return judge(parse_header(BytesIO(data), 1 << 20))

    return findings


def item(meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", meaning
    return code


@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        ({}, ()),
        ({"Modality": "DX", "SOPClassUID": DX}, ()),
        ({"Modality": "RG"}, ()),
        ({"Modality": None}, ("the header states no modality; its class is that of a radiograph",)),
        ({"Modality": "DR"}, (f"the modality is DR{NO_TERM}",)),
        ({"Modality": "xr", "SOPClassUID": DX}, (f"the modality is XR{NO_TERM}",)),
        ({"Modality": "JOHN", "SOPClassUID": DX}, (f"the modality is another{NO_TERM}",)),
        ({"Modality": "RX", "SOPClassUID": SC}, (f"the modality is RX{NO_TERM_EITHER}", CAPTURE)),
        (
            {"Modality": "CXR", "SOPClassUID": SC, "BodyPartExamined": None},
            (f"the modality is CXR{NO_TERM_EITHER}", UNSTATED, CAPTURE),
        ),
        ({"Modality": "DR", "SOPClassUID": None}, (f"the modality is DR{NO_TERM}",)),
        ({"SOPClassUID": SC}, (CAPTURE,)),
        ({"BodyPartExamined": "THORAX"}, ()),
        ({"BodyPartExamined": "PORT CHEST"}, ()),
        ({"BodyPartExamined": "TÓRAX", "SpecificCharacterSet": "ISO_IR 192"}, ()),
        ({"BodyPartExamined": "CHEST_TO_ABDOMEN"}, ()),
        ({"BodyPartExamined": "CHEST", "StudyDescription": "hip and chest"}, ()),
        ({"BodyPartExamined": None}, (UNSTATED,)),
        ({"BodyPartExamined": ""}, (UNSTATED,)),
        ({"BodyPartExamined": "UNKNOWN"}, (UNSTATED,)),
        ({"BodyPartExamined": None, "StudyDescription": "XR Chest 2 views"}, (DESCRIBED,)),
        ({"BodyPartExamined": None, "SeriesDescription": "CXR", "StudyDescription": "XR HIP"}, (DESCRIBED,)),
        ({"BodyPartExamined": "XYZ", "ProtocolName": "Chest AP"}, (DESCRIBED,)),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": [item("Chest")]}, ()),
        ({"BurnedInAnnotation": "YES"}, ("the header says that annotations are burned into the pixels",)),
        ({"BurnedInAnnotation": "NO"}, ()),
        ({"overlay": True}, ("overlay planes are not drawn",)),
    ],
)
def test_accepted(judged, attributes, notes):
    assert judged(**attributes).notes == notes


@pytest.mark.parametrize(
    ("attributes", "reason", "message"),
    [
        ({"Modality": "MR"}, Reason.NOT_RADIOGRAPH, "the modality is MR; expected CR, DX or RG"),
        ({"Modality": "OT", "SOPClassUID": SC}, Reason.NOT_RADIOGRAPH, "the modality is OT"),
        ({"Modality": "MG", "SOPClassUID": DX}, Reason.NOT_RADIOGRAPH, "the modality is MG"),
        ({"Modality": "JOHN", "SOPClassUID": SC}, Reason.NOT_RADIOGRAPH, "the modality is another"),
        ({"Modality": "DR", "SOPClassUID": SC, "BodyPartExamined": None}, Reason.NOT_RADIOGRAPH, "the modality is DR"),
        ({"Modality": "DR", "SOPClassUID": CT}, Reason.NOT_RADIOGRAPH, "the modality is DR"),
        ({"Modality": "DR", "BodyPartExamined": "HIP"}, Reason.NOT_CHEST, "the header says HIP"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, Reason.NOT_RADIOGRAPH, "object is of another class"),
        ({"Modality": None, "SOPClassUID": SC}, Reason.NOT_RADIOGRAPH, "states neither"),
        ({"Modality": None, "SOPClassUID": None, "media_class": SC}, Reason.NOT_RADIOGRAPH, "states neither"),
        ({"BodyPartExamined": "HIP"}, Reason.NOT_CHEST, "the header says HIP; expected CHEST or THORAX"),
        ({"BodyPartExamined": "EXTREMITY", "StudyDescription": "chest"}, Reason.NOT_CHEST, "says EXTREMITY"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": [item("Lumbar spine")]}, Reason.NOT_CHEST, "LUMBAR"),
        ({"BodyPartExamined": None, "StudyDescription": "Knie / knee left"}, Reason.NOT_CHEST, "says KNEE"),
        ({"BodyPartExamined": None, "ProtocolName": "T-SPINE AP"}, Reason.NOT_CHEST, "says SPINE"),
        ({"BodyPartExamined": "DOE JOHN"}, Reason.NOT_CHEST, "the stated body part is not known"),
    ],
)
def test_refused(judged, attributes, reason, message):
    with pytest.raises(DataError, match=message) as caught:
        judged(**attributes)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({}, View.PA),
        ({"ViewPosition": "LL", "SeriesDescription": "PA"}, View.LATERAL),
        ({"ViewPosition": None, "SeriesDescription": "view: AP"}, View.AP),
        ({"ViewPosition": "", "ProtocolName": "W033 Chest lat"}, View.LATERAL),
        ({"ViewPosition": None, "ViewCodeSequence": [item("postero-anterior")]}, View.PA),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, View.LATERAL),
        ({"ViewPosition": None, "PatientOrientation": ["L", "F"]}, View.FRONTAL),
        ({"ViewPosition": None}, View.UNKNOWN),
        # The name of an examination is no view of one of its images.
        ({"ViewPosition": None, "StudyDescription": "CHEST LATERAL"}, View.UNKNOWN),
        ({"ViewPosition": None, "SeriesDescription": "CHEST PA AND LAT"}, View.UNKNOWN),
    ],
)
def test_view(judged, attributes, view):
    assert judged(**attributes).view is view


@pytest.mark.parametrize(
    ("attributes", "age_group"),
    [
        ({"PatientAge": "045Y"}, "adult"),
        ({"PatientAge": "018Y"}, "adult"),
        ({"PatientAge": "017Y"}, "child"),
        ({"PatientAge": "215M"}, "child"),
        ({"PatientAge": "216M"}, "adult"),
        ({"PatientAge": "003D"}, "child"),
        ({"PatientAge": "45"}, None),
        ({}, None),
        # The age itself comes before the dates.
        ({"PatientAge": "010Y", "PatientBirthDate": "19700101", "StudyDate": "20200101"}, "child"),
        ({"PatientBirthDate": "20020301", "StudyDate": "20200301"}, "adult"),
        ({"PatientBirthDate": "20020302", "StudyDate": "20200301"}, "child"),
        ({"PatientBirthDate": "20020302", "StudyDate": ""}, None),
        # Removed dates are often all one day.
        ({"PatientBirthDate": "19000101", "StudyDate": "19000101"}, None),
    ],
)
def test_age_group(judged, attributes, age_group):
    assert judged(**attributes).age_group == age_group


def test_raw_detector_data(judged):
    assert judged(PresentationIntentType="FOR PROCESSING").is_for_processing
    assert judged(SOPClassUID=RAW_DX, Modality="DX").is_for_processing
    assert not judged(SOPClassUID=DX, Modality="DX", PresentationIntentType="FOR PRESENTATION").is_for_processing
    assert not judged(SOPClassUID=CR).is_for_processing


def test_a_stripped_header_is_of_the_class_that_the_file_states(judged):
    found = judged(Modality=None, SOPClassUID=None)
    assert found.notes[0] == "the header states no modality; its class is that of a radiograph"
    assert judged(Modality=None, SOPClassUID=None, media_class=RAW_DX).is_for_processing
    with pytest.raises(DataError, match="another class"):
        judged(SOPClassUID=None, media_class="1.2.840.10008.5.1.4.1.1.2")
