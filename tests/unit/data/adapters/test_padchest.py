"""PadChest: a gzipped table, Python lists in cells, 16-bit PNG, Spanish."""

from __future__ import annotations

import pytest
from dataset_trees import draw_image, write_csv
from PIL import Image

COLUMNS = [
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Pediatric",
    "ReportID",
    "Report",
    "MethodLabel",
    "Labels",
    "Localizations",
    "LabelsLocalizationsBySentence",
]
RESNET = "ResNet-50 based classification"
ROWS = [
    (
        "1_a.png",
        "0",
        "S1",
        "P1",
        "POSTEROANTERIOR",
        "PA",
        "Manual review of DICOM fields",
        "torax normal .",
        "['normal']",
    ),
    ("1_b.png", "0", "S1", "P1", "LATERAL", "L", RESNET, "torax normal .", "['pneumonia', ' pleural effusion', '']"),
    ("2_c.png", "54", "S2", "P2", "", "AP_horizontal", RESNET, "nan", "[]"),
    ("2_d.png", "54", "S2", "P2", "ANTEROPOSTERIOR", "UNK", RESNET, "", ""),
    ("3_e.png", "0", "S3", "P3", "", "COSTAL", RESNET, "sin cambi", "['exclude']"),
    ("3_f.png", "0", "S3", "P3", "", "EXCLUDE", RESNET, "sin cambi", "pneumonia"),
    ("gone.png", "0", "S3", "P3", "", "PA", RESNET, "sin cambi", "['normal']"),
]


@pytest.fixture
def root(tmp_path):
    write_csv(
        tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        COLUMNS,
        [
            {
                "": number,
                "ImageID": name,
                "ImageDir": folder,
                "StudyID": study,
                "PatientID": patient,
                "PatientBirth": 1950.0,
                "ViewPosition_DICOM": position,
                "Projection": projection,
                "MethodProjection": method,
                "Report": report,
                "MethodLabel": "Physician",
                "Labels": labels,
            }
            for number, (name, folder, study, patient, position, projection, method, report, labels) in enumerate(ROWS)
        ],
    )
    for number, (name, folder, *_) in enumerate(ROWS):
        if name != "gone.png":
            draw_image(tmp_path / folder / name, number, bits=16)
    return tmp_path


def test_rows_views_and_how_they_came_about(root, do_import):
    found = do_import("padchest", root)
    assert {name: (found[name].view, found[name].notes.get("view_source")) for name in found.order} == {
        "1_a": ("PA", "Projection"),
        "1_b": ("LATERAL", "Projection"),
        "2_c": ("AP", "Projection"),
        "2_d": ("AP", "ViewPosition_DICOM"),
        "3_e": ("OTHER", "Projection"),
    }
    assert found["1_b"].notes["view_method"] == RESNET
    assert "view_method" not in found["2_d"].notes
    assert (found["1_a"].study, found["1_a"].patient) == ("S1", "P1")
    assert {name: item.code for name, item in found.rejected.items()} == {"gone": "NOT_FOUND", "3_f.png": "BAD_RECORD"}
    with Image.open(found["1_a"].file) as image:
        assert image.mode == "I;16"


def test_the_report_is_kept_and_marked(root, do_import):
    found = do_import("padchest", root)
    assert found["1_a"].findings == "torax normal ."
    assert found["1_a"].notes["language"] == "es, stemmed"
    assert found["2_c"].report is None
    assert "language" not in found["2_c"].notes


def test_a_list_says_what_is_there_and_nothing_else(root, do_import):
    found = do_import("padchest", root)
    assert found["1_b"].labels == {"pneumonia": 1, "pleural effusion": 1}
    assert found["1_b"].notes["label_method"] == "Physician"
    found = do_import("padchest", root, {"absent_is_zero": ["pneumonia", "cardiomegaly"]})
    assert found["1_b"].labels == {"pneumonia": 1, "pleural effusion": 1, "cardiomegaly": 0}
    assert found["1_a"].labels == {"normal": 1, "pneumonia": 0, "cardiomegaly": 0}
    # An empty cell or list states nothing, so it states no absence either.
    assert found["2_c"].labels == found["2_d"].labels == {}


def test_without_a_published_split_patients_are_drawn_as_wholes(root, do_import):
    found = do_import("padchest", root)
    assert found.summary["split_sources"] == {"hash": 5}
    assert found["1_a"].split == found["1_b"].split
    everything = do_import("padchest", root, {"split": {"val": 0.0, "test": 1.0}})
    assert {row.split for row in everything.rows.values()} == {"test"}


def test_all_images_in_one_folder(root, do_import):
    for path in list(root.glob("*/*.png")):
        path.rename(root / path.name)
    assert len(do_import("padchest", root).rows) == 5
