"""``chexmix tokenize``: records, order, failures, privacy."""

from __future__ import annotations

import json

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


@pytest.mark.parametrize("command", ["tokenize", "generate-report"])
def test_no_patient_data_comes_out(call, tmp_path, make_dicom, debug_weights, planted, command):
    folder = tmp_path / "in"
    folder.mkdir()
    make_dicom(folder / "good.dcm", 1)
    make_dicom(folder / "hip.dcm", 2, body_part="HIP", study="2")
    whole = make_dicom(folder / "cut.dcm", 3, study="3")
    whole.write_bytes(whole.read_bytes()[:-4000])
    result = call(command, folder, "--weights", debug_weights, "-v", "--provenance")
    assert result.code == 3
    for text in (result.stdout, result.stderr):
        for secret in planted:
            assert secret not in text
    kept = call(command, folder, "--weights", debug_weights, "--keep-uids")
    assert planted[4] in kept.stdout
