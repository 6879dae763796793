"""Results: signatures, the JSON form and back, differences between two."""

from __future__ import annotations

import json

import pytest

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.diff import compare
from chexmix_cli.core.evals.result import (
    Curve,
    Evaluation,
    ItemStatistic,
    Measurement,
    Series,
    read_evaluation,
)
from chexmix_cli.core.settings.evaluation import BootstrapSettings

SETTINGS = BootstrapSettings(resamples=200)


def evaluation(shift: float = 0.0, unc: str = "ignore", ids: int = 40) -> Evaluation:
    scores = [index / 40 + (shift if index % 2 else 0.0) for index in range(ids)]
    labels = [float(index % 2) for index in range(ids)]
    return Evaluation(
        task="classification",
        measurements=[
            Measurement(
                name="mean_score",
                value=sum(scores) / ids,
                n=ids,
                fields={"label": "Edema", "unc": unc},
                interval=(0.1, 0.9),
                statistic=ItemStatistic(kind="mean", column="score"),
            ),
            Measurement(
                name="auroc",
                value=0.5,
                n=ids,
                fields={"label": "Edema", "unc": unc},
                statistic=ItemStatistic(kind="auroc", column="score", labels="label"),
            ),
            Measurement(name="f1", value=None, n=0, fields={"label": "Hernia"}, reason="no positive"),
        ],
        data={"split": "val", "images": ids},
        item_ids=[f"i{index}" for index in range(ids)],
        item_groups=list(range(ids)),
        columns={"score": scores, "label": labels},
        curves=[Curve(name="roc", title="ROC", x_label="x", y_label="y", series=[Series(name="a", x=[0], y=[1])])],
        missing=[{"what": "GREEN", "reason": "no judge"}],
    )


def test_the_signature_names_every_field():
    measurement = evaluation().measurements[0]
    assert measurement.signature.startswith("mean_score|label:Edema|unc:ignore|n:40|v:")


def test_json_and_back_is_the_same():
    once = evaluation().to_dict()
    assert read_evaluation(json.loads(json.dumps(once, allow_nan=False)), "x").to_dict() == once


@pytest.mark.parametrize("spoil", [{"schema": "other"}, {"metrics": [{}]}, {"items": None}])
def test_what_is_no_result_is_refused(spoil):
    with pytest.raises(DataError, match="expected"):
        read_evaluation({**evaluation().to_dict(), **spoil}, "x.json")


def test_equal_protocols_are_tested_in_pairs():
    records = compare(evaluation(), evaluation(shift=0.3), SETTINGS)
    mean, auroc, f1 = records
    assert mean["difference"] == pytest.approx(0.15)
    assert mean["interval"][0] > 0
    assert mean["p_value"] < 0.05
    assert auroc["difference"] > 0.2, "recomputed from the items, not taken from the stored numbers"
    assert f1["remark"] == "no value in first and second"


def test_other_protocols_are_named_and_not_tested():
    records = compare(evaluation(), evaluation(unc="ones"), SETTINGS)
    assert records[0]["changed"] == {"unc": ["ignore", "ones"]}
    assert records[0]["remark"] == "protocols differ: unc ignore / ones"
    assert records[0]["difference"] is None


def test_only_shared_items_are_compared_and_said():
    records = compare(evaluation(), evaluation(ids=30), SETTINGS)
    assert records[0]["remark"] == "on the 30 items they share"


def test_a_number_of_one_result_only_is_said():
    first, second = evaluation(), evaluation()
    fewer = Evaluation(
        task="classification",
        measurements=second.measurements[:1],
        item_ids=second.item_ids,
        item_groups=second.item_groups,
        columns=second.columns,
    )
    assert [record["remark"] for record in compare(first, fewer, SETTINGS)] == [
        "",
        "only in the first",
        "only in the first",
    ]
    assert compare(fewer, first, SETTINGS)[-1]["remark"] == "only in the second"
