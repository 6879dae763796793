"""The 22 real files of ``shared/data/dicom``: chest radiographs are read, everything else has a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chexmix_cli.core.data.presets import INTENSITIES, resolve_preset
from chexmix_cli.core.data.studies.inputs import Refusal, Study, discover, load_pixels, study_of_file
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings

SETTINGS = InputSettings()
IMAGE = ImageSettings(resolution_px=256, intensity="voi", geometry="pad")
REASONS = {
    "RG2_JPLY.dcm": "NOT_CHEST",
    "RG3_J2KI.dcm": "NOT_CHEST",
    "RG3_J2KR.dcm": "NOT_CHEST",
    "RG3_JLSL.dcm": "NOT_CHEST",
    "RG3_JLSN.dcm": "NOT_CHEST",
    "RG3_JPLY.dcm": "NOT_CHEST",
    "RG3_RLE.dcm": "NOT_CHEST",
    "SR_no_pixels.dcm": "NOT_RADIOGRAPH",
    "palette_color.dcm": "NOT_RADIOGRAPH",
    "pydicom_MR_small_bigendian.dcm": "NOT_RADIOGRAPH",
    "pydicom_MR_truncated.dcm": "NOT_RADIOGRAPH",
    "pydicom_SC_rgb_small_odd.dcm": "NOT_RADIOGRAPH",
    "pydicom_image_dfl.dcm": "NOT_RADIOGRAPH",
    "pydicom_liver_1frame.dcm": "NOT_RADIOGRAPH",
    "pydicom_no_meta.dcm": "UNKNOWN_FORMAT",  # one byte too many at its start
    "pydicom_rtplan.dcm": "NOT_RADIOGRAPH",
    "tiny32_chrKoreanMulti.dcm": "TOO_SMALL",
}
NOTES = {
    "CR-MONO1-10-chest": [],
    "DX_J2KLossless_u16_16.dcm": [
        "the header states no body part; taken for a chest",
        "by the header, bone is shown dark",
        "the window misses the data: percentiles instead",
        "the patient orientation contradicts what the picture shows; left as it is stored",
        "likely rotated by 180 degrees",
        "likely a negative: dense tissue is dark",
    ],
    "RG1_J2KI.dcm": [],
    "SIIM_CR_JPEGbaseline.dcm": ["secondary capture: text may be burned into the pixels"],
    "SIIM_fake_MONOCHROME1.dcm": [
        "secondary capture: text may be burned into the pixels",
        "likely a negative: dense tissue is dark",
    ],
}


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "dicom"


def test_the_tables_here_name_every_file(folder):
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert sorted(row["file"] for row in rows) == sorted(
        [*(f"chest/{name}" for name in NOTES), *(f"other/{name}" for name in REASONS)]
    )


@pytest.mark.parametrize("name", REASONS)
def test_others_are_refused(folder, name):
    result = study_of_file(folder / "other" / name, SETTINGS, "x")
    assert isinstance(result, Refusal)
    assert result.error.code == REASONS[name]


@pytest.mark.parametrize("name", NOTES)
def test_chest_films_are_read(folder, name):
    result = study_of_file(folder / "chest" / name, SETTINGS, "x")
    assert isinstance(result, Study)
    assert result.chosen.view.value == ("FRONTAL" if name.startswith("DX") else "PA")
    pixels, notes = load_pixels(result.chosen, resolve_preset("model", IMAGE, 1))
    assert notes == NOTES[name]
    assert pixels.shape == (1, 256, 256)
    assert pixels.std() > 0.2


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_every_preset_reads_every_chest_film(folder, intensity):
    for name in NOTES:
        study = study_of_file(folder / "chest" / name, SETTINGS, "x")
        assert isinstance(study, Study)
        image = np.asarray(study.chosen.load(resolve_preset(intensity, IMAGE, 1)).image)
        assert image.dtype == np.uint8
        assert np.ptp(image) > 100


def test_bone_is_bright_where_the_header_is_right(folder):
    # Both are stored as MONOCHROME1; the heart and spine in the middle are brighter than the lungs beside them.
    for name in ("CR-MONO1-10-chest", "RG1_J2KI.dcm", "SIIM_CR_JPEGbaseline.dcm"):
        study = study_of_file(folder / "chest" / name, SETTINGS, "x")
        assert isinstance(study, Study)
        film = load_pixels(study.chosen, resolve_preset("voi", IMAGE, 1))[0][0]
        spine, left, right = film[100:160, 118:138], film[100:140, 60:90], film[100:140, 166:196]
        assert spine.mean() > max(left.mean(), right.mean()) + 0.2


def test_the_whole_folder_loses_nothing(folder):
    results = list(discover([str(folder)], SETTINGS))
    studies = [result for result in results if isinstance(result, Study)]
    refusals = [result for result in results if isinstance(result, Refusal)]
    # The two SIIM files carry one study's UID.
    assert [[image.source.name for image in study.images] for study in studies] == [
        ["CR-MONO1-10-chest"],
        ["DX_J2KLossless_u16_16.dcm"],
        ["RG1_J2KI.dcm"],
        ["SIIM_CR_JPEGbaseline.dcm", "SIIM_fake_MONOCHROME1.dcm"],
    ]
    assert {source.name: refusal.error.code for refusal in refusals for source in refusal.sources} == REASONS
    assert len({result.id for result in results}) == len(results) == 21
    every_view = list(discover([str(folder)], InputSettings(views="all")))
    assert len(every_view) == 22
    assert len({result.id for result in every_view}) == 22
