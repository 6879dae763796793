"""``generate-report --documents``: files under the film's header, for their owner; ``evaluate report`` reads them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from chexmix_cli.core.errors import ExitCode
from chexmix_cli.core.weights import open_weights

SHORT = ("--set", "decode.max_new_tokens=24")
ALL = ("--set", 'documents.kinds=["sr", "measurements", "pdf", "picture", "fhir"]')


def test_every_kind_of_document_of_a_dicom_film_and_of_a_picture(call, films, make_dicom, planted, tmp_path):
    pytest.importorskip("highdicom", reason="needs chexmix[clinical]")
    source, out = make_dicom(tmp_path / "film.dcm"), tmp_path / "documents"
    done = call("generate-report", source, films / "a.png", *SHORT, *ALL, "--documents", out)
    assert done.code == 0, done.stderr
    for secret in planted:
        assert secret not in done.stdout + done.stderr
    of_film, of_picture = done.records
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{record['id']}-{kind}.{'json' if kind == 'fhir' else 'dcm'}"
        for record in done.records
        for kind in ("sr", "measurements", "pdf", "picture", "fhir")
    )
    given = pydicom.dcmread(source)
    for kind, path in of_film["documents"].items():
        assert Path(path).stat().st_mode & 0o777 == 0o600
        if kind == "fhir":
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            assert report["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{given.StudyInstanceUID}"
            continue
        found = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "StudyDate"):
            assert found[keyword].value == given[keyword].value, (kind, keyword)
        assert found.SOPInstanceUID != given.SOPInstanceUID
        assert found.DeviceSerialNumber == open_weights(None).fingerprint
    sr = pydicom.dcmread(of_picture["documents"]["sr"])
    assert (sr.PatientID, sr.PatientName, str(sr.StudyInstanceUID)[:5]) == ("", "", "2.25.")
    shown = pydicom.dcmread(of_film["documents"]["picture"]).pixel_array
    assert shown.shape[2] == 3
    assert (shown == np.array([0x9C, 0x1C, 0x1C], np.uint8)).all(-1).sum() > 1000, "the mark is not drawn"


def test_sr_is_the_default_and_a_second_run_writes_the_same_bytes(call, make_dicom, tmp_path, debug_weights):
    source = make_dicom(tmp_path / "film.dcm")
    files = []
    for name in ("one", "two"):
        done = call("generate-report", source, *SHORT, "--weights", debug_weights, "--documents", tmp_path / name)
        (record,) = done.records
        assert list(record["documents"]) == ["sr"]
        files.append(Path(record["documents"]["sr"]).read_bytes())
    assert files[0] == files[1]
    dated = call(
        "generate-report", source, *SHORT, "--weights", debug_weights, "--documents", tmp_path / "three",
        "--set", "documents.dates=run",
    )  # fmt: skip
    first, later = pydicom.dcmread(io.BytesIO(files[0])), pydicom.dcmread(dated.records[0]["documents"]["sr"])
    assert first.ContentDate == first.StudyDate != later.ContentDate
    assert first.SOPInstanceUID != later.SOPInstanceUID
    assert "the study" in first.CompletionFlagDescription
    assert "the work" in later.CompletionFlagDescription


def test_evaluate_report_reads_them_as_the_records_they_were_made_of(call, films, make_dicom, tmp_path):
    source, out = make_dicom(tmp_path / "film.dcm"), tmp_path / "documents"
    done = call(
        "generate-report", source, films, "--documents", out,
        "--set", 'documents.kinds=["sr", "fhir", "picture"]', "-o", tmp_path / "reports.jsonl",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert len(records) == 4
    references = tmp_path / "references.jsonl"
    lines = [
        {"id": record["id"], "report": f"FINDINGS: Clear lungs {number}."} for number, record in enumerate(records)
    ]
    references.write_text("".join(json.dumps(line) + "\n" for line in lines))
    by_records = call("evaluate", "report", tmp_path / "reports.jsonl", "--references", references, "--json")
    by_documents = call("evaluate", "report", out, "--references", references, "--json")
    assert by_documents.code == by_records.code == 0, by_documents.stderr
    of_records, of_documents = (json.loads(one.stdout) for one in (by_records, by_documents))
    assert of_documents["metrics"] == of_records["metrics"]
    # As references, and one file alone: each report equals its record, word for word.
    perfect = call("evaluate", "report", tmp_path / "reports.jsonl", "--references", out, "--json")
    values = {one["name"]: one["value"] for one in json.loads(perfect.stdout)["metrics"] if one.get("headline")}
    assert [values[name] for name in ("bleu1", "bleu4", "rouge_l", "label_f1")] == pytest.approx([1, 1, 1, 1])
    (only,) = [record for record in records if record["id"] == "a.png"]
    single = call("evaluate", "report", only["documents"]["sr"], "--references", references, "--json")
    assert json.loads(single.stdout)["data"]["missing_predictions"] == 3


def test_a_folder_without_structured_reports_is_refused(call, make_dicom, tmp_path):
    (tmp_path / "films").mkdir()
    make_dicom(tmp_path / "films" / "film.dcm")
    (tmp_path / "films" / "notes.txt").write_text("no report")
    done = call("evaluate", "report", tmp_path / "films", "--references", tmp_path / "films")
    assert done.code == ExitCode.FAILED
    assert "no structured report" in done.stderr
    references = tmp_path / "references.jsonl"
    references.write_text(json.dumps({"id": "1", "report": "Clear."}) + "\n")
    alone = call("evaluate", "report", tmp_path / "films" / "film.dcm", "--references", references)
    assert "film.dcm: no structured report; expected DICOM SR" in alone.stderr


def test_what_the_weights_cannot_give_is_said_before_the_first_film(call, films, debug_weights, tmp_path):
    out = ("--documents", tmp_path / "documents")
    done = call("generate-report", films, "--weights", debug_weights, *out, *ALL)
    assert done.code == ExitCode.FAILED
    assert "has no head of findings, which documents of kind measurements need" in done.stderr
    bare = tmp_path / "bare"
    shutil.copytree(debug_weights, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    done = call("generate-report", films, "--weights", bare, *out)
    assert "has no text tokenizer, which documents need" in done.stderr
    assert not (tmp_path / "documents").exists()


def test_a_missing_package_and_a_wrong_folder_or_kind_are_said(call, films, tmp_path, monkeypatch):
    out = ("--documents", tmp_path / "documents")
    monkeypatch.setattr("chexmix_cli.library.documents.find_spec", lambda name: None)
    done = call("generate-report", films, *out, *ALL)
    assert done.code == ExitCode.ENVIRONMENT
    assert "chexmix[clinical]" in done.stderr
    (tmp_path / "file").write_text("")
    done = call("generate-report", films, "--documents", tmp_path / "file")
    assert done.code == ExitCode.USAGE
    assert "--documents: is a file; expected a folder" in done.stderr
    done = call("generate-report", films, *out, "--set", 'documents.kinds=["hl7"]')
    assert done.code == ExitCode.USAGE
    assert "documents.kinds" in done.stderr
    done = call("generate-report", films, *out, "--set", "documents.kinds=[]")
    assert "documents.kinds: is []; expected one kind at least" in done.stderr


def test_a_film_without_a_study_is_not_done_and_the_others_are(call, make_dicom, films, tmp_path, debug_weights):
    source = make_dicom(tmp_path / "film.dcm")
    dataset = pydicom.dcmread(source)
    del dataset.StudyInstanceUID
    dataset.save_as(source)
    out = tmp_path / "documents"
    done = call("generate-report", source, films, *SHORT, "--weights", debug_weights, "--documents", out)
    assert done.code == ExitCode.PARTIAL
    failed = [record for record in done.records if record["status"] == "error"]
    assert [record["error"]["code"] for record in failed] == ["CORRUPT"]
    assert "names no study" in failed[0]["error"]["message"]
    assert sorted(path.name for path in out.iterdir()) == ["a.png-sr.dcm", "b.png-sr.dcm", "c.png-sr.dcm"]


def test_codes_alone_give_documents_of_a_study_of_their_own(call, films, tmp_path, debug_weights):
    codes = call("tokenize", films / "a.png", "--weights", debug_weights).stdout
    arguments = ("generate-report", "-", *SHORT, "--weights", debug_weights, "--set", 'documents.kinds=["sr", "pdf"]')
    (record,) = call(*arguments, "--documents", tmp_path / "documents", stdin=codes).records
    for path in record["documents"].values():
        assert str(pydicom.dcmread(path).StudyInstanceUID).startswith("2.25.")
