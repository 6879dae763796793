"""MIMIC-CXR and MIMIC-CXR-JPG: two releases that need each other, and their gaps."""

from __future__ import annotations

import struct
import zipfile

import pytest
from dataset_trees import draw_image, write_csv
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS
from chexmix_cli.core.errors import DataError

METADATA = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]
# The published order of the label tables is alphabetical, not CheXpert's.
LABELS = ["subject_id", "study_id", *sorted(CHEXPERT_FINDINGS)]
IMAGES = [
    ("02aa804e-a", "10000032", "50414267", "CHEST (PA AND LAT)", "PA", ""),
    ("174413ec-b", "10000032", "50414267", "CHEST (PA AND LAT)", "LATERAL", ""),
    ("2a2277a9-c", "10000032", "53189527", "CHEST (PA AND LAT)", "", "postero-anterior"),
    ("68b5c4b1-d", "10000764", "57375967", "CHEST (PORTABLE AP)", "", ""),
    ("096052b7-e", "10000764", "57375967", "CHEST (PA AND LAT)", "", ""),
    ("gone", "10000898", "50771383", "CHEST (PA AND LAT)", "LL", ""),
    ("unsplit", "10000898", "50771383", "CHEST (PA AND LAT)", "AP AXIAL", ""),
]
REPORTS = {
    "50414267": (
        " FINAL REPORT\n INDICATION: ___F with cough.\n\n FINDINGS:\n\n The lungs are\n clear.\n\n"
        " IMPRESSION:\n\n 1. No pneumonia.\n \n 2. ___.\n"
    ),
    "57375967": " FINAL REPORT\n HISTORY: Fall.\n\n COMPARISON: None.\n\n No fracture. The heart is\n large.\n",
}


def folder(subject, study):
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def write_tables(root, *, suffix=".csv.gz"):
    write_csv(
        root / f"mimic-cxr-2.0.0-metadata{suffix}",
        METADATA,
        [
            dict(zip(METADATA[:5], image[:5], strict=True)) | {"ViewCodeSequence_CodeMeaning": image[5]}
            for image in IMAGES
        ],
    )
    splits = {"10000032": "train", "10000764": "validate", "10000898": "test"}
    write_csv(
        root / f"mimic-cxr-2.0.0-split{suffix}",
        ["dicom_id", "study_id", "subject_id", "split"],
        [(name, study, subject, splits[subject]) for name, subject, study, *_ in IMAGES if name != "unsplit"],
    )
    for labeller, edema in (("chexpert", "-1.0"), ("negbio", "1.0")):
        write_csv(
            root / f"mimic-cxr-2.0.0-{labeller}{suffix}",
            LABELS,
            [
                {
                    "subject_id": "10000032",
                    "study_id": "50414267",
                    "No Finding": "1.0",
                    "Edema": edema,
                    "Fracture": "0.0",
                },
                {"subject_id": "10000898", "study_id": "50771383", "Edema": "0.7"},
            ],
        )


@pytest.fixture
def jpg(tmp_path):
    """MIMIC-CXR-JPG: a folder of version 2.1.0 whose tables are called 2.0.0."""
    root = tmp_path / "mimic-cxr-jpg" / "2.1.0"
    write_tables(root)
    for number, (name, subject, study, *_) in enumerate(IMAGES):
        if name != "gone":
            draw_image(root / folder(subject, study) / f"{name}.jpg", number)
    return root


@pytest.fixture
def texts(tmp_path):
    """The reports of MIMIC-CXR, elsewhere."""
    root = tmp_path / "mimic-cxr" / "2.1.0"
    for study, text in REPORTS.items():
        subject = next(image[1] for image in IMAGES if image[2] == study)
        path = root / f"{folder(subject, study)}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return root


def test_images_join_their_tables(jpg, do_import):
    found = do_import("mimic-cxr-jpg", jpg)
    assert found.order == ["02aa804e-a", "174413ec-b", "2a2277a9-c", "68b5c4b1-d", "096052b7-e"]
    first = found["02aa804e-a"]
    assert (first.study, first.patient, first.view, first.split) == ("s50414267", "p10000032", "PA", "train")
    assert first.file == jpg / "files/p10/p10000032/s50414267/02aa804e-a.jpg"
    assert [found[name].split for name in found.order] == ["train"] * 3 + ["val"] * 2
    assert found.summary["split_sources"] == {"dataset": 5}


