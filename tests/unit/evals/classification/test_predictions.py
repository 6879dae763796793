"""Predictions from a file: none is dropped without a word, none is invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.classification.predictions import match_predictions

ROWS = [ManifestRow(id=name, file=Path("none.png")) for name in ("a", "b", "c", "d", "e")]


IDS = {row.id for row in ROWS} | {"another split"}


def line(name, **fields):
    return "p:1", {"id": name, **fields}


def test_every_row_has_its_prediction_or_the_reason_why_not():
    lines = [
        line("c", probabilities={"Mass": 0.25, "Edema": 1}),
        line("a", probabilities={"Edema": 0.5, "Mass": 0}),
        line("b", status="error", error={"code": "BLANK", "message": "m"}),
        line("d", probabilities={"Mass": 0.5}),
        line("another split", probabilities={"Mass": 0.5, "Edema": 0.5}),
        line("nowhere", probabilities={"Mass": 0.5, "Edema": 0.5}),
    ]
    found = match_predictions(lines, ROWS, IDS, "p.jsonl")
    assert [row.id for row in found.rows] == ["a", "c"]
    assert found.names == ["Edema", "Mass"]
    assert found.prob_RK.tolist() == [[0.5, 0.0], [1.0, 0.25]]
    assert [(name, error.code) for name, error in found.failed] == [
        ("b", "UPSTREAM"),
        ("d", "BAD_RECORD"),
        ("e", "NOT_FOUND"),
        ("nowhere", "NOT_FOUND"),
    ]


@pytest.mark.parametrize(
    "probabilities",
    [None, {}, {"Mass": 1.2}, {"Mass": "0.5"}, {"Mass": True}, {"Mass": None}, {"Mass": float("nan")}, [0.5]],
)
def test_what_is_no_probability_is_said(probabilities):
    lines = [line("a", probabilities=probabilities), line("b", probabilities={"Mass": 0.5})]
    (failed,) = [error for name, error in match_predictions(lines, ROWS[:2], IDS, "p").failed if name == "a"]
    assert "no probabilities; expected {label: number in 0..1}" in str(failed)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line("")], "p:1: no id"),
        ([line(True)], "p:1: no id"),
        ([line("a"), line("a")], "p:1: an id comes twice"),
        ([], "p: none of 5 rows has a prediction; the first: no prediction"),
        ([line("a")], "p: none of 5 rows has a prediction; the first: no probabilities"),
    ],
)
def test_what_is_no_file_of_predictions_is_refused(lines, message):
    with pytest.raises(DataError, match=message):
        match_predictions(lines, ROWS, IDS, "p")


def test_spellings_and_numbers_are_matched_and_what_only_looks_alike_is_said():
    rows = [ManifestRow(id=name, file=Path("none.png")) for name in ("17", "00018")]
    lines = [line(17, probabilities={"pleural effusion": 0.5}), line(18.0, probabilities={"Pleural Effusion": 0.5})]
    found = match_predictions(lines, rows, {"17", "00018"}, "p")
    assert (found.names, [row.id for row in found.rows]) == (["Pleural Effusion"], ["17"])
    (missing, unknown) = found.failed
    assert (missing[0], unknown[0], unknown[1].code) == ("00018", "18", "NOT_FOUND")
    assert "leading zeros" in str(unknown[1].hint)
    twice = [line(17, probabilities={"edema": 0, "Edema": 1}), line("00018", probabilities={"Edema": 1})]
    assert "two spellings" in str(match_predictions(twice, rows, {"17", "00018"}, "p").failed[0][1])
