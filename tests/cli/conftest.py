"""Run the command line as its users do, and small inputs for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

#: What must never come out again, wherever it stood in the header.
PLANTED = ("Zephyranthes", "PID-99471", "ACC-55193", "19590723", "1.2.826.0.1.3680043.8.498.77", "Hollowbrook")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C reach the commands under test: a suite run in the background ignores it, and so would they."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Result:
    """What one run gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture
def chexmix(repository: Path) -> Callable[..., Result]:
    """Return a function that runs ``chexmix`` in a process of its own."""

    def run(*arguments: object, stdin: str | None = None, timeout: float = 300) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "chexmix_cli", *map(str, arguments)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=repository,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs ``chexmix`` in this process: the same, faster."""

    def run(*arguments: object, stdin: str | bytes = b"") -> Result:
        import io

        from chexmix_cli.__main__ import run as run_app

        raw = stdin if isinstance(stdin, bytes) else stdin.encode(errors="surrogateescape")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        capsys.readouterr()
        code = run_app([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(code), captured.out, captured.err)

    return run


@contextmanager
def interrupted_behind(num_records: int) -> Iterator[None]:
    """Let Ctrl-C come when a command has written so many records to its journal."""
    from chexmix_cli.library.jobs.journal import Journal

    add, left = Journal.add, iter(range(num_records - 1))

    def interrupt(journal: Any, job: Any, record: Any) -> None:
        add(journal, job, record)
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", interrupt)
        yield


def film_pixels(seed: int, side: int = 96) -> np.ndarray:
    """Return a smooth random picture, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    values = 0.2 + 0.3 * y
    for _ in range(4):
        centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
        values += 0.4 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 0.05)
    return np.clip(values * 200, 0, 255).astype(np.uint8)


def write_archive(folder: Path, count: int, damaged: Container[int]) -> Path:
    """Return a new folder with so many pictures, those of ``damaged`` numbers cut short."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:02d}.png"
        Image.fromarray(film_pixels(number, 64)).save(path)
        if number in damaged:
            path.write_bytes(path.read_bytes()[:300])
    return folder


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Return a folder of three PNG films."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        Image.fromarray(film_pixels(seed)).save(folder / f"{name}.png")
    return folder


def write_dicom(path: Path, seed: int = 1, *, body_part: str = "CHEST", view: str = "PA", study: str = "1") -> Path:
    """Write a small CR film whose header is full of what must not leak."""
    import warnings

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    pixels = film_pixels(seed)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    uid = f"{PLANTED[4]}.{study}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.2.{seed}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}.1"
    dataset.PatientName, dataset.PatientID = f"{PLANTED[0]}^Ada", PLANTED[1]
    dataset.AccessionNumber, dataset.PatientBirthDate, dataset.StudyDate = PLANTED[2], PLANTED[3], PLANTED[3]
    dataset.InstitutionName, dataset.StudyDescription = PLANTED[5], f"Chest for {PLANTED[0]}"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", body_part, view
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def make_dicom() -> Callable[..., Path]:
    """Return the function that writes a small film with a planted patient."""
    return write_dicom


@pytest.fixture
def planted() -> tuple[str, ...]:
    """Return the strings of the planted patient."""
    return PLANTED
