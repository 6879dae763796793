"""``tokenize --quarantine``: the files behind failed records, for their owner only."""

from __future__ import annotations

import json
import stat


def test_quarantine_leads_to_the_file_behind_an_id(call, tmp_path, make_dicom, debug_weights, planted):
    folder = tmp_path / f"{planted[0]}^Ada"
    folder.mkdir()
    make_dicom(folder / "good.dcm", 1)
    hip = make_dicom(folder / "hip.dcm", 2, body_part="HIP", study="2")
    lateral = [make_dicom(folder / f"l{number}.dcm", number, view="LL", study="3") for number in (3, 4)]
    (folder / "text.png").write_bytes(b"nothing")
    listing = tmp_path / "refused.jsonl"
    listing.write_text("of an earlier run")
    listing.chmod(0o644)
    out = tmp_path / "out"
    arguments = ("tokenize", folder, "--weights", debug_weights, "--quarantine", listing, "-o", out, "-v")
    result = call(*arguments)
    assert result.code == 3
    assert stat.S_IMODE(listing.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    errors = {record["id"]: record["error"] for record in result.records if record["status"] == "error"}
    assert {line["id"]: (line["code"], line["message"]) for line in lines} == {
        record_id: (error["code"], error["message"]) for record_id, error in errors.items()
    }
    by_code = {line["code"]: [file["path"] for file in line["files"]] for line in lines}
    assert by_code == {
        "NOT_CHEST": [str(hip)],
        "LATERAL_ONLY": [str(path) for path in lateral],
        "UNKNOWN_FORMAT": [str(folder / "text.png")],
    }
    assert "refused.jsonl names the files of 3 records: paths may name patients" in result.stderr
    # A run with nothing left to do lists the same files again.
    before = listing.read_text()
    assert call(*arguments).code == 3
    assert listing.read_text() == before
    for text in (result.stdout, result.stderr, *(path.read_bytes().decode("latin-1") for path in out.iterdir())):
        for secret in planted:
            assert secret not in text


def test_quarantine_names_members_of_archives(call, tmp_path, films, debug_weights):
    import zipfile

    with zipfile.ZipFile(tmp_path / "films.zip", "w") as file:
        file.write(films / "a.png", "a.png")
        file.writestr("b.png", b"nothing")
    listing = tmp_path / "refused.jsonl"
    result = call("tokenize", tmp_path / "films.zip", "--weights", debug_weights, "--quarantine", listing)
    assert result.code == 3
    line = json.loads(listing.read_text())
    assert line["files"] == [{"path": str(tmp_path / "films.zip"), "member": "b.png"}]


def test_quarantine_that_cannot_be_written_ends_the_command(call, tmp_path, films, debug_weights):
    result = call("tokenize", films, "--weights", debug_weights, "--quarantine", tmp_path / "no" / "where.jsonl")
    assert result.code == 4
    assert "--quarantine" in result.stderr
