"""A planted patient is in no id, note, error, warning or log record, whatever is done to the file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, generate_uid

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.studies.inputs import Refusal, discover, load_pixels
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings

NAME = "ZWETSCHGE"
PRESET = resolve_preset("voi", ImageSettings(resolution_px=64, intensity="voi", geometry="pad"), 1)
RAMP = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))


def planted(dataset: Dataset) -> Dataset:
    """Put the name wherever text fits, in attributes that are read here too."""
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = f"{NAME}^ANNA", f"{NAME}1", "19700131"
    dataset.AccessionNumber, dataset.StudyDate = f"{NAME}2", "20240229"
    for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName", "PatientComments", "InstitutionName"):
        setattr(dataset, keyword, f"Chest of {NAME} 1970")
    dataset.ReferringPhysicianName = f"{NAME}^DOCTOR"
    item = Dataset()
    item.CodeMeaning = f"{NAME} view"
    dataset.ViewCodeSequence = Sequence([item])
    return dataset


#: What is done to the attributes; each breaks the way at another place.
BREAKAGES: dict[str, dict[str, object]] = {
    "nothing": {},
    "body part": {"BodyPartExamined": NAME},
    "other part": {"BodyPartExamined": f"HIP {NAME}"},
    "modality": {"Modality": NAME},
    "view": {"ViewPosition": NAME},
    "photometric": {"PhotometricInterpretation": NAME},
    "class": {"SOPClassUID": "1.2.3.4"},
    "date": {"StudyDate": NAME},
    "spacing": {"PixelSpacing": None, "PixelAspectRatio": None},
    "rows": {"Rows": 60_000, "Columns": 60_000},
    "short": {"Rows": 100},
    "lateral": {"ViewPosition": "LL"},
    "intent": {"PresentationIntentType": NAME},
    "function": {"WindowCenter": 5, "WindowWidth": 3, "VOILUTFunction": NAME},
}


def told(results: list[object], records: list[logging.LogRecord], caught: list[warnings.WarningMessage]) -> str:
    """Return everything that could reach a user: ids, errors with all their parts, notes, log records, warnings."""
    texts = []
    for result in results:
        texts.append(result.id)  # type: ignore[attr-defined]
        if isinstance(result, Refusal):
            error = result.error
            texts += [str(error), repr(error), error.code, str(error.hint), str(error.where), str(error.__context__)]
            assert error.__cause__ is None
            assert error.__suppress_context__ or error.__context__ is None
            continue
        for image in result.images:  # type: ignore[attr-defined]
            texts += [image.id, *image.notes, image.view.value]
        try:
            texts += load_pixels(result.chosen, PRESET)[1]  # type: ignore[attr-defined]
        except DataError as error:
            texts += [str(error), str(error.hint), str(error.where)]
    texts += [record.getMessage() for record in records]
    texts += [str(warning.message) for warning in caught]
    return "\n".join(texts)


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("damage", ["none", "cut", "compressed cut", "scrambled", "no preamble"])
def test_a_planted_patient_is_told_nowhere(dataset_of, file_bytes, tmp_path, caplog, breakage, damage):
    caplog.set_level(logging.DEBUG)
    uid = generate_uid()
    attributes = {key: value for key, value in BREAKAGES[breakage].items() if value is not None}
    dataset = planted(dataset_of(RAMP, StudyInstanceUID=uid, **({} if damage == "compressed cut" else attributes)))
    if damage == "compressed cut":
        dataset.compress(JPEG2000Lossless)
    data = file_bytes(dataset)
    if damage in ("cut", "compressed cut"):
        data = data[:-700]
    elif damage == "scrambled":
        scrambled = bytearray(data)
        for place in np.random.default_rng(len(breakage)).integers(140, 900, 40):
            scrambled[place] ^= 0x15
        data = bytes(scrambled)
    elif damage == "no preamble":
        data = data[132:]
    folder = tmp_path / f"{NAME}_ANNA"
    folder.mkdir()
    path = folder / f"{NAME}.dcm"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for inputs in ([str(folder)], [str(path)]):
            caplog.clear()
            results = list(discover(inputs, InputSettings()))
            assert len(results) == 1
            text = told(list(results), caplog.records, caught)
            assert NAME not in text.upper()
            assert "1970" not in text
            assert uid not in text
            assert str(tmp_path) not in text


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 300])
def test_names_of_files_that_are_no_dicom_after_all_are_not_told(tmp_path: Path, content):
    (tmp_path / f"{NAME}.dcm").write_bytes(content)
    (result,) = discover([str(tmp_path)], InputSettings())
    assert isinstance(result, Refusal)
    assert NAME not in f"{result.id} {result.error} {result.error.where} {result.error.hint}"


def test_log_level_and_propagation_are_as_before(dataset_of, file_bytes, tmp_path):
    logger = logging.getLogger("pydicom")
    before = (logger.propagate, logger.disabled, logger.level, list(warnings.filters))
    (tmp_path / "x.dcm").write_bytes(file_bytes(planted(dataset_of(RAMP)))[:-10])
    (result,) = discover([str(tmp_path)], InputSettings())
    assert isinstance(result, Refusal)
    assert (logger.propagate, logger.disabled, logger.level, list(warnings.filters)) == before