def test_sex_and_age_come_from_mimic_ivs_patients_where_they_lie_beside_the_tables(jpg, do_import):
    assert {(row.sex, row.age) for row in do_import("mimic-cxr-jpg", jpg).rows.values()} == {(None, None)}
    table = jpg / "mimic-cxr-2.0.0-metadata.csv.gz"
    dated = [
        dict(zip(METADATA[:5], image[:5], strict=True)) | {"StudyDate": "21800506" if image[1] == "10000032" else ""}
        for image in IMAGES
    ]
    write_csv(table, METADATA, dated)
    write_csv(
        jpg / "patients.csv.gz",
        ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"],
        [("10000032", "F", "52", "2178", "2014 - 2016", ""), ("10000764", "M", "86", "2132", "2014 - 2016", "")],
    )
    found = do_import("mimic-cxr-jpg", jpg)
    assert (found["02aa804e-a"].sex, found["02aa804e-a"].age) == ("F", 54)
    # Without the date of the study it is not known how old he was.
    assert (found["68b5c4b1-d"].sex, found["68b5c4b1-d"].age) == ("M", None)
    assert {row.source for row in found.rows.values()} == {"mimic-cxr-jpg"}


def test_a_missing_view_is_filled_in_from_the_images_own_codes_and_said(jpg, do_import):
    found = do_import("mimic-cxr-jpg", jpg)
    assert {name: (found[name].view, found[name].notes.get("view_source")) for name in found.order} == {
        "02aa804e-a": ("PA", "ViewPosition"),
        "174413ec-b": ("LATERAL", "ViewPosition"),
        "2a2277a9-c": ("PA", "ViewCodeSequence_CodeMeaning"),
        "68b5c4b1-d": ("AP", "PerformedProcedureStepDescription"),
        # "CHEST (PA AND LAT)" is the name of an examination: AP films bear it, too.
        "096052b7-e": (None, None),
    }


def test_labels_are_by_study_in_chexperts_order_and_blank_is_not_zero(jpg, do_import):
    found = do_import("mimic-cxr-jpg", jpg)
    labels = found["174413ec-b"].labels
    assert tuple(labels) == CHEXPERT_FINDINGS
    assert {name: value for name, value in labels.items() if value is not None} == {
        "No Finding": 1, "Edema": -1, "Fracture": 0,
    }  # fmt: skip
    assert found["2a2277a9-c"].labels == {}
    assert found.summary["label_sources"] == {"mimic-cxr-2.0.0-chexpert.csv.gz": 2, "none": 3}
    assert do_import("mimic-cxr-jpg", jpg, {"labels": "negbio"})["02aa804e-a"].labels["Edema"] == 1
    assert do_import("mimic-cxr-jpg", jpg, {"labels": "none"})["02aa804e-a"].labels == {}


def test_what_gives_no_row_has_a_reason(jpg, do_import):
    rejected = do_import("mimic-cxr-jpg", jpg, {"labels": "none"}).rejected
    assert {name: item.code for name, item in rejected.items()} == {"gone": "NOT_FOUND"}
    found = do_import("mimic-cxr-jpg", jpg)
    assert {name: item.code for name, item in found.rejected.items()} == {"gone": "BAD_RECORD", "unsplit": "BAD_RECORD"}
    assert "label 'Edema' is '0.7'" in found.rejected["unsplit"].message
    assert found.summary["rejected"] == {"BAD_RECORD": {"count": 2, "examples": ["gone", "unsplit"]}}


