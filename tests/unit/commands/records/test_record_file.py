"""Records as a table: the same columns in each form, nothing that a spreadsheet would run, whole whatever happens."""

from __future__ import annotations

import csv
import json

import pytest

from chexmix_cli.commands.records import record_file as forms
from chexmix_cli.commands.records.record_file import RecordFile, check_form, columns_of, flat
from chexmix_cli.core.data.report_files import read_reports
from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.library.jobs.journal import Journal

RECORDS = [
    {
        "id": "a",
        "file": "films/a.dcm",
        "status": "ok",
        "view": "PA",
        "age_group": "adult",
        "report": "FINDINGS: Clear.\nIMPRESSION: Normal.",
        "sections": {"findings": "Clear.", "impression": "Normal."},
        "head": {"probabilities": {"Pneumonia": 0.25}},
        "conflicts": ["one", "two"],
        "typicality": {"score": 1.5, "threshold": 2.0},
        "token_ids": [1, 2],
        "mark": "preliminary",
    },
    {"id": "b", "status": "error", "error": {"code": "CORRUPT", "message": "=1+1\x07"}},
    {"id": "c", "status": "ok", "report": '=HYPERLINK("http://x")', "head": {"probabilities": {"Pneumonia": 1}}},
]
COLUMNS = [
    *("id", "file", "view", "age_group", "status", "error", "error_message", "report", "findings", "impression"),
    *("conflicts", "unlike", "unlike_from", "p(Pneumonia)", "mark"),
]


def record_file(path):
    return RecordFile(Journal(path, {"part": 0, "num_parts": 1}, batch_size=2))


def write(path):
    with record_file(path) as file:
        for order, record in enumerate(RECORDS):
            file.add(Job(record["id"], dict, order=order), record)
    return path


def test_a_csv_opens_in_a_spreadsheet_without_harm(tmp_path):
    content = write(tmp_path / "new" / "records.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines(keepends=True)))
    assert list(rows[0]) == COLUMNS
    assert rows[0]["report"] == RECORDS[0]["report"]
    assert rows[0]["conflicts"] == "one; two"
    assert rows[0]["p(Pneumonia)"] == "0.25"
    assert rows[1]["error_message"].startswith("'=1+1")
    assert rows[2]["report"].startswith("'=HYPERLINK")
    assert rows[1]["report"] == ""


def test_a_workbook_holds_texts_and_numbers_and_no_formula(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    sheet = openpyxl.load_workbook(write(tmp_path / "records.XLSX")).active
    names, *rows = sheet.iter_rows()
    assert [cell.value for cell in names] == COLUMNS
    assert not [cell for row in rows for cell in row if cell.data_type == "f"]
    values = [dict(zip(COLUMNS, (cell.value for cell in row), strict=True)) for row in rows]
    assert values[2]["report"] == RECORDS[2]["report"]
    assert values[0]["p(Pneumonia)"] == 0.25
    assert values[1]["error_message"] == "=1+1\ufffd"


def test_parquet_has_numbers_as_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path / "records.parquet"))
    assert table.column_names == COLUMNS
    assert table.column("p(Pneumonia)").to_pylist() == [0.25, None, 1.0]
    assert table.column("report").to_pylist()[2] == RECORDS[2]["report"]


def test_json_lines_are_the_records_and_are_there_before_the_end(tmp_path):
    path = tmp_path / "records.jsonl"
    with record_file(path) as file:
        file.add(Job("a", dict), RECORDS[0])
        assert json.loads(path.read_text()) == RECORDS[0]
    assert [json.loads(line) for line in write(path).read_text().splitlines()] == RECORDS


def test_what_was_done_is_kept_when_a_run_is_stopped(tmp_path):
    path = tmp_path / "records.csv"

    def stopped():
        with record_file(path) as file:
            file.add(Job("a", dict), RECORDS[0])
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, stopped)
    assert len(path.read_text().splitlines()) == 3  # the report has two lines


def test_an_ending_that_is_no_form_is_told_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"--out: 'a\.pdf' has the ending \.pdf; expected \.jsonl, \.csv"):
        check_form(tmp_path / "a.pdf")


def test_a_missing_package_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(forms._PACKAGES, ".xlsx", "no_such_package")
    with pytest.raises(MachineError, match=r"\.xlsx needs the package no_such_package") as caught:
        check_form(tmp_path / "a.xlsx")
    assert "chexmix[tables]" in caught.value.hint


def test_columns_that_say_nothing_are_left_out():
    assert columns_of([flat({"id": "a", "status": "ok"})]) == ["id", "view", "status"]


@pytest.mark.parametrize(
    "text", ["=1+1", "- Clear.", "+", "@x", "'", "'=1", "''-5", "' ok", '\tTab, "quoted"', "Clear.\nNo -.\n"]
)
def test_a_text_comes_back_from_a_csv_as_it_was(tmp_path, text):
    with record_file(tmp_path / "reports.csv") as file:
        file.add(Job(f"{text}/1", dict), {"id": f"{text}/1", "status": "ok", "report": text})
    (back,) = read_reports(tmp_path / "reports.csv", prefers="prediction")
    assert (back.id, back.report) == (f"{text}/1", text)
