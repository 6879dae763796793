"""Files that readers of this field were reported to refuse, rebuilt: each is read, or refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.inputs import study_of_file
from chexmix_cli.core.data.studies.study import Refusal
from chexmix_cli.core.settings.inference import InputSettings

#: Least Pearson correlation with the film that the picture must show, lossless and lossy.
LOSSLESS, LOSSY = 0.999, 0.99
READ = {
    "07-no-sequence-delimiter": {
        "whole.dcm": LOSSY,
        "no_delimiter.dcm": LOSSY,
        "nul_delimiter.dcm": LOSSY,
        "lossless.dcm": LOSSLESS,
        "lossless_no_delimiter.dcm": LOSSLESS,
    },
    "08-bad-basic-offset-table": dict.fromkeys(
        ("bot_and_end.dcm", "bot_each_fragment.dcm", "bot_ffffffff.dcm", "two_fragments_no_bot.dcm"), LOSSY
    ),
    "12-modality-DR": dict.fromkeys(("modality_DR.dcm", "modality_RX.dcm", "modality_XR.dcm"), LOSSLESS),
    "30-jpegls-nul-before-eoi": {"plain.dcm": LOSSLESS, "nul_before_eoi.dcm": LOSSLESS, "near_lossless_3.dcm": LOSSY},
    "31-delimiter-inside-fragment": dict.fromkeys(
        ("delimiter_bytes_in_fragment.dcm", "delimiter_length_ffffffff.dcm"), LOSSY
    ),
    "32-jpeg-extended-scan-0-0": {"scan_0_0.dcm": LOSSY},
    "34-wrong-ending": {"film.png": LOSSLESS, "dual.png": LOSSLESS},
}


@pytest.fixture
def cases(shared: Path) -> Path:
    """Return the folder of rebuilt inputs, or skip."""
    folder = shared / "cases" / "inputs"
    if not folder.is_dir():
        pytest.skip(f"no rebuilt inputs at {folder}")
    return folder


@pytest.mark.parametrize(
    ("case", "name", "least"), [(case, *entry) for case, files in READ.items() for entry in files.items()]
)
def test_readable_files_are_read(cases, case, name, least):
    path, settings = cases / case / name, InputSettings()
    study = study_of_file(path, settings, "one")
    assert not isinstance(study, Refusal), study
    image = np.asarray(load_image(Source(path), "voi", settings).image.convert("L")).astype(float)
    reference = np.load(cases / case / "reference.npy").astype(float)
    assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] >= least


@pytest.mark.parametrize(
    ("name", "code", "named"),
    [
        ("jpeg_xl.dcm", "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL Lossless (1.2.840.10008.1.2.4.110) is not decoded"),
        ("jpeg_xl_112.dcm", "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL (1.2.840.10008.1.2.4.112) is not decoded"),
        ("jpip.dcm", "UNSUPPORTED_PIXELS", "JPIP Referenced (1.2.840.10008.1.2.4.94) is not decoded"),
    ],
)
def test_other_codings_are_named(cases, name, code, named):
    refusal = study_of_file(cases / "24-jpeg-xl" / name, InputSettings(), "one")
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == code
    assert named in str(refusal.error)
