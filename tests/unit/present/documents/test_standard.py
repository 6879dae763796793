"""Every kind of DICOM document against its standard: attributes one by one, and under four other programmes.

Our own table (``document_modules.py``) is held against the one that highdicom brings; dicom-validator, which would
fetch the standard, is given the latter.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from document_modules import IODS, OF_FILMS, cases, check_attribute
from document_parts import MAKER, RECORD, film_file
from pydicom.dataset import Dataset

from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents.capture import picture_capture
from chexmix_cli.core.present.documents.fhir import diagnostic_report
from chexmix_cli.core.present.documents.header import StudyHeader, document_bytes
from chexmix_cli.core.present.documents.measurements import measurement_sr
from chexmix_cli.core.present.documents.pdf import encapsulated_pdf
from chexmix_cli.core.present.documents.text_report import text_sr

FILM = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
KINDS = tuple(IODS)
ATTRIBUTES = [(kind, path, number) for kind in KINDS for path, number in cases(IODS[kind][1])]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Return a file of every kind, by kind and by what it is of: a DICOM ``film`` or a plain ``picture``."""
    folder = tmp_path_factory.mktemp("documents")
    found = {}
    for of, study in (("film", StudyHeader.of_file(film_file())), ("picture", StudyHeader.fresh(b"film"))):
        made = {
            "sr": text_sr(RECORD, study, MAKER),
            "pdf": encapsulated_pdf(RECORD, study, MAKER, FILM),
            "picture": picture_capture(RECORD, study, MAKER, np.stack([FILM] * 3, -1)),
        }
        if find_spec("highdicom") is not None:
            made["measurements"] = measurement_sr(RECORD, study, MAKER)
        for kind, dataset in made.items():
            found[kind, of] = folder / f"{kind}-{of}.dcm"
            found[kind, of].write_bytes(document_bytes(dataset))
    return found


def needs(kind: str) -> None:
    if kind == "measurements":
        pytest.importorskip("highdicom", reason="needs chexmix[clinical]")


def ran(programme: str, path: Path) -> str:
    """Return all that a programme says of a file, or skip where it is not installed."""
    if shutil.which(programme) is None:
        pytest.skip(f"{programme} is not installed (Debian: dcmtk, dicom3tools, poppler-utils)")
    done = subprocess.run([programme, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert programme == "dciodvfy" or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "path", "number"), ATTRIBUTES)
def test_each_attribute_is_as_its_type_demands(kind, path, number, files):
    needs(kind)
    check_attribute(pydicom.dcmread(files[kind, "film"]), path, number)


@pytest.mark.parametrize(("kind", "path", "number"), [case for case in ATTRIBUTES if not case[1].startswith(OF_FILMS)])
def test_of_a_plain_picture_too(kind, path, number, files):
    needs(kind)
    check_attribute(pydicom.dcmread(files[kind, "picture"]), path, number)


def test_the_attribute_check_can_fail(files):
    dataset = pydicom.dcmread(files["sr", "film"])
    dataset.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = ""
    with pytest.raises(AssertionError, match="CodeMeaning is empty"):
        check_attribute(dataset, "ContentSequence > ConceptNameCodeSequence > CodeMeaning", 1)
    del dataset.PatientID
    with pytest.raises(AssertionError, match="PatientID is missing"):
        check_attribute(dataset, "PatientID", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_our_table_leaves_out_no_mandatory_attribute(kind):
    pytest.importorskip("highdicom", reason="needs chexmix[clinical]")
    from standard_tables import attributes_of, modules_of

    iod, modules = IODS[kind]
    assert {name for name, usage in modules_of(iod).items() if usage == "M"} <= set(modules)
    for module, attributes in modules.items():
        if module == "sr-document-content":
            continue  # All condition: highdicom's table holds every value type's attributes at once.
        demanded = {name: int(kind) for name, kind in attributes_of(module).items() if kind in ("1", "2")}
        ours = {name: kind for name, kind in attributes.items() if " > " not in name}
        assert demanded.items() <= ours.items(), module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["film", "picture"])
