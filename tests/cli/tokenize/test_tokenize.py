"""``chexmix tokenize``: records, order, failures, privacy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_folder_gives_a_record_an_image_in_order(call, films, debug_weights):
    result = call("tokenize", films, "--weights", debug_weights)
    assert result.code == 0
    assert [record["id"] for record in result.records] == ["a.png", "b.png", "c.png"]
    for record in result.records:
        assert record["status"] == "ok"
        assert len(record["codes"]) == 16
        assert all(0 <= code < 64 for code in record["codes"])
        assert record["preset"] == "voi"
    assert result.stderr == ""


def test_batches_change_no_code(call, films, debug_weights):
    one, all_ = (
        call("tokenize", films, "--weights", debug_weights, "--set", f"input.batch_size={size}").records
        for size in (1, 8)
    )
    assert one == all_


def test_one_bad_file_stops_nothing(call, films, debug_weights):
    (films / "b.png").write_bytes((films / "b.png").read_bytes()[:200])
    result = call("tokenize", films, "--weights", debug_weights)
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "ok"]
    assert result.records[1]["id"] == "b.png"
    assert result.records[1]["error"]["code"] == "CORRUPT"
    assert "2 of 3 records done" in result.stderr


def test_fail_fast_stops_at_the_first_bad_record(call, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    result = call("tokenize", films, "--weights", debug_weights, "--fail-fast", "--set", "input.batch_size=1")
    assert result.code == 1
    assert [record["id"] for record in result.records] == ["a.png"]
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("text.dcm", b"This is no DICOM file.\n" * 20, "UNKNOWN_FORMAT"), ("empty.png", b"", "UNKNOWN_FORMAT")],
)
def test_what_is_no_image_is_refused_with_its_code(call, tmp_path, debug_weights, name, content, code):
    (tmp_path / name).write_bytes(content)
    result = call("tokenize", tmp_path / name, "--weights", debug_weights)
    assert result.code == 1
    assert result.records[0]["error"]["code"] == code


def test_missing_and_empty_inputs_fail_with_the_reason(call, tmp_path, debug_weights):
    missing = call("tokenize", tmp_path / "nowhere", "--weights", debug_weights)
    assert missing.code == 1
    assert missing.records[0]["error"]["code"] == "NOT_FOUND"
    (tmp_path / "empty").mkdir()
    empty = call("tokenize", tmp_path / "empty", "--weights", debug_weights)
    assert empty.code == 1
    assert empty.records[0]["status"] == "error"


def test_damaged_weights_are_named(call, films, debug_weights, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(debug_weights, broken)
    whole = (broken / "vqgan.safetensors").read_bytes()
    (broken / "vqgan.safetensors").write_bytes(whole[: len(whole) // 2])
    result = call("tokenize", films, "--weights", broken)
    assert result.code == 1
    assert "vqgan.safetensors" in result.stderr
    assert result.stdout == ""


def test_no_codes_and_provenance(call, films, debug_weights):
    result = call("tokenize", films, "--weights", debug_weights, "--no-codes", "--provenance")
    record = result.records[0]
    assert "codes" not in record
    assert record["provenance"]["model"] == "debug"
    assert len(record["provenance"]["model_hash"]) == 64
    assert "films" not in json.dumps(record["provenance"])


def test_stdin_takes_paths_and_manifest_lines(call, films, debug_weights):
    lines = (
        f"{films / 'a.png'}\n" + json.dumps({"id": "mine", "file": str(films / "b.png")}) + "\nnot json {\n{broken\n"
    )
    result = call("tokenize", "-", "--weights", debug_weights, stdin=lines)
    by_id = {record["id"]: record for record in result.records}
    assert by_id["mine"]["status"] == "ok"
    assert by_id["a.png"]["status"] == "ok"
    assert by_id["line 4"]["error"]["code"] == "BAD_RECORD"
    assert result.code == 3


def test_dicom_studies_are_grouped_and_the_frontal_image_is_taken(call, tmp_path, make_dicom, debug_weights):
    make_dicom(tmp_path / "1.dcm", 1, view="LL", study="1")
    make_dicom(tmp_path / "2.dcm", 2, view="PA", study="1")
    make_dicom(tmp_path / "3.dcm", 3, view="AP", study="2")
    make_dicom(tmp_path / "4.dcm", 4, body_part="HIP", study="3")
    result = call("tokenize", tmp_path, "--weights", debug_weights)
    assert result.code == 3
    good = [record for record in result.records if record["status"] == "ok"]
    assert [record["view"] for record in good] == ["PA", "AP"]
    assert [other["view"] for other in good[0]["other_images"]] == ["LATERAL"]
    assert [record["error"]["code"] for record in result.records if record["status"] == "error"] == ["NOT_CHEST"]


def test_names_of_files_need_not_be_text(repository, films, debug_weights):
    """Names are bytes on Linux: given as paths on stdin each opens, has its record, and the next command reads it."""
    os.rename(os.fsencode(films / "a.png"), os.fsencode(films) + b"/\xff\xfe.png")
    (films / "b.png").rename(films / "grün \x1b[31m.png")
    program = f"{sys.executable} -m chexmix_cli"
    pipe = f"ls -d {films}/* | {program} tokenize - --weights {debug_weights}"
    pipe += f" | {program} generate-report - --weights {debug_weights} --set decode.max_new_tokens=5"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, cwd=repository, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["id"] for record in records} == {"\udcff\udcfe.png", "grün \x1b[31m.png", "c.png"}


def test_an_unreadable_file_is_refused_with_its_code(chexmix, films, debug_weights):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (films / "b.png").chmod(0)
    result = chexmix("tokenize", films, "--weights", debug_weights)
    assert result.code == 3
    assert result.records[1]["error"]["code"] == "UNREADABLE"


def test_a_file_that_fails_while_it_is_read_is_refused_with_its_code(call, monkeypatch, films, debug_weights):
    """What a broken disk or a lost network folder gives."""
    real = Path.open

    def failing(self, *arguments, **options):
        if self.name == "b.png":
            raise OSError(5, "Input/output error", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    result = call("tokenize", films, "--weights", debug_weights)
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "ok"]
    assert result.records[1]["error"]["code"] == "UNREADABLE"


def test_a_path_that_no_system_takes_is_refused_like_any_other(call, films, debug_weights):
    lines = f"{films / 'a.png'}\nnul\0byte.png\n{'long' * 2000}.png\n"
    result = call("tokenize", "-", "--weights", debug_weights, stdin=lines)
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "error"]
    given = json.dumps({"id": "given", "file": "nul\0byte.png"})
    assert call("tokenize", "-", "--weights", debug_weights, stdin=given).records[0]["status"] == "error"


def test_a_frame_is_chosen_by_flag(call, tmp_path, make_dicom, debug_weights):
    import numpy as np
    import pydicom

    path = make_dicom(tmp_path / "film.dcm", 1)
    other = pydicom.dcmread(make_dicom(tmp_path / "other.dcm", 2, study="2"))
    dataset = pydicom.dcmread(path)
    frames = [np.frombuffer(film.PixelData, np.uint8) for film in (dataset, other)]
    dataset.NumberOfFrames = 2
    dataset.PixelData = np.concatenate(frames).tobytes()
    dataset.save_as(tmp_path / "two.dcm")

    def codes(name, *flags):
        return call("tokenize", tmp_path / name, "--weights", debug_weights, *flags).records[0].get("codes")

    assert codes("two.dcm") == codes("film.dcm")
    assert codes("two.dcm", "--set", "input.frame=1") == codes("other.dcm") != codes("film.dcm")
    assert codes("two.dcm", "--set", "input.frame=2") is None