def test_an_image_that_the_published_split_leaves_out_is_not_drawn_into_it(jpg, do_import):
    settings = {"labels": "none"}
    assert do_import("mimic-cxr-jpg", jpg, settings)["unsplit"].split is None
    drawn = do_import("mimic-cxr-jpg", jpg, {**settings, "split": {"source": "hash"}})
    assert drawn["unsplit"].split is not None
    assert drawn.summary["split_sources"] == {"hash": 6}
    (jpg / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    assert do_import("mimic-cxr-jpg", jpg, settings).summary["split_sources"] == {"hash": 6}


def write_zip(texts, tmp_path, prefix):
    path = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}LICENSE.txt", "...")
        for file in texts.rglob("*.txt"):
            archive.write(file, prefix + str(file.relative_to(texts / "files")))
    return path


@pytest.mark.parametrize("form", ["files", "parent of files", "zip", "zip without files/", "folder with zip"])
def test_reports_come_from_the_other_release_in_any_form(jpg, texts, tmp_path, do_import, form):
    place = {"files": texts, "parent of files": texts / "files"}.get(form)
    if place is None:
        place = write_zip(texts, tmp_path, "" if form == "zip without files/" else "files/")
        place = place.parent if form == "folder with zip" else place
    found = do_import("mimic-cxr-jpg", jpg, {"reports": str(place)})
    row = found["02aa804e-a"]
    assert row.findings == "The lungs are clear."
    assert row.impression == "1. No pneumonia.\n2. ___."
    assert row.notes["findings_source"] == "report/findings"
    assert found["2a2277a9-c"].report is None
    assert found.summary["without_report"] == 1


def test_the_last_paragraph_stands_in_for_missing_headings_and_says_so(jpg, texts, do_import):
    row = do_import("mimic-cxr-jpg", jpg, {"reports": str(texts)})["68b5c4b1-d"]
    assert row.findings == "No fracture. The heart is large."
    assert row.notes["findings_source"] == "report/last_paragraph"
    row = do_import("mimic-cxr-jpg", jpg, {"reports": str(texts), "fallback": "none"})["68b5c4b1-d"]
    assert row.report is None


def test_reports_come_from_the_table_of_sections(jpg, tmp_path, do_import):
    path = write_csv(
        tmp_path / "sections" / "mimic_cxr_sectioned.csv",
        ["study", "impression", "findings", "last_paragraph", "comparison"],
        [
            ("s50414267", "Normal.", "The lungs are\n clear.", "", ""),
            ("s53189527", "nan", "None", "nan", ""),
            ("s57375967", "", "", "No fracture.", "None."),
        ],
    )
    for place in (path, path.parent):
        found = do_import("mimic-cxr-jpg", jpg, {"reports": str(place)})
        row = found["02aa804e-a"]
        assert (row.findings, row.impression) == ("The lungs are clear.", "Normal.")
        assert row.notes["impression_source"] == "sectioned/impression"
        # pandas writes "nan", and a cell that says None is no report.
        assert found["2a2277a9-c"].report is None
        assert found["68b5c4b1-d"].notes["findings_source"] == "sectioned/last_paragraph"
    assert do_import("mimic-cxr-jpg", jpg, {"reports": str(path), "fallback": "none"})["68b5c4b1-d"].report is None


def test_a_report_that_cannot_be_read_is_no_empty_report(jpg, texts, do_import):
    next(texts.rglob("s50414267.txt")).write_bytes(b"FINDINGS: \xff\xfe")
    next(texts.rglob("s57375967.txt")).write_bytes(b"x" * ((1 << 20) + 1))
    rejected = do_import("mimic-cxr-jpg", jpg, {"reports": str(texts), "labels": "none"}).rejected
    assert rejected["02aa804e-a"].code == "CORRUPT"
    assert rejected["68b5c4b1-d"].code == "TOO_LARGE"


def test_an_archive_that_cannot_be_read_is_said(jpg, texts, tmp_path, do_import):
    path = write_zip(texts, tmp_path, "files/")
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    one_of_two = whole[:end] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + whole[end:]
    for content in (one_of_two, whole[: end - 10] + whole[end:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="the archive cannot be read") as caught:
            do_import("mimic-cxr-jpg", jpg, {"reports": str(path)})
        assert caught.value.reason == "CORRUPT"


@pytest.fixture
def dicom(tmp_path):
    """MIMIC-CXR: DICOM files with headers of their own, a list of them, and no metadata."""
    root = tmp_path / "mimic-cxr-dicom"
    rows = []
    for name, subject, study, *_ in IMAGES[:3]:
        path = root / folder(subject, study) / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, "AP" if name == "02aa804e-a" else "")
        rows.append((subject, study, name, str(path.relative_to(root))))
    write_csv(root / "cxr-record-list.csv.gz", ["subject_id", "study_id", "dicom_id", "path"], rows)
    return root