def test_dicom_validator_finds_nothing(kind, of, files):
    pytest.importorskip("highdicom", reason="needs chexmix[clinical]")
    assert validated(pydicom.dcmread(files[kind, of])) == {}


def test_dicom_validator_would_find_what_is_wrong(files):
    pytest.importorskip("highdicom", reason="needs chexmix[clinical]")

    def without(change) -> set[str]:
        dataset = pydicom.dcmread(files["sr", "film"])
        change(dataset)
        return {name for errors in validated(dataset).values() for name in errors}

    findings = 9
    assert without(lambda one: delattr(one, "VerificationFlag")) == {"(0040,A493) TagMissing"}
    assert without(lambda one: delattr(one.ContentSequence[findings], "ContinuityOfContent")) == {
        "(0040,A730) / (0040,A050) TagMissing"
    }
    assert without(lambda one: delattr(one.ContentSequence[findings].ContentSequence[0], "TextValue")) == {
        "(0040,A730) / (0040,A730) / (0040,A160) TagMissing"
    }
    assert without(lambda one: setattr(one.ContentSequence[findings], "PatientID", "1")) == {
        "(0040,A730) / (0010,0020) TagUnexpected"
    }


def validated(dataset: Dataset) -> dict[str, list[str]]:
    """Return what dicom-validator finds in a dataset, by module."""
    pytest.importorskip("dicom_validator")
    from dicom_validator.validator.iod_validator import IODValidator
    from standard_tables import dicom_info

    logger = logging.getLogger()
    handlers = list(logger.handlers)
    try:
        result = IODValidator(dataset, dicom_info(dataset.SOPClassUID), log_level=logging.CRITICAL).validate()
    finally:
        logger.handlers[:] = handlers
    return {
        module: [f"{tag} {error.code.name}" for tag, error in errors.items()]
        for module, errors in result.module_errors.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["film", "picture"])
def test_dciodvfy_finds_nothing(kind, of, files):
    needs(kind)
    said = ran("dciodvfy", files[kind, of])
    # Synthetic Data (0008,001C) is younger (2024) than the dicom3tools of Debian 12.
    errors = [line for line in said.splitlines() if line.startswith("Error") and "(0x0008,0x001c)" not in line]
    assert not errors, said
    named = {"sr": "BasicTextSR", "measurements": "ComprehensiveSR", "pdf": "EncapsulatedPDF", "picture": "SCImage"}
    assert named[kind] in said


@pytest.mark.parametrize("kind", ["sr", "measurements"])
@pytest.mark.parametrize("of", ["film", "picture"])
def test_dsrdump_reads_the_whole_tree(kind, of, files):
    needs(kind)
    said = ran("dsrdump", files[kind, of])
    assert not [line for line in said.splitlines() if line.startswith(("E:", "F:"))], said
    assert "UNVERIFIED" in said
    assert ("Pneumonia; follow up" if kind == "sr" else '"0.99127171606901" (1,UCUM,"no units")') in said


@pytest.mark.slow
def test_headers_of_all_kinds_of_files_give_sound_documents(tmp_path):
    """Of each DICOM file in pydicom's own tests that names a study."""
    import pydicom.data

    path, num_files, with_errors = tmp_path / "report.dcm", 0, set()
    for source in map(Source, sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))):
        try:
            with source.open(1 << 28) as stream:
                study = StudyHeader.of_file(parse_header(stream, 1 << 28))
        except DataError:
            continue
        path.write_bytes(document_bytes(text_sr(RECORD, study, MAKER)))
        if any(line.startswith("Error") for line in ran("dciodvfy", path).splitlines()):
            with_errors.add(source.name)
        assert diagnostic_report(RECORD, study, MAKER)["status"] == "preliminary"
        num_files += 1
    assert num_files > 50
    assert with_errors == set()
