"""Decide from a DICOM header whether a file is a usable chest radiograph, and say why when it is not.

No value of the header reaches a message unless it is a word of the tables below: free text may name a patient.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chexmix_cli.core.data.dicom.file import DicomFile
from chexmix_cli.core.data.views import View, view_of_code, view_of_orientation, view_of_words, words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.text.header import AgeGroup, age_group_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FOR_PROCESSING_CLASS = "1.2.840.10008.5.1.4.1.1.1.1.1"
#: CR, DX for presentation, DX for processing.
RADIOGRAPH_CLASSES = {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", _FOR_PROCESSING_CLASS}
#: Secondary captures of any form; their modality has to say that a radiograph was captured.
CAPTURE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
}
_MODALITIES = {"CR", "DX", "RG"}
#: No defined terms, and met in place of one (DR in Korean, RX in French, Spanish and Italian archives).
_OTHER_WORDS_FOR_RADIOGRAPH = {"CXR", "DR", "RX", "XR", "XRAY", "X-RAY"}
#: What may stand in Modality of a radiograph.
MODALITIES = _MODALITIES | _OTHER_WORDS_FOR_RADIOGRAPH
#: Other defined terms of Modality that are met in practice; only these may be quoted.
_OTHER_MODALITIES = _words(
    """
    AR AU BI BMD CFM CT CTPROTOCOL DMS DOC ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MG MR NM
    OAM OCT OP OPM OPT OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RTDOSE RTIMAGE RTPLAN RTRAD RTRECORD RTSEGANN
    RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XC
    """
)
_CHEST = _words(
    """
    BRUST BRUSTKORB CHEST CHESTABD CHESTABDOMEN CXR LUNG LUNGE LUNGEN LUNGS MEDIASTINUM POITRINE POLMONI POUMON
    POUMONS PULMAO PULMON THORAX THORAXABDOMEN TORACE TORACO TORAX
    """
)
_NOT_CHEST = _words(
    """
    ABD ABDOMEN ANKLE ARM BECKEN BONE BOWEL BRAIN BREAST BWS CALCANEUS CERVICAL CLAVICLE COCCYX CSPINE DENTAL
    ELBOW ESOPHAGUS EXTREMITIES EXTREMITY FACE FEET FEMUR FIBULA FINGER FINGERS FOOT FOREARM HAND HANDS HEAD HEEL
    HIP HIPS HUEFTE HUMERUS HWS JAW KNEE KNEES KUB LEG LEGS LOWLEG LSPINE LSSPINE LUMBAR LWS MAMMA MANDIBLE NASAL
    NECK ORBIT ORBITS PATELLA PELVIC PELVIS RADIUS RIB RIBS SACRUM SCAPULA SHOULDER SINUS SINUSES SKELETON SKULL
    SPINE SSPINE STERNUM TEETH THIGH THUMB TIBIA TMJ TOE TOES TSPINE ULNA UPRLEG WRIST
    """
)
#: Values of Body Part Examined that state no part of the body.
_UNSTATED = _words(
    """
    BODY GENERAL NA NONE OTHER PORTABLE UNDEFINED UNKNOWN UNSPECIFIED WHOLE WHOLEBODY
    """
)
#: Texts that describe one image or its series; only these are asked for a view. What describes the examination
#: ("CHEST PA AND LAT") is asked for the body part alone.
_SERIES_TEXTS = (
    "SeriesDescription",
    "ProtocolName",
    "AcquisitionProtocolDescription",
    "AcquisitionDeviceProcessingDescription",
)
#: DICOM's age strings, and how many of each unit are a year; dates.
_AGE = re.compile(r"(\d{3})([DWMY])")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_STUDY_TEXTS = ("StudyDescription", "PerformedProcedureStepDescription", "RequestedProcedureDescription")


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the header of an accepted file says.

    Attributes:
        view: projection.
        is_for_processing: raw detector data.
        notes: what a reader of the result should know; no text of the header.
        age_group: of the patient; the age itself stays in the header.
    """

    view: View
    is_for_processing: bool
    notes: tuple[str, ...]
    age_group: AgeGroup | None


def judge(file: DicomFile) -> HeaderFacts:
    """Return what an accepted header says.

    Raises:
        DataError: ``NOT_RADIOGRAPH`` or ``NOT_CHEST``.
    """
    notes: list[str] = []
    sop_class = _class_of(file)
    _require_radiograph(file, sop_class, notes)
    _require_chest(file, notes)
    if sop_class in CAPTURE_CLASSES:
        notes.append("secondary capture: text may be burned into the pixels")
    if states_text(file):
        notes.append("the header says that annotations are burned into the pixels")
    if any(0x6000 <= tag.group <= 0x60FF for tag in file.dataset.keys()):  # noqa: SIM118  (pydicom iterates elements)
        notes.append("overlay planes are not drawn")
    return HeaderFacts(view_of(file), is_for_processing(file), tuple(notes), age_group_of(_years(file)))


