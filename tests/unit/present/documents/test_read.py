"""Structured reports of others read back, and files that are none."""

from __future__ import annotations

import pydicom
import pytest
from document_parts import film_file
from pydicom.dataset import Dataset

from chexmix_cli.core.data.dicom.file import DicomFile
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents.header import StudyHeader, document_bytes, with_file_header
from chexmix_cli.core.present.documents.read import is_sr, read_text_sr, sr_records
from chexmix_cli.core.present.documents.text_report import text_sr


def item(value_type: str, name: tuple[str, str, str] | None, *content: Dataset, text: str | None = None) -> Dataset:
    found = Dataset()
    found.RelationshipType, found.ValueType = "CONTAINS", value_type
    if name is not None:
        entry = Dataset()
        entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = name
        found.ConceptNameCodeSequence = [entry]
    if content:
        found.ContentSequence = list(content)
    if text is not None:
        found.TextValue = text
    return found


def foreign(*content: Dataset) -> DicomFile:
    """Return a structured report of another programme."""
    root = item("CONTAINER", ("18748-4", "LN", "Diagnostic Imaging Report"), *content)
    root.StudyInstanceUID = "1.2.3"
    return DicomFile(root, pydicom.uid.ExplicitVRLittleEndian, None)


def test_headings_of_other_codes_are_known_by_their_words():
    source = foreign(
        item("CONTAINER", ("121070", "DCM", "Findings"), item("TEXT", ("121071", "DCM", "Finding"), text="Clear.")),
        item("CONTAINER", ("X", "99HOS", "CONCLUSION"), item("TEXT", None, text="Normal.")),
    )
    assert read_text_sr(source) == {
        "id": "1.2.3",
        "report": "FINDINGS: Clear.\nIMPRESSION: Normal.",
        "findings": "Clear.",
        "impression": "Normal.",
    }


def test_texts_of_one_heading_are_joined_and_containers_inside_it_belong_to_it():
    source = foreign(
        item(
            "CONTAINER",
            ("59776-5", "LN", "Findings"),
            item("TEXT", ("121071", "DCM", "Finding"), text="Lungs clear.\r\n"),
            item("CONTAINER", ("80891009", "SCT", "Heart"), item("TEXT", None, text="Heart normal.")),
        )
    )
    assert read_text_sr(source)["report"] == "FINDINGS: Lungs clear.\nHeart normal."


def test_text_without_any_heading_is_the_whole_report():
    assert read_text_sr(foreign(item("TEXT", ("121071", "DCM", "Finding"), text="Clear.")))["report"] == "Clear."


def test_what_observes_and_what_modifies_is_no_text_of_the_report():
    observer = item("TEXT", ("121008", "DCM", "Person Observer Name"), text="Roe")
    observer.RelationshipType = "HAS OBS CONTEXT"
    with pytest.raises(DataError, match="no text in the structured report"):
        read_text_sr(foreign(observer))


def test_an_image_is_no_report(record):
    with pytest.raises(DataError, match="no structured report"):
        read_text_sr(film_file())


def test_a_folder_gives_its_reports_with_patients_by_salted_hash(record, maker, tmp_path):
    for number, patient in enumerate(("77", "77", "78")):
        study = StudyHeader.of_file(film_file(PatientID=patient))
        folder = tmp_path / "reports" / str(number)
        folder.mkdir(parents=True)
        # A PACS gives files without endings.
        (folder / f"IM{number}").write_bytes(document_bytes(text_sr({**record, "id": f"case {number}"}, study, maker)))
    (tmp_path / "reports" / "readme.txt").write_text("no DICOM")
    found = dict(sr_records(tmp_path / "reports"))
    assert {name: one["id"] for name, one in found.items()} == {"IM0": "case 0", "IM1": "case 1", "IM2": "case 2"}
    assert found["IM0"]["patient"] == found["IM1"]["patient"] != found["IM2"]["patient"]
    assert "77" != found["IM0"]["patient"] != ""


def test_a_damaged_file_is_named(record, study, maker, tmp_path):
    content = document_bytes(text_sr(record, study, maker))
    (tmp_path / "cut.dcm").write_bytes(content[:140])
    with pytest.raises(DataError, match=r"^cut\.dcm: "):
        dict(sr_records(tmp_path / "cut.dcm"))


def test_what_counts_as_structured_reports_its_bytes_say(record, study, maker, tmp_path):
    (tmp_path / "report").write_bytes(document_bytes(text_sr(record, study, maker)))
    (tmp_path / "report.jsonl").write_text("{}")
    assert is_sr(tmp_path)
    assert is_sr(tmp_path / "report")
    assert not is_sr(tmp_path / "report.jsonl")
    assert not is_sr(tmp_path / "missing")


def test_an_image_beside_them_is_passed_over(record, study, maker, tmp_path):
    (tmp_path / "report.dcm").write_bytes(document_bytes(text_sr(record, study, maker)))
    image = with_file_header(film_file().dataset)
    image.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    assert [name for name, _ in sr_records(tmp_path)] == ["report.dcm"]
