"""Every kind of problem is found where it was put, and nowhere else."""

from __future__ import annotations

import json
import os

import pytest
from dataset_trees import draw_image
from PIL import Image

from chexmix_cli.core.data.checks import check_images
from chexmix_cli.core.data.checks.check_manifest import PROBLEMS, check_manifest
from chexmix_cli.core.errors import DataError, MachineError
from chexmix_cli.core.settings.datasets import CheckSettings, ImageCheckSettings
from chexmix_cli.core.settings.load import resolve

REPORT = "The heart is normal in size and the lungs are clear without effusion, number"


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a manifest, sound but for ``make({changes of row 0}, {of row 1}, ...)``."""

    def write(*changes):
        rows = []
        for number, change in enumerate(changes):
            row = {
                "id": f"i{number}",
                "file": f"{number}.png",
                "study": f"s{number}",
                "patient": f"p{number}",
                "view": "PA",
                "split": "train",
                "labels": {"Edema": 0},
                "findings": f"{REPORT} {number} {number * 7} {number * 11} {number * 13} {number * 17}.",
                "impression": None,
            }
            if not (tmp_path / f"{number}.png").exists():
                draw_image(tmp_path / f"{number}.png", number, side=96)
            rows.append(row | change)
        path = tmp_path / "m.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def run(path, **settings):
    return check_manifest(path, resolve(CheckSettings, [("test", settings)]).settings)


def problems(path, **settings):
    return {item["code"]: (item["count"], item["examples"]) for item in run(path, **settings)["problems"]}


def test_a_sound_manifest_has_no_problem(make):
    path = make({}, {"split": "val"}, {"split": "test"}, {"patient": "p0", "study": "s9"})
    result = run(path)
    assert result["problems"] == []
    assert (result["rows"], result["patients"]) == (4, 3)
    assert result["images"]["readable"] == 4
    assert run(path) == result
    assert run(path, images={"workers": 2}) == result


def test_patients_in_two_splits(make):
    path = make(
        {"patient": "p9"}, {"patient": "p9", "split": "val"}, {"patient": "p9", "split": None}, {"split": "test"}
    )
    assert problems(path) == {"SPLIT_LEAK": (1, ["p9"])}
    # Where no patient is named, a study is what must stay together.
    nobody = {"patient": None, "study": "s9", "findings": None}
    path = make(nobody, nobody | {"split": "test"}, {"patient": None}, {"patient": None, "study": None})
    assert problems(path) == {"SPLIT_LEAK": (1, ["s9"])}
    assert run(path)["without_patient"] == 4


def test_studies_that_contradict_themselves(make):
    assert problems(make({"study": "s"}, {"study": "s", "findings": None})) == {"STUDY_OF_TWO_PATIENTS": (1, ["s"])}
    same = {"study": "s", "patient": "p"}
    assert problems(make(same, same)) == {"STUDY_OF_TWO_REPORTS": (1, ["s"])}
    assert problems(make(same, same | {"findings": None}, same | {"findings": f"{REPORT} 0 0 0 0 0."})) == {}


def test_images_that_fail_are_listed_by_reason(make, tmp_path):
    path = make({}, {}, {}, {}, {}, {})
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:900])
    (tmp_path / "2.png").write_text("no picture")
    Image.new("L", (96, 96), 7).save(tmp_path / "3.png")
    (tmp_path / "4.png").write_bytes(b"")
    count, examples = problems(path)["NO_IMAGE"]
    assert count == 5
    assert {item["code"]: item["ids"] for item in examples} == {
        "NOT_FOUND": ["i0"], "CORRUPT": ["i1"], "UNKNOWN_FORMAT": ["i2", "i4"], "BLANK": ["i3"],
    }  # fmt: skip
    assert run(path)["images"]["readable"] == 1
    found = problems(path, images={"read": "exists"})
    assert found["NO_IMAGE"] == (1, [{"code": "NOT_FOUND", "count": 1, "ids": ["i0"]}])


def test_the_same_picture_twice(make, tmp_path):
    """By its pixels: another file format, or other metadata, makes no other picture."""
    path = make({}, {}, {"file": "copy.bmp"}, {"file": "0.png"})
    Image.open(tmp_path / "1.png").save(tmp_path / "copy.bmp")
    assert problems(path) == {"DUPLICATE_IMAGES": (2, [["i1", "i2"], ["i0", "i3"]])}
    path = make({}, {}, {"file": "copy.bmp", "split": "test"})
    assert problems(path) == {
        "DUPLICATE_IMAGES": (1, [["i1", "i2"]]),
        "IMAGE_LEAK": (1, [{"ids": ["i1", "i2"], "bits": None}]),
    }


def test_nearly_the_same_picture(make, tmp_path):
    path = make({}, {}, {"file": "near.jpg"})
    Image.open(tmp_path / "1.png").point(lambda value: value // 2 + 30).save(tmp_path / "near.jpg", quality=80)
    ((count, (example,)),) = problems(path).values()
    assert list(problems(path)) == ["NEAR_DUPLICATE_IMAGES"]
    assert (count, example["ids"]) == (1, ["i1", "i2"])
    assert 0 <= example["bits"] <= 24
    path = make({}, {}, {"file": "near.jpg", "patient": "p1"})
    result = run(path)
    assert result["problems"] == []
    assert result["images"]["near_duplicates_within_a_patient"]["count"] == 1
    path = make({}, {}, {"file": "near.jpg", "patient": "p1", "split": "val"})
    assert set(problems(path)) == {"SPLIT_LEAK", "IMAGE_LEAK"}


def test_a_tables_word_for_nothing_is_no_report(make):
    path = make(
        {"findings": "None"}, {"impression": " nan "}, {"findings": ""}, {"findings": "None."}, {"findings": None}
    )
    assert problems(path) == {"NO_TEXT": (2, ["i0", "i1"])}
    assert run(path)["reports"]["rows_with"] == {"findings": 2, "none": 3}


def test_figures_of_labels_views_and_sections(make):
    path = make(
        {"labels": {"Edema": 1, "Mass": None}, "notes": {"view_source": "ViewPosition"}},
        {"labels": {"Edema": -1}, "view": None, "impression": "Normal.", "notes": {"view_source": "ViewPosition"}},
        {"labels": {}, "view": "LATERAL", "findings": None, "impression": "Normal ___ of XXXX."},
        {"labels": {"Edema": 0}, "split": None},
    )
    result = run(path)
    assert result["labels"] == {
        "Edema": {"1": 1, "0": 1, "-1": 1, "null": 1},
        "Mass": {"1": 0, "0": 0, "-1": 0, "null": 4},
    }
    assert result["views"] == {"LATERAL": 1, "PA": 2, "unknown": 1}
    assert result["splits"] == {"train": 3, "none": 1}
    assert result["notes"] == {"view_source": {"ViewPosition": 2}}
    reports = result["reports"]
    assert reports["rows_with"] == {"findings": 2, "findings and impression": 1, "impression": 1}
    assert reports["placeholders"] == {"___": 1, "XXXX": 1}
    assert reports["words"] == {"median": 20, "most": 22}
    assert (reports["studies"], reports["different"]) == (4, 4)


def test_reports_that_repeat_each_other(make):
    again = "Clear lungs. No effusion or pneumothorax is seen. The heart is of normal size, as is the mediastinum."
    path = make(
        {"findings": again},
        {"findings": again.upper().replace(",", "")},
        {"findings": again, "study": "s0", "patient": "p0"},
        {"findings": again + " Unchanged."},
        {"findings": "Normal."},
        {"findings": "Normal"},
    )
    result = run(path)
    assert result["problems"] == []
    reports = result["reports"]
    assert (reports["studies"], reports["different"]) == (5, 3)
    assert reports["repeated"] == {"count": 2, "examples": [{"study": "s0", "times": 2}, {"study": "s4", "times": 2}]}
    assert reports["near_duplicates"]["count"] == 1
    assert reports["near_duplicates"]["examples"][0]["studies"] == ["s0", "s3"]


def test_examples_are_as_many_as_asked_for(make):
    path = make(*({"findings": "nan"} for _ in range(4)))
    assert problems(path, examples=2)["NO_TEXT"] == (4, ["i0", "i1"])
    assert problems(path, examples=0)["NO_TEXT"] == (4, [])


def test_what_cannot_be_checked_is_an_error(make, tmp_path):
    with pytest.raises(DataError, match="none.jsonl: cannot be read"):
        run(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="the manifest has no row"):
        run(make())
    path = make({}, {"id": "i0"})
    with pytest.raises(DataError, match=r"m.jsonl:2: id 'i0' occurs twice"):
        run(path)


def _die(file, settings):
    os._exit(9)


def test_a_process_that_dies_is_an_error(monkeypatch):
    monkeypatch.setattr(check_images, "examine_image", _die)
    with pytest.raises(MachineError, match="a process that reads images died") as error:
        list(check_images.examine_images(["a"] * 40, ImageCheckSettings(workers=2), lambda done, total: None))
    assert error.value.hint == "--set images.workers=1"


def test_progress_ends_at_the_number_of_images(make):
    seen = []
    check_manifest(make({}, {}, {}), CheckSettings(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_every_problem_is_documented(repository):
    text = (repository / "docs" / "datasets.md").read_text(encoding="utf-8")
    for code in PROBLEMS:
        assert f"| `{code}` |" in text