def states_text(file: DicomFile) -> bool:
    """Return whether the header says that text is burned into the pixels (PS3.3 C.7.6.1)."""
    return (file.text("BurnedInAnnotation") or "").upper() == "YES"


def _years(file: DicomFile) -> float | None:
    """Return the patient's age: as it is stated (``045Y``, ``010M``), or from birth to the study."""
    stated = _AGE.fullmatch(file.text("PatientAge") or "")
    if stated:
        return int(stated[1]) / _PER_YEAR[stated[2]]
    born, studied = (_DATE.fullmatch(file.text(name) or "") for name in ("PatientBirthDate", "StudyDate"))
    if not born or not studied or born[0] >= studied[0]:
        return None
    is_before_birthday = (studied[2], studied[3]) < (born[2], born[3])
    return int(studied[1]) - int(born[1]) - is_before_birthday


def is_for_processing(file: DicomFile) -> bool:
    """Return whether the pixels are raw detector data, meant for a workstation and not for the eye."""
    intent = (file.text("PresentationIntentType") or "").upper()
    return intent == "FOR PROCESSING" or _class_of(file) == _FOR_PROCESSING_CLASS


def _class_of(file: DicomFile) -> str | None:
    """Return the SOP class; of a header that was stripped, as VinDr-CXR's are, the file's (PS3.10, 7.1: the same)."""
    return file.text("SOPClassUID") or file.media_class


def _require_radiograph(file: DicomFile, sop_class: str | None, notes: list[str]) -> None:
    """The class decides what an object is (PS3.4 B.5); the modality where the class is none of a radiograph's.

    Only a defined term of another modality outvotes the class.
    """
    modality = (file.text("Modality") or "").upper()
    quoted = modality if modality in (*_OTHER_MODALITIES, *_OTHER_WORDS_FOR_RADIOGRAPH) else "another"
    is_radiograph = sop_class in RADIOGRAPH_CLASSES
    if modality in _MODALITIES:
        if sop_class is not None and not is_radiograph and sop_class not in CAPTURE_CLASSES:
            raise DataError(
                Reason.NOT_RADIOGRAPH,
                f"the modality is {modality}, but the object is of another class",
                expected="a computed or digital radiograph, or a secondary capture",
            )
        return
    if is_radiograph and modality not in _OTHER_MODALITIES:
        notes.append(
            "the header states no modality; its class is that of a radiograph"
            if not modality
            else f"the modality is {quoted}, no term of DICOM's; the class is that of a radiograph"
        )
        return
    is_capture = sop_class is None or sop_class in CAPTURE_CLASSES
    if (
        is_capture
        and modality in _OTHER_WORDS_FOR_RADIOGRAPH
        and (modality == "CXR" or _CHEST.intersection(_stated_parts(file)))
    ):
        notes.append(f"the modality is {modality}, no term of DICOM's; taken for a radiograph of the stated chest")
        return
    if not modality:
        raise DataError(
            Reason.NOT_RADIOGRAPH,
            "the header states neither a modality nor the class of a radiograph",
            expected="modality CR, DX or RG",
        )
    raise DataError(Reason.NOT_RADIOGRAPH, f"the modality is {quoted}", expected="CR, DX or RG")


def _stated_parts(file: DicomFile) -> list[str]:
    regions = [item.text("CodeMeaning") for item in file.items("AnatomicRegionSequence")]
    stated = (word for text in (file.text("BodyPartExamined"), *regions) for word in words(text or ""))
    return [word for word in stated if word not in _UNSTATED]


def _require_chest(file: DicomFile, notes: list[str]) -> None:
    """Body Part Examined and the anatomic region decide; descriptions only where these are silent."""
    stated = _stated_parts(file)
    if _CHEST.intersection(stated):
        return
    _refuse_other_part(stated)
    described = [word for keyword in (*_SERIES_TEXTS, *_STUDY_TEXTS) for word in words(file.text(keyword) or "")]
    if _CHEST.intersection(described):
        notes.append("chest by its descriptions; the body part is not stated")
        return
    _refuse_other_part(described)
    if stated:
        raise DataError(Reason.NOT_CHEST, "the stated body part is not known", expected="CHEST or THORAX")
    notes.append("the header states no body part; taken for a chest")


def _refuse_other_part(found: list[str]) -> None:
    part = next((word for word in found if word in _NOT_CHEST), None)
    if part is not None:
        raise DataError(Reason.NOT_CHEST, f"the header says {part}", expected="CHEST or THORAX")


def view_of(file: DicomFile) -> View:
    """Return the projection that a header states, by its most reliable attribute that states one."""
    view = view_of_code(file.text("ViewPosition"))
    if view is View.UNKNOWN:
        view = view_of_words(item.text("CodeMeaning") for item in file.items("ViewCodeSequence"))
    if view is View.UNKNOWN:
        view = view_of_words(file.text(keyword) for keyword in _SERIES_TEXTS)
    return view_of_orientation(file.text("PatientOrientation")) if view is View.UNKNOWN else view
