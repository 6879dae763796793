"""CheXpert in its three unpackings, and CheXpert Plus."""

from __future__ import annotations

import json

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS
from chexmix_cli.core.errors import DataError

COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
PATIENTS = {
    "train/patient00001/study1/view1_frontal.jpg": ("Frontal", "AP", {"No Finding": "1.0", "Support Devices": "1.0"}),
    "train/patient00002/study2/view1_frontal.jpg": ("Frontal", "PA", {"Edema": "-1.0", "Fracture": "0.0"}),
    "train/patient00002/study2/view2_lateral.jpg": ("Lateral", "", {"Edema": "-1.0"}),
    "train/patient00003/study1/view1_frontal.jpg": ("Frontal", "LL", {}),
    "train/patient00004/study1/view1_frontal.jpg": ("Frontal", "", {"Pneumonia": "2"}),
    "train/patient00005/study1/view1_frontal.jpg": ("Frontal", "AP", {}),
}


def rows(prefix, paths=PATIENTS):
    for path, (side, direction, labels) in paths.items():
        yield {"Path": prefix + path, "Sex": "F", "Age": 68, "Frontal/Lateral": side, "AP/PA": direction} | labels


@pytest.fixture
def small(tmp_path):
    """CheXpert-v1.0-small as it is unpacked."""
    folder = tmp_path / "CheXpert-v1.0-small"
    write_csv(folder / "train.csv", COLUMNS, rows("CheXpert-v1.0-small/"))
    valid = {"valid/patient64541/study1/view1_frontal.jpg": ("Frontal", "AP", {"Edema": "1.0"})}
    write_csv(folder / "valid.csv", COLUMNS, rows("CheXpert-v1.0-small/", valid))
    for number, path in enumerate([*PATIENTS, *valid]):
        if "patient00005" not in path:
            draw_image(folder / path, number)
    return folder


IDS = [
    "train/patient00001/study1/view1_frontal",
    "train/patient00002/study2/view1_frontal",
    "train/patient00002/study2/view2_lateral",
    "train/patient00003/study1/view1_frontal",
    "valid/patient64541/study1/view1_frontal",
]


def test_the_small_release_by_its_folder_or_the_one_above(small, do_import):
    for root in (small, small.parent):
        found = do_import("chexpert", root)
        assert found.order == IDS
        assert found[IDS[0]].file == small / "train/patient00001/study1/view1_frontal.jpg"
        assert [found[name].split for name in IDS] == ["train"] * 4 + ["val"]
        assert found[IDS[1]].patient == "patient00002"
        assert found[IDS[1]].study == found[IDS[2]].study == "patient00002/study2"


def test_labels_keep_uncertain_and_blank_apart(small, do_import):
    found = do_import("chexpert", small)
    labels = found[IDS[1]].labels
    assert tuple(labels) == CHEXPERT_FINDINGS
    assert (labels["Edema"], labels["Fracture"], labels["Pneumonia"]) == (-1, 0, None)
    assert set(found[IDS[3]].labels.values()) == {None}


def test_views_and_their_contradictions(small, do_import):
    found = do_import("chexpert", small)
    assert [(found[name].view, found[name].notes.get("view_source")) for name in IDS] == [
        ("AP", "AP/PA"),
        ("PA", "AP/PA"),
        ("LATERAL", "Frontal/Lateral"),
        (None, None),  # frontal, but LL: one of the columns is wrong
        ("AP", "AP/PA"),
    ]


def test_a_bad_label_and_a_missing_image_are_counted(small, do_import):
    found = do_import("chexpert", small)
    assert found.summary["rejected"] == {
        "BAD_RECORD": {"count": 1, "examples": ["CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg"]},
        "NOT_FOUND": {"count": 1, "examples": ["train/patient00005/study1/view1_frontal"]},
    }
    (bad,) = (item for item in found.rejected.values() if item.code == "BAD_RECORD")
    assert bad.message == "train.csv:6: label 'Pneumonia' is '2'; expected 1, 0, -1 or blank"


def test_the_full_release_unpacks_into_batches(tmp_path, do_import):
    """The tables say CheXpert-v1.0/train/...; the folders are called after batches and have no train/ in them."""
    first, second = "CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0 batch 2 (train 1)"
    write_csv(tmp_path / first / "train.csv", COLUMNS, rows("CheXpert-v1.0/"))
    valid = {"valid/patient64541/study1/view1_frontal.jpg": ("Frontal", "AP", {})}
    write_csv(tmp_path / first / "valid.csv", COLUMNS, rows("CheXpert-v1.0/", valid))
    draw_image(tmp_path / first / next(iter(valid)))
    draw_image(tmp_path / second / "patient00001/study1/view1_frontal.jpg")
    found = do_import("chexpert", tmp_path)
    assert found.order == [IDS[0], IDS[4]]
    assert found[IDS[0]].file == tmp_path / second / "patient00001/study1/view1_frontal.jpg"


def test_the_published_test_labels_have_fewer_columns(small, do_import):
    path = "test/patient64741/study1/view1_frontal.jpg"
    write_csv(
        small / "groundtruth.csv", ["Path", *CHEXPERT_FINDINGS], [{"Path": f"CheXpert-v1.0/{path}", "Edema": "0"}]
    )
    draw_image(small / path)
    row = do_import("chexpert", small)["test/patient64741/study1/view1_frontal"]
    assert (row.split, row.labels["Edema"], row.view) == ("test", 0, "FRONTAL")
    assert row.notes["view_source"] == "file name"


