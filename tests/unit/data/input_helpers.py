"""Short forms that tests of inputs share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.studies.inputs import Refusal, Study, discover
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings

SETTINGS = InputSettings()
PRESET = resolve_preset("model", ImageSettings(resolution_px=64, intensity="voi", geometry="pad"), 1)
RAMP = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))

Put = Callable[..., Path]


def picture(path: Path, shift: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RAMP + np.uint8(shift)).save(path)
    return path


def found(*inputs: object, settings: InputSettings = SETTINGS, **options: bool) -> list[Study | Refusal]:
    return list(discover([str(text) for text in inputs], settings, **options))


def files_of(results: list[Study | Refusal]) -> list[str]:
    """Return every file's name, as often as results hold it."""
    names = []
    for result in results:
        sources = result.sources if isinstance(result, Refusal) else [image.source for image in result.images]
        names += [source.name for source in sources]
    return names


def only(results: list[Study | Refusal]) -> Study:
    (study,) = results
    assert isinstance(study, Study)
    return study


def refusal(results: list[Study | Refusal]) -> Refusal:
    (result,) = results
    assert isinstance(result, Refusal)
    return result


def directory(path: Path, names: list[list[str]]) -> Path:
    """Write a DICOMDIR that lists files."""
    dataset = Dataset()
    dataset.file_meta = Dataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ".." is not allowed there
            record.ReferencedFileID = name
        records.append(record)
    dataset.FileSetID = "X"
    dataset.DirectoryRecordSequence = [Dataset(), *records]
    dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    data = path.read_bytes()
    path.write_bytes(data if data[128:132] == b"DICM" else b"\0" * 128 + b"DICM" + data)
    return path