def write_dicom(path, view):
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.Modality = "DX"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = view
    dataset.PatientName = "Planted^Name"
    dataset.Rows = dataset.Columns = 32
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(range(256)) * 8
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(path, enforce_file_format=True)


def test_without_metadata_the_views_are_those_of_the_dicom_headers(dicom, do_import):
    found = do_import("mimic-cxr", dicom)
    assert [(found[name].view, found[name].notes.get("view_source")) for name in found.order] == [
        ("AP", "DICOM header"), (None, None), (None, None),
    ]  # fmt: skip
    assert found["02aa804e-a"].file.suffix == ".dcm"
    assert found["02aa804e-a"].patient == "p10000032"


def test_the_tables_of_the_jpg_release_serve_the_dicom_release(dicom, jpg, do_import):
    found = do_import("mimic-cxr", dicom, {"tables": str(jpg)})
    assert found.order == [image[0] for image in IMAGES[:3]]
    assert found["02aa804e-a"].view == "PA"
    assert found["02aa804e-a"].split == "train"
    assert {item.code for item in found.rejected.values()} == {"NOT_FOUND", "BAD_RECORD"}


def test_images_may_be_elsewhere_or_without_their_folder_of_files(jpg, tmp_path, do_import):
    (jpg / "files").rename(tmp_path / "images")
    found = do_import("mimic-cxr-jpg", jpg, {"images": str(tmp_path / "images")})
    assert len(found.rows) == 5
    with pytest.raises(DataError, match=r"none of the 7 images .*\(BAD_RECORD: 2, NOT_FOUND: 5\); expected files such"):
        do_import("mimic-cxr-jpg", jpg)


@pytest.mark.parametrize("row", [("x", "10/../..", "50414267"), ("x", "", "50414267"), ("", "10000032", "50414267")])
def test_ids_that_are_no_numbers_are_refused(jpg, do_import, row):
    with (jpg / "mimic-cxr-2.0.0-split.csv").open("w") as stream:
        stream.write("dicom_id,split\n")
    (jpg / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    (jpg / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    name, subject, study, *_ = IMAGES[0]
    write_csv(jpg / "mimic-cxr-2.0.0-metadata.csv", METADATA, [(name, subject, study, *[""] * 9), (*row, *[""] * 9)])
    (rejected,) = do_import("mimic-cxr-jpg", jpg).rejected.values()
    assert rejected.code == "BAD_RECORD"
    assert "no number" in rejected.message


def test_a_missing_or_ambiguous_table_is_an_error(jpg, tmp_path, do_import):
    with pytest.raises(DataError, match=r"no list of the images is here; expected mimic-cxr-2.0.0-metadata.csv.gz"):
        do_import("mimic-cxr-jpg", tmp_path)
    with pytest.raises(DataError, match="or cxr-record-list"):
        do_import("mimic-cxr", tmp_path)
    write_tables(jpg, suffix=".csv")
    assert len(do_import("mimic-cxr-jpg", jpg).rows) == 5  # a table and its gzipped twin are one
    (jpg / "mimic-cxr-2.1.0-metadata.csv").write_text("dicom_id,subject_id,study_id\n")
    with pytest.raises(DataError, match="several files fit: mimic-cxr-2.0.0-metadata.csv, .*2.1.0-metadata.csv"):
        do_import("mimic-cxr-jpg", jpg)


def test_no_name_of_a_header_reaches_a_row(dicom, do_import, caplog):
    found = do_import("mimic-cxr", dicom)
    assert "Planted" not in f"{found.rows}{found.summary}{caplog.text}"
