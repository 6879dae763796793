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
