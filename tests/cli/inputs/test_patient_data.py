"""Who the patient is stays where it was: not in records, messages, file names, pictures or tracebacks."""

from __future__ import annotations

import pytest


@pytest.fixture
def ward(tmp_path, make_dicom, planted):
    """Return a folder, named after a patient, of films named after her: good ones and every kind of bad one."""
    folder = tmp_path / f"{planted[0]}_Ada" / planted[1]
    folder.mkdir(parents=True)

    def path(number: int):
        return folder / f"{planted[0]}-{planted[2]}-{number}.dcm"

    make_dicom(path(1), 1, study="1")
    make_dicom(path(2), 2, study="2", body_part="HIP")
    make_dicom(path(3), 3, study="3", view="LL")
    cut = make_dicom(path(4), 4, study="4")
    cut.write_bytes(cut.read_bytes()[:-4000])
    header_only = make_dicom(path(5), 5, study="5")
    header_only.write_bytes(header_only.read_bytes()[:300])
    path(6).write_text(f"PatientName {planted[0]}")
    # Values that break the rules of their kind, about which DICOM libraries like to warn, quoting them.
    odd = make_dicom(path(7), 7, study="7")
    raw = odd.read_bytes().replace(planted[3].encode(), b"1959XX23").replace(b"^Ada", b"\xff\x1b\\a")
    odd.write_bytes(raw)
    make_dicom(path(8), 8, study="8")
    path(8).write_bytes(path(8).read_bytes().replace(b"Chest for", b"\\\\\\\\\x00\x01for"))
    return folder


@pytest.mark.parametrize("command", ["tokenize", "generate-report"])
def test_no_patient_data_comes_out_of_a_process(chexmix, ward, debug_weights, planted, tmp_path, command):
    flags = ["--weights", debug_weights, "-v", "--provenance"]
    if command == "generate-report":
        flags += ["--set", "decode.max_new_tokens=6", "--picture", tmp_path / "pictures"]
    result = chexmix(command, ward, *flags)
    assert result.code == 3
    codes = sorted(record["error"]["code"] for record in result.records if record["status"] == "error")
    assert codes == ["LATERAL_ONLY", "NOT_CHEST", "NO_PIXELS", "SHORT_PIXELS", "UNKNOWN_FORMAT"]
    assert sum(record["status"] == "ok" for record in result.records) == 3
    for secret in (*planted, "1959XX23"):
        assert secret not in result.stdout
        assert secret not in result.stderr
    pictures = list((tmp_path / "pictures").glob("*"))
    assert len(pictures) == (3 if command == "generate-report" else 0)
    for picture in pictures:
        content = picture.read_bytes()
        assert not any(secret in picture.name or secret.encode() in content for secret in planted)


def test_uids_come_out_only_when_they_are_asked_for(call, make_dicom, debug_weights, planted, tmp_path):
    make_dicom(tmp_path / "1.dcm", 1)
    hidden = call("tokenize", tmp_path / "1.dcm", "--weights", debug_weights)
    kept = call("tokenize", tmp_path / "1.dcm", "--weights", debug_weights, "--keep-uids")
    assert planted[4] not in hidden.stdout
    assert kept.records[0]["id"] == f"{planted[4]}.1"


def test_a_bug_in_the_middle_of_a_film_tells_nothing(call, monkeypatch, ward, debug_weights, planted):
    """Even the traceback that -v asks for shows lines of code, no values."""

    def broken(self, films):
        secret = planted[0]
        raise KeyError(len(secret))

    monkeypatch.setattr("chexmix_cli.core.infer.image_tokenizer.ImageTokenizer.encode", broken)
    result = call("tokenize", ward, "--weights", debug_weights, "-v")
    assert result.code == 70
    assert "Traceback" in result.stderr
    for secret in planted:
        assert secret not in result.stderr
        assert secret not in result.stdout
