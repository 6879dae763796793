"""The benchmark's call in both forms: the same file, nothing of a study lost, nothing missing."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def studies(films, tmp_path):
    """Return studies by id: named by its key, by the kind of its images, and one whose image is not there."""
    values = {
        "one": {"key_image_path": "/a.png", "image_path": ["b.png", "a.png"], "context": {"Age": "60"}},
        "two": {"image_path": ["b.png", "a.png"], "frontal_lateral": ["Lateral", "Frontal"], "report": "Clear."},
        "gone": {"key_image_path": "none.png"},
    }
    (tmp_path / "in.json").write_text(json.dumps(values))
    return values


def test_both_forms_write_the_same(call, studies, films, debug_weights, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    common = ("evaluate", "rexrank", "--weights", debug_weights)
    done = call(*common, tmp_path / "in.json", first, films)
    assert done.code == 3
    assert "gone: no report (" in done.stderr
    flags = ("--input_json_file", tmp_path / "in.json", "--save_json_file", second, "--img_root_dir", films)
    assert call(*common, *flags).code == 3
    assert first.read_text() == second.read_text()
    written = json.loads(first.read_text())
    assert [(name, {**one, "model_prediction": ""}) for name, one in written.items()] == [
        (name, {**one, "model_prediction": ""}) for name, one in studies.items()
    ]
    assert written["gone"]["model_prediction"] == ""
    # Both name a.png: one by its key, one as the frontal image.
    assert written["one"]["model_prediction"] == written["two"]["model_prediction"] != ""


def test_what_is_missing_or_given_twice_is_named(call, tmp_path):
    assert "INPUT_JSON: 0 times" in call("evaluate", "rexrank").stderr
    twice = call("evaluate", "rexrank", "a", "b", "c", "--img_root_dir", "d")
    assert (twice.code, "IMG_ROOT: 2 times" in twice.stderr) == (2, True)
    (tmp_path / "list.json").write_text("[]")
    assert "a JSON object: id to study" in call("evaluate", "rexrank", tmp_path / "list.json", "b", "c").stderr
