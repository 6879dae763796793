"""What a review exports is read as it is: by training as a manifest, by evaluation as references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.data.report_files import read_reports
from chexmix_cli.core.errors import DataError
from tests.review_exports import CSV, FILES, JSON_LINES, LABELS, NASTY

KINDS = {"jsonl": JSON_LINES, "csv": CSV}


@pytest.fixture(params=KINDS)
def export(request, tmp_path) -> Path:
    path = tmp_path / f"review.{request.param}"
    path.write_bytes(KINDS[request.param].encode())
    return path


def test_an_export_is_a_manifest(export):
    rows = {row.id: row for row in read_manifest(export)}
    assert {row.id: row.file for row in rows.values()} == {
        name: export.parent / FILES[name] for name in ("a/1", "=b", "'-e")
    }
    assert rows["a/1"] == ManifestRow(
        id="a/1", file=export.parent / "sub/a1.png", study="a", view="PA", split="train",
        findings="Clear lungs.", impression="Normal.",
    )  # fmt: skip
    # A text area gives line ends as LF.
    assert rows["=b"].findings == NASTY.replace("\r\n", "\n")
    assert {name: value for name, value in rows["=b"].labels.items() if value is not None} == LABELS
    assert "c" not in rows, "a rejected draft is nothing to learn from"
    assert rows["'-e"].findings == "'-5 and clear."
    assert [row.id for row in read_manifest(export, split="val")] == ["'-e"]


def test_an_export_is_references_and_its_drafts_are_predictions(export):
    references = {one.id: one.report for one in read_reports(export, prefers="reference")}
    assert references == {
        "a/1": "FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        "=b": NASTY.replace("\r\n", "\n"),
        "c": None,
        "'-e": "'-5 and clear.",
    }
    drafts = {one.id: one.report for one in read_reports(export, prefers="prediction")}
    assert drafts["=b"] == "FINDINGS: Opacity, right."
    assert drafts["c"] == "Unsure."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decision": "perhaps"}, "decision is a text of 7 characters; expected accepted"),
        ({"report": 3}, "report is no text"),
        ({"remark": "x"}, "unknown field 'remark'"),
    ],
)
def test_a_line_that_no_page_wrote_is_refused(tmp_path, changes, message):
    path = tmp_path / "review.jsonl"
    path.write_text(json.dumps({"id": "a", "file": "a.png", "decision": "accepted", "report": "Clear."} | changes))
    with pytest.raises(DataError, match=message):
        list(read_manifest(path))


def test_another_table_is_no_manifest_and_is_told_what_makes_one(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,file,Pneumonia\na,a.png,1\n")
    with pytest.raises(DataError, match="no export of chexmix review") as caught:
        list(read_manifest(path))
    assert "chexmix data import" in caught.value.hint
