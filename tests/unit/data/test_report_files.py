from __future__ import annotations

import json

import pytest

from chexmix_cli.core.data.report_files import ReportText, read_reports, read_scores
from chexmix_cli.core.errors import DataError

LONG = "FINDINGS: " + " ".join(f"word{n}" for n in range(3000)) + "\nIMPRESSION: The end."


def texts(path, prefers="prediction", section="both") -> dict[str, str]:
    return {one.id: one.text(section) for one in read_reports(path, prefers=prefers)}


def lines(path, *records) -> object:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_json_lines_of_ours(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"id": "a", "status": "ok", "report": "Clear.", "token_ids": [1]},
        {"id": "b", "report": "FINDINGS: Big heart.\nIMPRESSION: Cardiomegaly."},
    )
    assert texts(path) == {"a": "Clear.", "b": "Big heart.\nCardiomegaly."}
    assert texts(path, section="findings") == {"a": "Clear.", "b": "Big heart."}
    assert texts(path, section="impression") == {"a": "Clear.", "b": "Cardiomegaly."}


def test_a_manifest_gives_references_with_their_patients(tmp_path):
    path = lines(
        tmp_path / "m.jsonl",
        {"id": "a", "file": "a.png", "patient": "p", "findings": "Edema.", "impression": None},
        {"id": "b", "file": "b.png", "patient": None, "findings": None, "impression": "Normal."},
    )
    found = read_reports(path, prefers="reference")
    assert [one.patient for one in found] == ["p", None]
    assert texts(path, "reference") == {"a": "Edema.", "b": "Normal."}
    assert texts(path, "reference", "findings") == {"a": "Edema.", "b": ""}


def test_rexranks_json_has_both_sides_in_one_file(tmp_path):
    path = tmp_path / "rexrank.json"
    path.write_text(
        '{"s1": {"section_findings": "Edema.", "section_impression": NaN, "report": "Edema.", "key_image": "x",'
        ' "model_prediction": "Pulmonary edema."}, "s2": {"section_findings": "None", "section_impression": "Normal.",'
        ' "model_prediction": null}}'
    )
    assert texts(path, "reference") == {"s1": "Edema.", "s2": "Normal."}
    assert texts(path, "prediction") == {"s1": "Pulmonary edema.", "s2": ""}


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path, suffix, mark):
    path = tmp_path / f"t.{suffix}"
    path.write_text(
        mark.join(("study_id", "report"))
        + "\n"
        + mark.join(("1", '"Clear, and\nFINDINGS: normal"'))
        + "\n2"
        + mark
        + "\n"
    )
    assert texts(path) == {"1": "Clear, and\nnormal", "2": ""}


@pytest.mark.parametrize("nothing", ["NaN", '"nan"', '"None"', '""', "null", '" N/A "'])
def test_nothing_never_becomes_a_word(tmp_path, nothing):
    path = tmp_path / "a.jsonl"
    path.write_text(
        f'{{"id": "a", "findings": {nothing}, "impression": "Normal."}}\n{{"id": "b", "report": {nothing}}}\n'
    )
    assert texts(path, "reference") == {"a": "Normal.", "b": ""}


def test_nothing_is_cut_and_sections_are_not_chosen_by_length_or_alphabet(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": "a", "report": LONG})
    assert len(texts(path)["a"].split()) == 3002
    path = lines(tmp_path / "b.jsonl", {"id": "a", "findings": "Zebra.", "impression": "A much longer impression."})
    assert texts(path, "reference", "findings") == {"a": "Zebra."}
    assert texts(path, "reference", "both") == {"a": "Zebra.\nA much longer impression."}


def test_what_no_reader_of_the_image_says_is_no_part_of_the_text():
    report = "PA chest.\nINDICATION: Cough.\nCOMPARISON: None.\nFINDINGS: Edema.\nRECOMMENDATION: Follow up."
    assert ReportText(id="a", report=report).text("both") == "PA chest.\nEdema.\nFollow up."
    assert ReportText(id="a", report=report).text("impression") == ""


def test_records_that_failed_upstream_keep_their_reason(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": "a", "status": "error", "error": {"code": "CORRUPT", "message": "cut"}})
    (one,) = read_reports(path, prefers="prediction")
    assert one.failed == ("CORRUPT", "cut")
    assert one.text("both") == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": "a"', "not JSON"),
        ("a.jsonl", "[1]", "not a JSON object"),
        ("a.jsonl", '{"report": "x"}', "no id"),
        ("a.jsonl", '{"id": "a", "token_ids": [1]}', "no report"),
        ("a.jsonl", '{"id": "a", "report": 3}', "report is an int"),
        ("a.jsonl", '{"id": "a", "report": "x"}\n{"id": "a", "report": "x"}', "id 'a' occurs twice"),
        ("a.json", "{", "not JSON"),
        ("a.json", '{"a": 1}', "no reports"),
        ("a.csv", "id,report\n1,a,b\n", "a.csv:2: 3 cells; expected 2"),
        ("a.csv", 'id,report\n1,"a', "a.csv:2: a quote opens or ends within a cell"),
        ("a.jsonl", "\udcff", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_reports(tmp_path / name, prefers="prediction")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_reports(tmp_path / "none.jsonl", prefers="prediction")


def test_scores_of_another_tool(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("study_id,report,bertscore,radgraph_combined\n1,text,0.5,0.25\n2,text,,0.5\n")
    assert read_scores(path, ["2", "1", "3"]) == {
        "bertscore": [None, 0.5, None],
        "radgraph_combined": [0.5, 0.25, None],
    }
    path.write_text("study_id,bertscore\n1,high\n")
    with pytest.raises(DataError, match="bertscore is a text of 4 characters"):
        read_scores(path, ["1"])
    path.write_text("name,bertscore\n1,0.5\n")
    with pytest.raises(DataError, match="no id"):
        read_scores(path, ["1"])
