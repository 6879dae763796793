"""R2Gen's annotation.json, in its two forms."""

from __future__ import annotations

import json

import pytest
from dataset_trees import draw_image

from chexmix_cli.core.errors import DataError

IU = {
    "train": [
        {
            "id": "CXR2384_IM-0942",
            "report": "The heart is normal . XXXX .",
            "image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"],
            "split": "train",
        },
        {"id": "CXR1_IM-0001", "report": "", "image_path": ["CXR1_IM-0001/0.png"], "split": "train"},
        {"report": "no id", "image_path": ["x.png"]},
    ],
    "val": [{"id": "CXR5", "report": "FINDINGS: Clear. IMPRESSION: Normal.", "image_path": ["gone/0.png"]}],
    "test": [],
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotation.json").write_text(json.dumps(IU))
    for number, path in enumerate(["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png", "CXR1_IM-0001/0.png"]):
        draw_image(tmp_path / "images" / path, number)
    return tmp_path


def test_the_iu_form(root, do_import):
    found = do_import("r2gen", root)
    assert found.order == ["CXR2384_IM-0942/0", "CXR2384_IM-0942/1", "CXR1_IM-0001"]
    row = found["CXR2384_IM-0942/1"]
    assert (row.study, row.patient, row.split) == ("CXR2384_IM-0942", "CXR2384_IM-0942", "train")
    assert row.findings == "The heart is normal . XXXX ."
    assert row.notes["findings_source"] == "report"
    assert found["CXR1_IM-0001"].report is None
    assert {name: item.code for name, item in found.rejected.items()} == {"train[2]": "BAD_RECORD", "CXR5": "NOT_FOUND"}


def test_the_mimic_form(tmp_path, do_import):
    path = "p10/p10000032/s50414267/02aa804e.jpg"
    item = {
        "id": "02aa804e",
        "study_id": 50414267,
        "subject_id": 10000032,
        "report": "FINDINGS: Clear. IMPRESSION: Normal.",
        "image_path": [path],
        "split": "val",
    }
    (tmp_path / "mimic_annotation.json").write_text(json.dumps({"train": [], "val": [item], "test": []}))
    draw_image(tmp_path / "files" / path)
    row = do_import("r2gen", tmp_path)["02aa804e"]
    assert (row.study, row.patient, row.split) == ("50414267", "10000032", "val")
    assert (row.findings, row.impression) == ("Clear.", "Normal.")
    assert row.notes["impression_source"] == "report/impression"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": [', "not readable as JSON"),
        ('[{"id": "a"}]', "'\\[' where '{' belongs"),
        ('{"train": {"id": 1}}', "'{' where '\\[' belongs"),
        ('{"trian": []}', "split is 'trian'"),
        ('{"train": []}', "the tables name no image"),
        ('{"train": []', "'end of file' where ',' belongs"),
        ("{1: []}", "a key is no text"),
    ],
)
def test_a_damaged_annotation_is_an_error(tmp_path, do_import, text, message):
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(DataError, match=message):
        do_import("r2gen", tmp_path)
