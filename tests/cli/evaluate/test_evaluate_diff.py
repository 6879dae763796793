"""``chexmix evaluate diff``: two result files in, a record a number out."""

from __future__ import annotations

import json

from chexmix_cli.core.evals.result import Evaluation, ItemStatistic, Measurement


def result(path, values, **fields):
    evaluation = Evaluation(
        task="report",
        measurements=[
            Measurement(
                name="bleu",
                value=sum(values) / len(values),
                n=len(values),
                fields={"ref": "findings", **fields},
                statistic=ItemStatistic(kind="mean", column="bleu"),
            )
        ],
        item_ids=[str(number) for number in range(len(values))],
        item_groups=list(range(len(values))),
        columns={"bleu": values},
    )
    path.write_text(json.dumps(evaluation.to_dict()))
    return path


def test_a_difference_is_tested_and_a_changed_protocol_is_named(call, tmp_path):
    values = [number / 50 for number in range(50)]
    first = result(tmp_path / "a.json", values)
    done = call("evaluate", "diff", first, result(tmp_path / "b.json", [value + 0.1 for value in values]))
    assert done.code == 0
    (record,) = done.records
    assert round(record["difference"], 6) == 0.1
    assert record["p_value"] < 0.01
    (record,) = call("evaluate", "diff", first, result(tmp_path / "c.json", values, trunc="60")).records
    assert record["changed"] == {"trunc": [None, "60"]}


def test_what_is_no_result_is_refused(call, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    done = call("evaluate", "diff", bad, bad)
    assert done.code == 1
    assert "a result of `chexmix evaluate`" in done.stderr
    done = call("evaluate", "diff", tmp_path / "none.json", bad)
    assert (done.code, "cannot be read" in done.stderr) == (1, True)
    bad.write_text("not json")
    assert "not JSON" in call("evaluate", "diff", bad, bad).stderr


def test_three_results_stand_side_by_side(call, tmp_path):
    values = [number / 50 for number in range(50)]
    paths = [
        result(tmp_path / f"{name}.json", [value + shift for value in values])
        for name, shift in (("base", 0.0), ("better", 0.1), ("same", 0.0))
    ]
    records = call("evaluate", "diff", *paths).records
    assert [(record["of"], round(record["difference"], 3)) for record in records] == [("better", 0.1), ("same", 0.0)]
    assert call("evaluate", "diff", *paths, "-o", tmp_path / "t.tex", "--html", tmp_path / "t.html").code == 0
    table = (tmp_path / "t.tex").read_text()
    assert "metric & base & better & same" in table
    assert "bleu & 0.490 & 0.590$^*$ & 0.490" in table
    page = (tmp_path / "t.html").read_text()
    assert "0.59" in page
    assert "<script" not in page
    call("evaluate", "diff", *paths, "-o", tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith("metric,base,better,better difference,better low,better high,better p,better remark,")
    assert len(lines) == 2


def test_results_of_different_kinds_and_forms_nobody_writes_are_refused(call, tmp_path):
    first = result(tmp_path / "a.json", [0.1, 0.2])
    other = json.loads(first.read_text()) | {"task": "retrieval"}
    (tmp_path / "b.json").write_text(json.dumps(other))
    done = call("evaluate", "diff", first, tmp_path / "b.json")
    assert done.code == 2
    assert "results of different kinds: report, retrieval" in done.stderr
    assert call("evaluate", "diff", first).code == 2
    assert "ends in .jsonl, .csv, .tex" in call("evaluate", "diff", first, first, "-o", tmp_path / "t.pdf").stderr
