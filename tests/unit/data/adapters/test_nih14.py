"""NIH ChestX-ray14: joined labels, twelve folders, two lists."""

from __future__ import annotations

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.data.labels import NIH_FINDINGS
from chexmix_cli.core.errors import DataError

COLUMNS = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
]
ROWS = [
    ("00000001_000.png", "Cardiomegaly|Emphysema", "1", "PA"),
    ("00000001_001.png", "No Finding", "1", "AP"),
    ("00000002_000.png", "Pleural_Thickening", "2", "PA"),
    ("00000003_000.png", "", "3", "PA"),
    ("00000004_000.png", "Fever", "4", "PA"),
    ("00000005_000.png", "No Finding|Mass", "5", "PA"),
    ("00000006_000.png", "Hernia", "6", "PA"),
]


@pytest.fixture
def root(tmp_path):
    write_csv(
        tmp_path / "Data_Entry_2017_v2020.csv",
        COLUMNS,
        [(name, labels, 0, patient, 58, "M", view, 2682, 2749, 0.143, 0.143) for name, labels, patient, view in ROWS],
    )
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png")
    for number, (name, *_) in enumerate(ROWS):
        draw_image(tmp_path / f"images_{1 + number % 3:03}" / "images" / name, number)
    return tmp_path


def test_images_of_all_folders(root, do_import):
    found = do_import("nih14", root)
    assert found.order == ["00000001_000", "00000001_001", "00000002_000", "00000003_000", "00000006_000"]
    assert found["00000001_001"].view == "AP"
    assert found["00000001_001"].patient == "1"
    assert found["00000002_000"].file.parent == root / "images_003" / "images"


def test_the_list_of_findings_is_complete_unless_it_is_blank(root, do_import):
    found = do_import("nih14", root)
    labels = found["00000001_000"].labels
    assert tuple(labels) == ("No Finding", *NIH_FINDINGS)
    assert {name for name, value in labels.items() if value == 1} == {"Cardiomegaly", "Emphysema"}
    assert set(labels.values()) == {0, 1}
    assert found["00000001_001"].labels["No Finding"] == 1
    assert found["00000003_000"].labels == {}
    messages = [item.message for item in found.rejected.values()]
    assert any("a finding is a text of 5 characters; expected No Finding, " in message for message in messages)
    assert any("'No Finding' beside a finding" in message for message in messages)


def test_the_published_lists_split_and_validation_is_drawn_from_the_first(root, do_import):
    found = do_import("nih14", root, {"split": {"val": 1.0, "test": 0.0}})
    assert {name: found[name].split for name in found.order} == {
        "00000001_000": "val",
        "00000001_001": "val",
        "00000002_000": "test",
        "00000003_000": "val",
        "00000006_000": None,  # in neither list
    }
    found = do_import("nih14", root, {"split": {"val": 0.0, "test": 1.0}})
    # The published test set is the test set: nobody of the other list is drawn into it.
    assert found["00000001_000"].split == "train"
    assert found.summary["split_sources"] == {"dataset": 1, "hash": 3, "none": 1}
    found = do_import("nih14", root, {"split": {"source": "hash", "val": 0.0, "test": 1.0}})
    assert found.summary["splits"] == {"test": 5}


def test_one_list_without_the_other_is_an_error(root, do_import):
    (root / "test_list.txt").unlink()
    with pytest.raises(DataError, match="one of the two lists") as error:
        do_import("nih14", root)
    assert "split.source=hash" in (error.value.hint or "")
    (root / "train_val_list.txt").unlink()
    assert do_import("nih14", root).summary["split_sources"] == {"hash": 5}
