"""Damaged files give a reason or a picture: no other exception, no crash, no hang, no output, bounded memory.

``CHEXMIX_MUTATIONS`` sets how many are made of each encoding.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import warnings
from collections import Counter
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_mutations import mutate
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.studies.inputs import Refusal, load_pixels, study_of_file
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings

NUMBER = int(os.environ.get("CHEXMIX_MUTATIONS", "40"))
ENCODINGS = ("native", "implicit", "deflated", "rle", "jpeg2000", "jpeg", "jpeg-ls", "lossless jpeg")
SETTINGS = InputSettings(max_file_mb=16, max_pixels=4_000_000)
PRESET = resolve_preset("voi", ImageSettings(resolution_px=64, intensity="voi", geometry="pad"), 1)
LIMIT_S = 20.0
LIMIT_BYTES = 1 << 30


def _film(encoding: str, dataset_of, file_bytes, small_film) -> bytes:
    """Return a sound chest film in an encoding, the same bytes in every run: seeds mean nothing else."""
    dataset = _dataset(encoding, dataset_of, small_film)
    for number, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        setattr(dataset, keyword, f"1.2.3.{number}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return file_bytes(dataset)


def _dataset(encoding: str, dataset_of, small_film) -> Dataset:
    if encoding in ("jpeg-ls", "lossless jpeg"):
        name = "MR_small_jpeg_ls_lossless.dcm" if encoding == "jpeg-ls" else "JPGLosslessP14SV1_1s_1f_8b.dcm"
        dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        dataset.SOPClassUID, dataset.Modality, dataset.BodyPartExamined = "1.2.840.10008.5.1.4.1.1.1", "CR", "CHEST"
        return dataset
    if encoding == "jpeg":
        stream = BytesIO()
        Image.fromarray((small_film >> 7).astype(np.uint8)).save(stream, "JPEG")
        dataset = dataset_of((small_film >> 7).astype(np.uint8), PixelData=encapsulate([stream.getvalue()]))
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        return dataset
    dataset = dataset_of(small_film, BitsStored=15, WindowCenter=15000, WindowWidth=30000)
    if encoding in ("rle", "jpeg2000"):
        dataset.compress(RLELossless if encoding == "rle" else JPEG2000Lossless)
    elif encoding != "native":
        syntax = ImplicitVRLittleEndian if encoding == "implicit" else DeflatedExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _read(path: Path) -> str:
    """Return ``read``, or the code of the reason why not."""
    try:
        study = study_of_file(path, SETTINGS, "x")
        if isinstance(study, Refusal):
            return study.error.code
        pixels, _ = load_pixels(study.chosen, PRESET)
    except DataError as error:
        return error.code
    assert pixels.shape == (1, 64, 64)
    assert np.isfinite(pixels).all()
    return "read"


def _read_damaged(sound: bytes, path: Path, results: Connection) -> None:
    """Read every damaged copy, in a process of its own with little memory."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LIMIT_BYTES,) * 2)
    codes: Counter[str] = Counter()
    with (path.with_suffix(".out")).open("w") as stream:
        os.dup2(stream.fileno(), 1)  # of C libraries too
        os.dup2(stream.fileno(), 2)
        for seed in range(NUMBER):
            path.write_bytes(mutate(sound, seed))
            started = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    codes[_read(path)] += 1
                except BaseException as error:  # what is looked for
                    codes[f"seed {seed}: {error!r}"] += 1
            if time.monotonic() - started > LIMIT_S:
                codes[f"seed {seed}: slow"] += 1
    results.send(codes)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded through /proc")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_damaged_files_have_a_reason(encoding, dataset_of, file_bytes, small_film, tmp_path):
    sound = _film(encoding, dataset_of, file_bytes, small_film)
    path = tmp_path / "film.dcm"
    path.write_bytes(sound)
    assert sound == _film(encoding, dataset_of, file_bytes, small_film)
    assert _read(path) == "read"
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_read_damaged, args=(sound, path, sender))
    process.start()
    sender.close()
    codes: Counter[str] = receiver.recv() if receiver.poll(LIMIT_S * NUMBER) else Counter()
    process.join(LIMIT_S)
    print(f"{encoding}: {dict(sorted(codes.items()))}")
    assert process.exitcode == 0
    assert codes.total() == NUMBER
    assert set(codes) <= {"read", *Reason}
    assert len(codes) > 2  # the damage is of several kinds
    assert (path.with_suffix(".out")).read_text() == ""


def test_the_generator_repeats_itself():
    sound = bytes(range(256)) * 8
    assert [mutate(sound, seed) for seed in range(20)] == [mutate(sound, seed) for seed in range(20)]
    assert len({mutate(sound, seed) for seed in range(20)}) == 20
