"""``chexmix evaluate report``: the join, the formats, pipes, judges, pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEW = ("--set", "bootstrap.resamples=100", "--set", "external.run=false")
REFERENCES = [
    {"id": "a", "report": "FINDINGS: The heart is enlarged. No effusion.\nIMPRESSION: Cardiomegaly.", "patient": "p"},
    {"id": "b", "report": "No acute cardiopulmonary abnormality.", "patient": "p"},
    {"id": "c", "report": "Small right pleural effusion.", "patient": "q"},
]


def write_lines(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def references(tmp_path) -> Path:
    return write_lines(tmp_path / "refs.jsonl", REFERENCES)


def metric(record, name: str, **fields: str):
    (one,) = [m for m in record["metrics"] if m["name"] == name and fields.items() <= m["fields"].items()]
    return one


def test_the_same_reports_agree(call, references):
    result = call("evaluate", "report", references, "--references", references, *FEW)
    assert result.code == 0
    (record,) = result.records
    for name, fields in (
        ("bleu4", {}),
        ("rouge_l", {"form": "coco"}),
        ("label_f1", {"avg": "micro", "set": "14", "unc": "pos"}),
    ):
        assert metric(record, name, **fields)["value"] == pytest.approx(1.0)
    assert metric(record, "comparison_claims", of="predictions")["value"] == 0
    assert metric(record, "bleu", form="sacrebleu")["value"] == pytest.approx(100)
    for one in record["metrics"]:
        assert one["signature"].startswith(f"{one['name']}|")
        assert {"ref", "trunc", "empty", "clean"} <= one["fields"].keys()


def test_missing_and_empty_predictions_count_and_unknown_ones_are_listed(call, tmp_path, references):
    predictions = [
        {"id": "a", "report": REFERENCES[0]["report"]},
        {"id": "b", "report": ""},
        {"id": "elsewhere", "report": "Nothing."},
    ]
    result = call(
        "evaluate", "report", write_lines(tmp_path / "p.jsonl", predictions), "--references", references, *FEW
    )
    assert result.code == 3
    assert "1 references have no prediction: they count as empty reports" in result.stderr
    assert "elsewhere\tNOT_FOUND\tno reference has this id" in result.stderr
    (record,) = result.records
    assert record["items"]["ids"] == ["a", "b", "c"]
    assert record["data"]["empty_predictions"] == 2
    assert record["data"]["missing_predictions"] == 1
    assert record["failed"] == [{"id": "elsewhere", "code": "NOT_FOUND", "message": "no reference has this id"}]
    assert metric(record, "sentence_bleu2")["value"] == pytest.approx(1 / 3)
    assert metric(record, "sentence_bleu2")["n"] == 3


def test_contradictions_are_of_the_whole_text_whatever_section_is_compared(call, tmp_path):
    parts = {"findings": "There is a left pleural effusion.", "impression": "No pleural effusion."}
    headed = "FINDINGS: " + parts["findings"] + "\nIMPRESSION: " + parts["impression"]
    references = write_lines(tmp_path / "r.jsonl", [{"id": "a", **parts}, {"id": "b", "findings": "Clear lungs."}])
    predictions = write_lines(tmp_path / "p.jsonl", [{"id": "a", "report": headed}, {"id": "b", "report": "Clear."}])
    for section in ("both", "findings"):
        result = call(
            "evaluate", "report", predictions, "--references", references, "--set", f"section={section}", *FEW
        )
        (record,) = result.records
        for of in ("predictions", "references"):
            assert metric(record, "self_contradiction", of=of)["value"] == 0.5
            assert record["items"]["columns"][f"self_contradiction_{of}"] == [1.0, 0.0]


def test_a_reference_without_text_is_left_out_and_said(call, tmp_path):
    path = write_lines(tmp_path / "r.jsonl", [{"id": "a", "report": "Clear."}, {"id": "b", "report": "nan"}])
    result = call("evaluate", "report", path, "--references", path, *FEW)
    assert result.code == 0
    assert "1 references have no text in the section: they are left out" in result.stderr
    assert result.records[0]["items"]["ids"] == ["a"]
    only = call(
        "evaluate", "report", path, "--references", write_lines(tmp_path / "e.jsonl", [{"id": "b", "report": ""}])
    )
    assert only.code == 1
    assert "no reference has text in section 'both'" in only.stderr


def test_every_format_gives_the_same_numbers(call, tmp_path, references):
    expected = call("evaluate", "report", references, "--references", references, *FEW).records[0]["metrics"]
    rows = {one["id"]: one["report"] for one in REFERENCES}
    (tmp_path / "p.json").write_text(json.dumps({one: {"model_prediction": text} for one, text in rows.items()}))
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        quoted = [f'{one}{mark}"{text}"' for one, text in rows.items()]
        (tmp_path / f"p.{suffix}").write_text(f"study_id{mark}report\n" + "\n".join(quoted) + "\n")
    for name in ("p.json", "p.csv", "p.tsv"):
        found = call("evaluate", "report", tmp_path / name, "--references", references, *FEW).records[0]["metrics"]
        assert found == expected, name


def test_a_pipe_from_images_to_numbers(repository, films, debug_weights, tmp_path):
    refs = write_lines(tmp_path / "refs.jsonl", [{"id": name, "report": "Clear lungs."} for name in "abc"])
    ids = subprocess.run(
        [sys.executable, "-m", "chexmix_cli", "tokenize", str(films), "--weights", str(debug_weights), "--no-codes"],
        capture_output=True, text=True, check=True, cwd=repository,
    )  # fmt: skip
    names = [json.loads(line)["id"] for line in ids.stdout.splitlines()]
    write_lines(refs, [{"id": name, "report": "Clear lungs."} for name in names])
    program, model = f"{sys.executable} -m chexmix_cli", f"--weights {debug_weights}"
    pipe = (
        f"{program} tokenize {films} {model} | {program} generate-report - {model} --set decode.max_new_tokens=8"
        f" | {program} evaluate report --references {refs} - {' '.join(FEW)}"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["items"]["ids"] == names
    assert record["data"]["missing_predictions"] == 0


def test_a_reader_that_goes_away_is_no_crash(repository, references):
    command = f"{sys.executable} -m chexmix_cli evaluate report {references} --references {references}"
    pipe = f"{command} {' '.join(FEW)} | head -c 1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=repository, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stdin", "message"),
    [("{", "not JSON"), ("path.png", "not JSON"), ('{"id": "a", "token_ids": [1]}', "no report")],
)
def test_what_comes_in_wrong_is_said(call, references, stdin, message):
    result = call("evaluate", "report", "-", "--references", references, *FEW, stdin=stdin + "\n")
    assert result.code == 1
    assert message in result.stderr
    assert result.stdout == ""


def test_failed_records_count_as_empty_and_end_with_3(call, references):
    lines = [
        {"id": "a", "report": "Clear."},
        {"id": "b", "status": "error", "error": {"code": "CORRUPT", "message": "x"}},
    ]
    stdin = "".join(json.dumps(line) + "\n" for line in lines)
    result = call("evaluate", "report", "-", "--references", references, *FEW, stdin=stdin)
    assert result.code == 3
    assert result.records[0]["failed"] == [{"id": "b", "code": "CORRUPT", "message": "x"}]
    assert result.records[0]["data"]["missing_predictions"] == 2


def test_saved_judge_answers_give_green_by_both_parsers(call, tmp_path, references):
    good = (
        "[Clinically Significant Errors]:\n"
        + "".join(f"({k}) e: 0.\n" for k in "abcdef")
        + "\n[Matched Findings]:\n1. x"
    )
    answers = [{"id": "a", "answer": good}, {"id": "b", "answer": "[Matched Findings]:\n2. x"}]
    saved = write_lines(tmp_path / "judge.jsonl", answers)
    result = call("evaluate", "report", references, "--references", references, "--green-answers", saved, *FEW)
    (record,) = result.records
    # Without its block of errors the second answer is a full score for the official parser.
    assert metric(record, "green", parser="official")["value"] == 1.0
    assert metric(record, "green", parser="official")["n"] == 2
    assert metric(record, "green", parser="strict")["n"] == 1
    assert record["data"]["green"]["unparsable"] == {"no block of clinically significant errors": 1}
    assert record["data"]["green"]["without_answer"] == 1


def test_scores_of_another_tool_are_combined(call, tmp_path, references):
    table = tmp_path / "scores.csv"
    table.write_text("study_id,radgraph_combined,bertscore,semb_score,bleu_score\na,.53792,.61757,.76479,.44738\n")
    result = call(
        "evaluate", "report", references, "--references", references, *FEW, "--set", f"external.scores={table}"
    )
    found = metric(result.records[0], "radcliq")
    assert (found["value"], found["n"]) == (pytest.approx(0.0), 1)


def test_without_packages_and_judge_the_reasons_are_given(call, references):
    result = call("evaluate", "report", references, "--references", references, "--set", "bootstrap.resamples=0")
    (record,) = result.records
    for name, fields in (("green", {"parser": "strict"}), ("radcliq", {}), ("bertscore", {})):
        found = metric(record, name, **fields)
        assert found["value"] is None
        assert found["reason"]
    assert {one["reason"] for one in record["missing"]}


def test_the_page_shows_the_worst_and_the_best_with_both_texts(call, tmp_path, references):
    predictions = [{**one, "report": "Zebra <b>stripes</b>."} if one["id"] == "a" else one for one in REFERENCES]
    path, page = write_lines(tmp_path / "p.jsonl", predictions), tmp_path / "page.html"
    result = call(
        "evaluate", "report", path, "--references", references, *FEW, "--html", page, "-o", tmp_path / "r.json",
        "--set", "cases=1",
    )  # fmt: skip
    assert result.code == 0
    text = page.read_text()
    assert "worst by label F1" in text
    assert "Zebra &lt;b&gt;stripes&lt;/b&gt;." in text
    assert "Zebra" not in result.stdout + result.stderr + (tmp_path / "r.json").read_text()


def test_two_results_are_compared_item_by_item(call, tmp_path, references):
    worse = write_lines(tmp_path / "w.jsonl", [{**one, "report": "Edema."} for one in REFERENCES])
    for name, predictions in (("a.json", references), ("b.json", worse)):
        call("evaluate", "report", predictions, "--references", references, *FEW, "-o", tmp_path / name)
    result = call("evaluate", "diff", tmp_path / "a.json", tmp_path / "b.json")
    by_id = {record["id"]: record for record in result.records}
    (rouge,) = [record for name, record in by_id.items() if name.startswith("rouge_l|form:coco")]
    assert rouge["difference"] == pytest.approx(-1.0)
    assert rouge["changed"] == {}
