"""ReXGradient-160K: JSON by study, paths that climb, and words for views."""

from __future__ import annotations

import json

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.errors import DataError

STUDY = "pGRDN1_aGRDN1_sGRDN1"


def image(patient, name):
    return f"../deid_png/{patient}/GRDNX/studies/1.2.3/series/4.5.6/instances/{name}.png"


def study(patient, images, views, **fields):
    return {
        "PatientID": patient,
        "PatientSex": "M",
        "PatientAge": "065Y",
        "StudyInstanceUid": "1.2.3",
        "ImagePath": images,
        "ImageModality": ["DX"] * len(images),
        "ImageViewPosition": views,
        "ImageBodyPart": ["CHEST"] * len(images),
        **fields,
    }


@pytest.fixture
def root(tmp_path):
    train = {
        STUDY: study(
            "GRDN1",
            [image("GRDN1", "a"), image("GRDN1", "b")],
            ["POSTERO_ANTERIOR", "LATERAL"],
            Findings="Clear lungs.",
            Impression="None",
        ),
        "s2": study(
            "GRDN2", [image("GRDN2", "c"), "../../outside/d.png"], ["UNKNOWN"], Findings="", Impression="Normal."
        ),
        "s3": study("GRDN3", "x.png", []),
        "s4": ["no study"],
    }
    files = {"train": train, "test": {"s9": study("GRDN9", [image("GRDN9", "z")], ["N/A"])}}
    for split, studies in files.items():
        path = tmp_path / "metadata" / f"{split}_metadata_view_position.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(studies))
    # Without views; must not be preferred.
    (tmp_path / "metadata" / "train_metadata.json").write_text(json.dumps({}))
    write_csv(
        tmp_path / "metadata" / "test_metadata.csv",
        ["id", "Indication", "Comparison", "Findings", "Impression", "PatientSex"],
        [("s9", "Cough", "None", "Lungs\nclear.", "nan", "M")],
    )
    for number, (patient, name) in enumerate([("GRDN1", "a"), ("GRDN1", "b"), ("GRDN2", "c"), ("GRDN9", "z")]):
        draw_image(tmp_path / "metadata" / image(patient, name), number)
    draw_image(tmp_path.parent / "outside" / "d.png")
    return tmp_path


def test_studies_become_images(root, do_import):
    found = do_import("rexgradient", root)
    assert found.order == [f"{STUDY}/a", f"{STUDY}/b", "s2/c", "s9/z"]
    row = found[f"{STUDY}/a"]
    assert (row.study, row.patient, row.split, row.view) == (STUDY, "GRDN1", "train", "PA")
    assert (row.sex, row.age, row.source) == ("M", 65, "rexgradient")
    assert row.file == root / "deid_png/GRDN1/GRDNX/studies/1.2.3/series/4.5.6/instances/a.png"
    # "None" is how a table writes a missing section; it is not what the radiologist wrote.
    assert (row.findings, row.impression) == ("Clear lungs.", None)
    assert row.notes["findings_source"] == "json/findings"
    assert found["s2/c"].findings is None
    assert found["s2/c"].view is None  # two images and one view: whose it is nobody knows


def test_a_path_that_climbs_out_is_refused_although_there_is_a_file(root, do_import):
    found = do_import("rexgradient", root)
    assert {name: item.code for name, item in found.rejected.items()} == {
        "s2/d": "BAD_RECORD",
        "s3": "BAD_RECORD",
        "s4": "BAD_RECORD",
    }
    assert "leads out of the folder" in found.rejected["s2/d"].message


def test_reports_come_from_the_csv_where_the_json_has_none(root, do_import):
    row = do_import("rexgradient", root)["s9/z"]
    assert (row.findings, row.impression, row.split) == ("Lungs clear.", None, "test")
    assert row.notes["findings_source"] == "csv/findings"


@pytest.mark.parametrize(
    ("stated", "view"),
    [
        ("PA", "PA"),
        ("POSTERO_ANTERIOR", "PA"),
        ("ANTERO_POSTERIOR", "AP"),
        ("AP AXIAL", "AP"),
        ("LL", "LATERAL"),
        ("LAT", "LATERAL"),
        ("RAO", "OTHER"),
        ("DECUBITUS", "OTHER"),
        ("OBLIQUE", "OTHER"),
        ("KUB", "OTHER"),
        ("OTHER", "OTHER"),
        ("ERECT", None),
        ("SUPINE", None),
        ("PICC LINE", None),
        ("UNKNOWN", None),
        ("None", None),
        ("N/A", None),
        ("", None),
    ],
)
def test_the_words_for_views(root, do_import, stated, view):
    path = root / "metadata" / "test_metadata_view_position.json"
    path.write_text(json.dumps({"s9": study("GRDN9", [image("GRDN9", "z")], [stated])}))
    assert do_import("rexgradient", root)["s9/z"].view == view


def test_tables_in_the_root_mean_the_same_paths(root, do_import):
    for path in (root / "metadata").iterdir():
        path.rename(root / path.name)
    assert len(do_import("rexgradient", root).rows) == 4


def test_images_elsewhere(root, tmp_path, do_import):
    (root / "deid_png").rename(root / "unpacked")
    with pytest.raises(DataError, match="none of the"):
        do_import("rexgradient", root)
    assert len(do_import("rexgradient", root, {"images": str(root / "unpacked")}).rows) == 4


def test_what_is_no_rexgradient_is_an_error(tmp_path, root, do_import):
    with pytest.raises(DataError, match="no metadata is here"):
        do_import("rexgradient", root / "deid_png")
    path = root / "metadata" / "train_metadata_view_position.json"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(DataError, match=r"train_metadata_view_position.json: not readable as JSON"):
        do_import("rexgradient", root)
