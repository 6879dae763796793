"""generate-report beside classify and beside its files: one film, the same head, the same names everywhere."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def films(repository, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    shutil.copy(repository / "docs" / "images" / "demo-film.jpg", folder / "film.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def test_one_film_is_told_alike_by_every_command(call, films, tmp_path):
    refused = tmp_path / "refused.jsonl"
    found = {}
    for command, *flags in (("generate-report", "--quarantine", refused, "--paths"), ("classify",), ("tokenize",)):
        result = call(command, films, *flags)
        assert result.code == 3, result.stderr
        found[command] = {record["id"]: record for record in result.records}
        assert set(found[command]) == {"film.jpg", "broken.png"}

    report, classified = found["generate-report"]["film.jpg"], found["classify"]["film.jpg"]
    assert report["head"]["probabilities"] == pytest.approx(classified["probabilities"], abs=1e-5)
    assert report["head"]["val_auroc"] == classified["val_auroc"]
    assert report["head"]["agreement"]["Pneumonia"] == "agrees"

    assert report["file"] == str(films / "film.jpg")
    assert found["generate-report"]["broken.png"]["file"] == str(films / "broken.png")
    assert all("file" not in record for name in ("classify", "tokenize") for record in found[name].values())
    (line,) = map(json.loads, refused.read_text().splitlines())
    assert (line["id"], line["code"]) == ("broken.png", found["classify"]["broken.png"]["error"]["code"])
    assert line["files"] == [{"path": str(films / "broken.png")}]


def test_a_manifest_of_the_folder_has_the_same_ids_and_its_view_is_kept(call, films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a manifest states files from its own folder on
    (films / "labels.csv").write_text("file,view\nfilm.jpg,AP\n")
    manifest = tmp_path / "manifest.jsonl"
    assert call("data", "import", "folder", films, "-o", manifest).code == 0
    for command in (("classify",), ("inpaint", "--mask-ratio", "0.5")):
        (record,) = call(*command, "-", stdin=manifest.read_text()).records
        assert (record["id"], record["view"], record["view_source"]) == ("film.jpg", "AP", "manifest")


def test_a_table_takes_the_records_and_stdout_stays_empty(call, films, tmp_path):
    result = call("classify", films, "-o", tmp_path / "findings.csv")
    assert (result.code, result.stdout) == (3, "")
    lines = (tmp_path / "findings.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith("id,view,status,error,error_message,")
    assert "p(Pneumonia)" in lines[0]
    assert len(lines) == 3
    assert f"{tmp_path / 'findings.csv'}: 2 records" in result.stderr
