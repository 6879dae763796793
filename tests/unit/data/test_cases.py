"""Inputs rebuilt after public bug reports (``shared/cases``): each shows its film, with a note where the file lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import INTENSITIES
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.settings.inference import InputSettings

DEEP = "more than 8 bits and no window: percentiles"
WHOLE = "values of {} bits, where the header says {}; read whole"
NO_WINDOW = "no window in the header: percentiles instead"
NOTES: dict[str, list[str]] = {
    **dict.fromkeys(
        (f"03-tiff-white-is-zero/{name}" for name in ("black0_16.tif", "white0_16.tif", "white0_16_bigendian.tif")),
        [DEEP],
    ),
    "03-tiff-white-is-zero/white0_8.tif": [],
    **dict.fromkeys(
        (
            f"04-png-16-bit-colour/{name}"
            for name in ("grey16.png", "greyalpha16.png", "rgb16.png", "rgb16_12bit.tif", "rgb16_planes_zlib.tif")
        ),
        [DEEP],
    ),
    "05-voi-lut-bits-overstated/says12_holds12.dcm": [],
    **{
        f"05-voi-lut-bits-overstated/says16_holds{bits}.dcm": [
            f"the entries of the VOI LUT reach {bits} bits, its descriptor says 16; the entries count"
        ]
        for bits in (12, 14)
    },
    **dict.fromkeys(
        (f"06-bits-stored-below-the-stream/{name}12_stored10.dcm" for name in ("j2k", "jpeg", "lossless")),
        [WHOLE.format(12, 10)],
    ),
    "06-bits-stored-below-the-stream/native16_stored12.dcm": [WHOLE.format(16, 12)],
    "11-half-a-rescale/both_empty.dcm": [],
    **dict.fromkeys(
        (f"11-half-a-rescale/{name}.dcm" for name in ("intercept_empty", "slope_only")),
        ["the rescale has no intercept; taken for 0"],
    ),
    "11-half-a-rescale/intercept_only.dcm": ["the rescale has no slope; taken for 1"],
    "11-half-a-rescale/slope_zero.dcm": ["the rescale is impossible and left out"],
    "13-patient-orientation/as_usual_L_F.dcm": [],
    **dict.fromkeys(
        (f"13-patient-orientation/{name}.dcm" for name in ("lying_F_R", "mirrored_R_F")),
        ["turned as its patient orientation says"],
    ),
    **{
        f"26-lut-data-as-SS/{name}.dcm": [] if name.startswith(("voi", "descriptor")) else [NO_WINDOW]
        for name in (
            "descriptor_40000_as_SS",
            "modality_lut_data_OW",
            "modality_lut_data_US",
            "voi_lut_data_OW",
            "voi_lut_data_SS",
            "voi_lut_data_US",
        )
    },
    "34-wrong-ending/dual.png": [],
    "34-wrong-ending/film.png": [],
}


@pytest.fixture(scope="module")
def inputs(shared: Path) -> Path:
    folder = shared / "cases" / "inputs"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    return folder


@pytest.mark.parametrize("name", NOTES)
def test_the_picture_shows_the_film(inputs, name):
    loaded = load_image(Source(inputs / name), "voi", InputSettings())
    shown = np.asarray(loaded.image.convert("L"))
    film = np.load(inputs / name.split("/")[0] / "reference.npy")
    assert shown.shape == film.shape
    assert np.corrcoef(shown.ravel(), film.ravel())[0, 1] >= 0.999
    assert loaded.notes == NOTES[name]


@pytest.mark.parametrize("name", NOTES)
def test_every_preset_shows_it_or_says_what_it_ignores(inputs, name):
    film = np.load(inputs / name.split("/")[0] / "reference.npy")
    for intensity in INTENSITIES:
        loaded = load_image(Source(inputs / name), intensity, InputSettings())
        shown = np.asarray(loaded.image.convert("L"))
        is_like = shown.shape == film.shape and np.corrcoef(shown.ravel(), film.ravel())[0, 1] >= 0.9
        is_said = any("preset" in note or "recipe" in note for note in loaded.notes)
        assert is_like or is_said, (intensity, loaded.notes)
