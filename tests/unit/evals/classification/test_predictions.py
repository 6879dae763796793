"""Predictions from a file: none is dropped without a word, none is invented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.classification.predictions import match_predictions

ROWS = [ManifestRow(id=name, file=Path("none.png")) for name in ("a", "b", "c", "d", "e")]


def line(name, **fields):
    return json.dumps({"id": name, **fields})


def test_every_row_has_its_prediction_or_the_reason_why_not():
    lines = [
        line("c", probabilities={"Mass": 0.25, "Edema": 1}),
        line("a", probabilities={"Edema": 0.5, "Mass": 0}),
        "",
        line("b", status="error", error={"code": "BLANK", "message": "m"}),
        line("d", probabilities={"Mass": 0.5}),
        line("another split", probabilities={"Mass": 0.5, "Edema": 0.5}),
    ]
    found = match_predictions(lines, ROWS, "p.jsonl")
    assert [row.id for row in found.rows] == ["a", "c"]
    assert found.names == ["Edema", "Mass"]
    assert found.prob_RK.tolist() == [[0.5, 0.0], [1.0, 0.25]]
    assert [(name, error.code) for name, error in found.failed] == [
        ("b", "UPSTREAM"),
        ("d", "BAD_RECORD"),
        ("e", "NOT_FOUND"),
    ]


@pytest.mark.parametrize(
    "probabilities",
    [None, {}, {"Mass": 1.2}, {"Mass": "0.5"}, {"Mass": True}, {"Mass": None}, {"Mass": float("nan")}, [0.5]],
)
def test_what_is_no_probability_is_said(probabilities):
    lines = [line("a", probabilities=probabilities), line("b", probabilities={"Mass": 0.5})]
    (failed,) = [error for name, error in match_predictions(lines, ROWS[:2], "p").failed if name == "a"]
    assert "no probabilities; expected {label: number in 0..1}" in str(failed)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "p:1: not JSON"),
        (["[]"], "p:1: no id"),
        ([line("a"), line("a")], "p:2: an id comes twice"),
        ([], "p: none of 5 rows has a prediction"),
    ],
)
def test_what_is_no_file_of_predictions_is_refused(lines, message):
    with pytest.raises(DataError, match=message):
        match_predictions(lines, ROWS, "p")
