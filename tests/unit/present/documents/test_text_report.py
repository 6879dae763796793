"""Basic Text SR: its attributes one by one, its content tree, back to text, under DCMTK and dicom3tools."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from pathlib import Path

import pydicom
import pytest
from document_parts import FINDINGS, IMPRESSION, MAKER, RECORD, film_file, written
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset

from chexmix_cli.core.data.dicom.file import parse_header, parse_whole
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents import text_report
from chexmix_cli.core.present.documents.header import Maker, StudyHeader, document_bytes
from chexmix_cli.core.present.documents.read import read_text_sr, report_texts
from chexmix_cli.core.present.documents.text_report import text_sr
from chexmix_cli.core.text.sections import split_sections


def read_back(dataset: Dataset) -> dict:
    return read_text_sr(parse_whole(document_bytes(dataset), 1 << 20))


def tree(item: Dataset) -> list[tuple[str, str, str]]:
    """Return relationship, kind and name of every item below one, depth first."""
    found = []
    for child in item.get("ContentSequence", []):
        found.append((child.RelationshipType, child.ValueType, child.ConceptNameCodeSequence[0].CodeMeaning))
        found += tree(child)
    return found


def test_it_is_a_draft_of_our_device(record, study, maker):
    found = written(text_sr(record, study, maker))
    assert found.SOPClassUID == found.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID
    assert (found.Modality, found.CompletionFlag) == ("SR", "COMPLETE")
    assert (found.VerificationFlag, found.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert (found.Manufacturer, found.ManufacturerModelName) == ("chexmix", "chexmix-mini")
    assert (found.DeviceSerialNumber, found.DeviceUID) == (maker.weights_hash, maker.device_uid)
    assert all(
        pydicom.uid.UID(uid).is_valid for uid in (found.SOPInstanceUID, found.SeriesInstanceUID, found.DeviceUID)
    )


def test_a_report_that_was_cut_is_partial(record, study, maker):
    assert text_sr({**record, "finish": "length"}, study, maker).CompletionFlag == "PARTIAL"


def test_the_content_tree_is_that_of_the_template(record, study, maker):
    found = written(text_sr(record, study, maker))
    assert found.ConceptNameCodeSequence[0].CodeValue == "43468-8"
    assert found.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    assert tree(found) == [
        ("HAS CONCEPT MOD", "CODE", "Acquisition Device Type"),
        ("HAS CONCEPT MOD", "CODE", "Target Region"),
        ("HAS CONCEPT MOD", "CODE", "Language of Content Item and Descendants"),
        ("HAS OBS CONTEXT", "CODE", "Observer Type"),
        ("HAS OBS CONTEXT", "UIDREF", "Device Observer UID"),
        ("HAS OBS CONTEXT", "TEXT", "Device Observer Name"),
        ("HAS OBS CONTEXT", "TEXT", "Device Observer Manufacturer"),
        ("HAS OBS CONTEXT", "TEXT", "Device Observer Model Name"),
        ("HAS OBS CONTEXT", "TEXT", "Device Observer Serial Number"),
        ("CONTAINS", "CONTAINER", "Findings"),
        ("CONTAINS", "TEXT", "Finding"),
        ("INFERRED FROM", "IMAGE", "Source of Measurement"),
        ("CONTAINS", "CONTAINER", "Impressions"),
        ("CONTAINS", "TEXT", "Impression"),
        ("INFERRED FROM", "IMAGE", "Source of Measurement"),
        ("CONTAINS", "CONTAINER", "Comment"),
        ("CONTAINS", "TEXT", "Comment"),
    ]
    (comment,) = found.ContentSequence[-1].ContentSequence
    assert "not for clinical use" in comment.TextValue


def test_codes_are_those_of_the_standard():
    """Against the concepts that pydicom takes from PS3.16 itself."""
    from pydicom.sr._concepts_dict import concepts

    known = {
        (scheme, value, meaning): groups
        for scheme, names in concepts.items()
        for found in names.values()
        for value, (meaning, groups) in found.items()
    }
    for heading, name in text_report.SECTIONS.values():
        assert 7001 in known[(heading[1], heading[0], heading[2])]
        assert 7002 in known[(name[1], name[0], name[2])]
    title, chest = text_report.TITLE, text_report._CHEST
    assert 7000 in known[(title[1], title[0], title[2])]
    assert (chest[1], chest[0], chest[2]) in known
    assert ("DCM", "121106", "Comment") in known


def test_the_text_comes_back_as_it_was(record, study, maker):
    found = read_back(text_sr(record, study, maker))
    assert found == {"id": "case 1", "report": record["report"], "findings": FINDINGS, "impression": IMPRESSION}


@pytest.mark.parametrize(
    "report",
    [
        "No heading at all, two lines.\nClear lungs.",
        "Preamble.\nINDICATION: Cough\nTECHNIQUE: PA\nCOMPARISON: None\nFINDINGS: Clear.\nIMPRESSION: Normal.\n"
        "RECOMMENDATION: None.\nNOTIFICATION: Dr. Roe\nADDENDUM: Later\nWET_READ: x".replace("WET_READ", "WET READ"),
        "FINDINGS: a\nIMPRESSION: b\nFINDINGS: c",
    ],
)
def test_any_sections_come_back(report, record, study, maker):
    found = read_back(text_sr({**record, "report": report}, study, maker))
    assert found["report"].replace("WET_READ", "WET READ") == report


def test_another_programmes_report_is_named_by_its_study(record, study, maker):
    dataset = text_sr(record, study, maker)
    del dataset[0x0041, 0x0010], dataset[0x0041, 0x1001]
    assert read_back(dataset)["id"] == "1.2.3"


def test_control_characters_do_not_reach_the_file(record, study, maker):
    found = read_back(text_sr({**record, "report": "FINDINGS: a\x00b\x1bc\x85d\te\rf"}, study, maker))
    assert found["findings"] == "a\ufffdb\ufffdc\ufffdd\te\nf"


@pytest.mark.parametrize(("report", "what"), [(None, "no report"), ("", "empty"), ("FINDINGS:\n", "empty")])
def test_there_is_no_document_without_text(report, what, record, study, maker):
    with pytest.raises(DataError, match=what):
        text_sr({**record, "report": report}, study, maker)


def test_same_input_same_bytes_and_other_input_other_uids(record, study, maker):
    first = document_bytes(text_sr(record, study, maker))
    assert document_bytes(text_sr(dict(record), StudyHeader.of_file(film_file()), maker)) == first
    uid = text_sr(record, study, maker).SOPInstanceUID
    others = [
        text_sr({**record, "report": "Clear."}, study, maker),
        text_sr({**record, "id": "case 2"}, study, maker),
        text_sr(record, StudyHeader.of_file(film_file(PatientID="78")), maker),
        text_sr(record, study, Maker(model="chexmix-mini", weights_hash="cd" * 32)),
        text_sr(record, study, Maker(model="chexmix-mini", weights_hash="ab" * 32, at=datetime(2026, 1, 2, 3, 4, 5))),
    ]
    assert len({uid, *(other.SOPInstanceUID for other in others)}) == 6


@pytest.mark.parametrize(
    ("values", "date", "time", "said"),
    [
        ({}, "20240102", "030405", "the study"),
        (
            {"StudyDate": None, "AcquisitionDate": "20240101", "AcquisitionTime": "101112.5"},
            "20240101",
            "101112.5",
            "study",
        ),
        ({"StudyDate": "20241301"}, "19000101", "000000", "undated"),
        ({"StudyDate": None}, "19000101", "000000", "undated"),
    ],
)
def test_the_content_is_dated_as_its_study(values, date, time, said, record, maker):
    dataset = text_sr(record, StudyHeader.of_file(film_file(**values)), maker)
    assert (dataset.ContentDate, dataset.ContentTime) == (date, time)
    assert said in dataset.CompletionFlagDescription


def test_or_as_the_work_was_done(record, study):
    dataset = text_sr(record, study, Maker(model="m", weights_hash="a", at=datetime(2026, 11, 29, 10, 20, 30, 5)))
    assert (dataset.ContentDate, dataset.ContentTime) == ("20261129", "102030.000005")
    assert dataset.CompletionFlagDescription.endswith("the work")


def test_patient_and_study_are_the_films_in_utf_8(record, maker):
    found = written(text_sr(record, StudyHeader.of_file(film_file()), maker))
    assert (found.SpecificCharacterSet, found.PatientName) == ("ISO_IR 192", "Müller^Zoë")
    assert (found.PatientID, found.AccessionNumber, found.StudyInstanceUID) == ("77", "A1", "1.2.3")
    assert "Zoë".encode() in document_bytes(text_sr(record, StudyHeader.of_file(film_file()), maker))


def test_procedure_codes_keep_their_words_in_any_character_set(record, maker):
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "X1", "99HOS", "Thorax für Zoë"
    found = written(text_sr(record, StudyHeader.of_file(film_file(ProcedureCodeSequence=[procedure])), maker))
    assert found.ProcedureCodeSequence[0].CodeMeaning == "Thorax für Zoë"
    assert found.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning == "Procedure reported"
    assert found.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Thorax für Zoë"


def test_values_that_break_the_rules_of_their_kind_are_left_out(record, maker):
    film = film_file(PatientAge="62", PatientSex="female", PatientBirthDate="unknown", StudyTime="99")
    found = written(text_sr(record, StudyHeader.of_file(film), maker))
    assert "PatientAge" not in found
    assert (found.PatientSex, found.PatientBirthDate, found.StudyTime) == ("", "", "")


def test_a_de_identified_file_states_how_even_if_its_source_does_not(record, maker):
    bare = film_file(PatientIdentityRemoved="YES")
    assert StudyHeader.of_file(bare).elements.DeidentificationMethod == "not stated in the source"
    many = film_file(PatientIdentityRemoved="YES", DeidentificationMethod=["one", "two"])
    assert StudyHeader.of_file(many).elements.DeidentificationMethod == ["one", "two"]
    assert "DeidentificationMethod" not in StudyHeader.of_file(film_file()).elements


def test_codes_that_mean_nothing_are_left_out(record, study, maker):
    part = Dataset()
    part.CodeMeaning = "Thorax"
    film = film_file(ProcedureCodeSequence=[part], IssuerOfAccessionNumberSequence=[Dataset()])
    assert text_sr(record, StudyHeader.of_file(film), maker) == text_sr(record, study, maker)


def test_values_against_the_rules_raise_no_warning_that_would_show_them(record, maker, caplog):
    film = film_file(StudyInstanceUID="not-a-uid-77", SeriesInstanceUID="x", PatientID="7" * 90)
    found = text_sr(record, StudyHeader.of_file(film), maker)
    document_bytes(found)
    assert (found.StudyInstanceUID, found.PatientID) == ("not-a-uid-77", "7" * 90)
    assert not caplog.text


@pytest.mark.parametrize("path", get_charset_files("chr*"), ids=lambda path: Path(path).stem)
def test_names_come_through_from_every_character_set(path, record, maker):
    source = pydicom.dcmread(path)
    source.decode()
    if "StudyInstanceUID" not in source:
        source.StudyInstanceUID = "1.2.3"
    with Path(path).open("rb") as stream:
        header = parse_header(stream, 1 << 20)
    header.dataset.StudyInstanceUID = source.StudyInstanceUID
    found = written(text_sr(record, StudyHeader.of_file(header), maker))
    assert str(found.PatientName) == str(source.get("PatientName", "")).strip()
    assert found.SpecificCharacterSet == "ISO_IR 192"


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_comes_back_but_for_what_dicom_cannot_hold(text):
    report = f"FINDINGS: {text}\nIMPRESSION: {text[::-1]}"
    clean = report.replace("\r\n", "\n").replace("\r", "\n").translate(text_report._CONTROLS)
    expected = [(name, text) for name, text in split_sections(clean) if text]
    try:
        dataset = text_sr({**RECORD, "report": clean}, StudyHeader.fresh(b"film"), MAKER)
    except DataError:
        assert not expected
        return
    joined = groupby(expected, key=lambda one: one[0])
    found = report_texts(parse_whole(document_bytes(dataset), 1 << 20))
    assert found == [(name, "\n".join(text for _, text in texts)) for name, texts in joined]


def test_a_file_without_a_study_gives_no_document():
    with pytest.raises(DataError, match="names no study"):
        StudyHeader.of_file(film_file(StudyInstanceUID=None))