def test_what_is_no_chexpert_is_an_error(tmp_path, do_import):
    with pytest.raises(DataError, match=r"neither train.csv nor valid.csv is here"):
        do_import("chexpert", tmp_path)
    with pytest.raises(DataError, match=r"cannot be listed \(No such file"):
        do_import("chexpert", tmp_path / "nowhere")
    write_csv(tmp_path / "train.csv", ["path", "label"], [("a.png", 1)])
    with pytest.raises(DataError, match=r"train.csv: no column of a CheXpert finding"):
        do_import("chexpert", tmp_path)
    write_csv(tmp_path / "train.csv", ["path", "Edema"], [("a.png", 1)])
    with pytest.raises(DataError, match=r"train.csv: no column 'Path' \(it has: path, Edema\); expected Path"):
        do_import("chexpert", tmp_path)
    write_csv(tmp_path / "train.csv", ["Path", "Edema"], [("a.png", 1)])
    with pytest.raises(DataError, match=r"no row can be used, the first: .* \(BAD_RECORD: 1\)"):
        do_import("chexpert", tmp_path)


PLUS = [
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_findings",
    "section_impression",
    "age",
    "sex",
    "race",
    "split",
]


@pytest.fixture
def plus(tmp_path):
    """CheXpert Plus: the table says .jpg, the images are .png (one of them only .dcm)."""
    a, b, c = (
        f"{part}/view1_frontal" for part in ("train/patient1/study1", "train/patient2/study3", "valid/patient3/study1")
    )
    report = "NARRATIVE:\nRadiograph.\n\nFINDINGS: Clear lungs.\n\nIMPRESSION:\n1. Normal."
    write_csv(
        tmp_path / "df_chexpert_plus_240401.csv",
        PLUS,
        [
            {
                "path_to_image": f"{a}.jpg",
                "frontal_lateral": "Frontal",
                "ap_pa": "AP",
                "deid_patient_id": "patient1",
                "section_findings": "\nSmall\neffusion.",
                "section_impression": "1. Effusion.",
                "split": "train",
            },
            {"path_to_image": f"{b}.jpg", "frontal_lateral": "Frontal", "report": report, "section_findings": "nan"},
            {"path_to_image": f"{c}.jpg", "path_to_dcm": f"{c}.dcm", "frontal_lateral": "Lateral", "split": "valid"},
        ],
    )
    draw_image(tmp_path / "PNG" / f"{a}.png", 1)
    draw_image(tmp_path / "PNG" / "PNG" / f"{b}.png", 2)
    (tmp_path / "DICOM" / c).parent.mkdir(parents=True)
    (tmp_path / "DICOM" / f"{c}.dcm").write_bytes(b"not read here")
    for part, edema in (("report", -1.0), ("findings", 1.0), ("impression", None)):
        path = tmp_path / "chexbert_labels" / f"{part}_fixed.json"
        path.parent.mkdir(exist_ok=True)
        lines = [
            {"path_to_image": f"{a}.jpg", "Edema": edema, "Fracture": float("nan"), "Pneumonia": 0.0},
            {"path_to_image": f"{b}.jpg", "Edema": 0.5},
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_chexpert_plus_finds_the_png_of_a_jpg(plus, do_import):
    found = do_import("chexpert-plus", plus, {"labels": "none"})
    a, b, c = found.order
    assert found[a].file == plus / "PNG/train/patient1/study1/view1_frontal.png"
    assert found[b].file == plus / "PNG/PNG/train/patient2/study3/view1_frontal.png"
    assert found[c].file == plus / "DICOM/valid/patient3/study1/view1_frontal.dcm"
    assert [found[name].view for name in (a, b, c)] == ["AP", "FRONTAL", "LATERAL"]
    assert [found[name].split for name in (a, b, c)] == ["train", "train", "val"]
    assert [found[name].patient for name in (a, b, c)] == ["patient1", "patient2", "patient3"]


def test_chexpert_plus_sections_are_the_tables_own_or_those_of_the_report(plus, do_import):
    found = do_import("chexpert-plus", plus, {"labels": "none"})
    a, b, c = found.order
    assert (found[a].findings, found[a].impression) == ("Small effusion.", "1. Effusion.")
    assert found[a].notes["findings_source"] == "section_findings"
    assert (found[b].findings, found[b].impression) == ("Clear lungs.", "1. Normal.")
    assert found[b].notes["impression_source"] == "report/impression"
    assert found[c].report is None
    assert found.summary["report_sources"] == {
        "findings: report/findings": 1,
        "findings: section_findings": 1,
        "impression: report/impression": 1,
        "impression: section_impression": 1,
    }


@pytest.mark.parametrize(("part", "edema"), [("report", -1), ("findings", 1), ("impression", None)])
def test_chexpert_plus_labels_are_of_the_part_that_is_asked_for(plus, do_import, part, edema):
    found = do_import("chexpert-plus", plus, {"labels": part})
    row = found["train/patient1/study1/view1_frontal"]
    assert row.labels == {"Edema": edema, "Fracture": None, "Pneumonia": 0} | {
        name: None
        for name in CHEXPERT_FINDINGS
        if name in row.labels and name not in ("Edema", "Fracture", "Pneumonia")
    }
    assert set(row.labels) == {"Edema", "Fracture", "Pneumonia"}
    assert row.notes["label_source"] == f"{part}_fixed.json"
    (rejected,) = found.rejected.values()
    assert "label 'Edema' is 0.5" in rejected.message


def test_a_label_line_that_is_none_stops_with_its_line(plus, do_import):
    (plus / "chexbert_labels" / "report_fixed.json").write_text('{"Edema": 1}\n')
    with pytest.raises(DataError, match=r"report_fixed.json:1: no labels of an image"):
        do_import("chexpert-plus", plus)
