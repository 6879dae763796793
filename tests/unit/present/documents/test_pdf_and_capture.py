"""The PDF as a reader of PDF sees it, and the picture as a reader of DICOM images does."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from document_parts import film_file, written
from PIL import Image

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents.capture import picture_capture
from chexmix_cli.core.present.documents.header import StudyHeader
from chexmix_cli.core.present.documents.pdf import encapsulated_pdf, report_pdf

FILM = np.full((64, 48), 90, np.uint8)


def text_of(content: bytes) -> str:
    """Return the text of a PDF as poppler reads it."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed (Debian: poppler-utils)")
    command = ["pdftotext", "-layout", "-enc", "UTF-8", "-", "-"]
    done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=True)
    assert not done.stderr
    return done.stdout.decode()


def test_a_page_says_whose_it_is_what_it_is_and_by_whom(record, study, maker):
    record["conflicts"] = ["Edema: absent by the classifier (0.04, present from 0.24), but the report states it"]
    text = " ".join(text_of(report_pdf(record, study, maker, FILM)).split())
    for said in (
        "Müller Zoë", "77", "1960-02-29, F", "2024-01-02", "A1",
        "AI-generated, preliminary, unverified; not for clinical use",
        "Findings The lungs are not clear, with opacification suggestive of pneumonia. The heart is normal.",
        "Impression Pneumonia; follow up at 37 °C.", "Pneumonia 0.99 0.59", "Edema 0.04 0.24",
        "Conflict: Edema: absent by the classifier (0.04, present from 0.24), but the report states it",
        "model chexmix-mini, weights abababababababab; page 1 of 1",
    ):  # fmt: skip
        assert said in text, said


def test_a_plain_picture_names_nobody(record, maker):
    text = text_of(report_pdf(record, StudyHeader.fresh(b"film"), maker, FILM))
    assert not re.search("Patient|Born|Study|Accession", text)


def test_a_long_report_takes_several_pages_and_loses_no_word(record, study, maker):
    words = [f"word{number}" for number in range(1500)]
    text = text_of(report_pdf({**record, "report": "FINDINGS: " + " ".join(words)}, study, maker, FILM))
    assert re.findall(r"word\d+", text) == words
    assert len(re.findall(r"page \d of 4", text)) == 4
    assert text.count("Müller Zoë, 77") == 4


def test_same_input_same_bytes(record, study, maker):
    first = report_pdf(record, study, maker, FILM)
    assert first == report_pdf(record, study, maker, FILM)
    assert first != report_pdf(record, study, maker, FILM + np.uint8(1))
    assert b"/CreationDate" not in first


def test_the_film_is_in_it(record, study, maker, tmp_path):
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm is not installed (Debian: poppler-utils)")
    (tmp_path / "report.pdf").write_bytes(report_pdf(record, study, maker, FILM))
    subprocess.run(["pdftoppm", "-r", "50", "-gray", "report.pdf", "page"], cwd=tmp_path, check=True, timeout=60)
    (page,) = tmp_path.glob("page*.pgm")
    pixels = np.asarray(Image.open(page))
    # 3.6 inches high, three quarters as wide, at 50 pixels an inch; poppler rounds grey down.
    assert np.isin(pixels, (89, 90)).sum() == pytest.approx(180 * 135, rel=0.05)


@pytest.mark.parametrize(
    ("values", "expected"), [({"BurnedInAnnotation": "NO"}, "YES"), ({}, "YES"), ({"BurnedInAnnotation": "YES"}, "YES")]
)
def test_a_page_with_a_name_is_annotated(values, expected, record, maker):
    dataset = encapsulated_pdf(record, StudyHeader.of_file(film_file(**values)), maker, FILM)
    assert dataset.BurnedInAnnotation == expected


def test_a_nameless_page_is_free_of_names_only_if_its_film_is_known_to_be(record, maker):
    nobody = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"), None
    )
    known = StudyHeader.of_file(film_file(**nobody, BurnedInAnnotation="NO"))
    assert encapsulated_pdf(record, known, maker, FILM).BurnedInAnnotation == "NO"
    unknown = StudyHeader.of_file(film_file(**nobody))
    assert encapsulated_pdf(record, unknown, maker, FILM).BurnedInAnnotation == "YES"


def test_the_encapsulated_document_is_the_pdf(record, study, maker):
    found = written(encapsulated_pdf(record, study, maker, FILM))
    content = report_pdf(record, study, maker, FILM)
    assert found.EncapsulatedDocument[: found.EncapsulatedDocumentLength] == content
    assert content.startswith(b"%PDF-")
    assert (found.MIMETypeOfEncapsulatedDocument, found.VerificationFlag) == ("application/pdf", "UNVERIFIED")
    assert found.SourceInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"


def test_there_is_no_pdf_without_a_report(record, study, maker):
    with pytest.raises(DataError, match="no report"):
        report_pdf({"id": "1"}, study, maker, FILM)


def test_a_capture_shows_the_picture_as_it_is(record, study, maker):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    found = written(picture_capture(record, study, maker, pixels))
    assert np.array_equal(found.pixel_array, pixels)
    assert (found.ConversionType, found.SyntheticData, found.Modality) == ("SYN", "YES", "OT")
    assert "not for clinical use" in found.ImageComments
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"


def test_a_capture_keeps_what_the_films_pixels_bring_with_them(record, maker):
    brought = {"BurnedInAnnotation": "YES", "LossyImageCompression": "01", "LossyImageCompressionRatio": "12"}
    found = written(picture_capture(record, StudyHeader.of_file(film_file(**brought)), maker, np.stack([FILM] * 3, -1)))
    assert (found.BurnedInAnnotation, found.LossyImageCompression) == ("YES", "01")
    assert float(found.LossyImageCompressionRatio) == 12
