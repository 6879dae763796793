"""``chexmix plan``: verdicts, exit codes, what a person and a program read."""

from __future__ import annotations

import json

import pytest

DEBUG = ("--stage", "1", "--preset", "debug")


def test_a_run_that_fits_exits_0_with_its_figures(call):
    result = call("plan", "pretrain", *DEBUG, "--memory", "8")
    assert result.code == 0, result.stderr
    (record,) = result.records
    assert record["command"] == "pretrain stage 1"
    assert record["fits"] is True
    assert record["peak_bytes"] == sum(record["memory_bytes"].values()) < record["available_bytes"] == 8 * 1024**3
    assert record["seconds"]["step"] > 0
    assert record["sizes"]["steps"] == 6


def test_a_run_that_does_not_fit_exits_4_and_says_by_how_much(call):
    result = call("plan", "pretrain", *DEBUG, "--memory", "0.1")
    assert result.code == 4
    (record,) = result.records
    assert record["fits"] is False
    assert record["short_bytes"] == record["peak_bytes"] - record["available_bytes"] > 0
    assert any("micro_batch_size" in remedy["what"] for remedy in record["remedies"])


@pytest.mark.parametrize(("memory", "code"), [("80", 0), ("1", 4)])
def test_cards_are_counted(call, memory, code):
    result = call("plan", "pretrain", *DEBUG, "--cards", "1,2", "--set", "train.micro_batch_size=1", "--memory", memory)
    assert result.code == code, result.stderr
    (record,) = result.records
    assert [count["cards"] for count in record["counts"]] == [1, 2]
    for count in record["counts"]:
        assert count["step_s"] == pytest.approx(sum(count["seconds"].values()), abs=1e-3)
        assert 0 < count["mfu"] < 1
    assert record["assumptions"]["memory_bytes"]["value"] == float(memory) * 1024**3


def test_a_person_reads_cards_beside_each_other(call, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = call("plan", "pretrain", *DEBUG, "--cards", "1", "--memory", "1").stdout
    for word in ("MFU", "products", "lacks", "assumed", "data sheet", "not measured"):
        assert word in shown


@pytest.mark.parametrize(
    ("cards", "more", "said"),
    [
        ("1,x", (), "numbers above 0 with commas between"),
        ("0", (), "numbers above 0 with commas between"),
        ("1", ("--device", "cpu"), "cannot be combined with --device"),
        ("7", (), "micro-batches for 7 cards"),
    ],
)
def test_cards_that_cannot_be_planned_are_refused(call, cards, more, said):
    result = call("plan", "pretrain", *DEBUG, "--cards", cards, *more)
    assert (result.code, said in result.stderr, result.stdout) == (2, True, "")


@pytest.mark.parametrize("memory", ["8", "0.1"])
def test_a_person_reads_tables(call, monkeypatch, memory):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = call("plan", "generate-report", "--model-preset", "debug", "--memory", memory).stdout
    assert ("fits. It needs" in shown) == (memory == "8")
    assert ("does not fit, by" in shown) == (memory == "0.1")
    for word in ("process", "decoder", "image tokenizer", "together", "token"):
        assert word in shown


def test_the_embedded_model_is_planned_by_default(call):
    result = call("plan", "generate-report", "--set", "decode.max_new_tokens=20")
    assert result.code == 0, result.stderr
    (record,) = result.records
    assert record["sizes"]["new_tokens"] == 20
    assert record["memory_bytes"]["decoder"] == 4 * record["sizes"]["parameters"]


def test_wrong_plans_are_refused(call, tmp_path):
    both = call("plan", "generate-report", "--model-preset", "debug", "--weights", "chexmix-mini")
    assert (both.code, "cannot be combined with --weights" in both.stderr) == (2, True)
    unknown = call("plan", "generate-report", "--model-preset", "phi3")
    assert (unknown.code, "expected debug, mini, phi2" in unknown.stderr) == (2, True)
    nowhere = call("plan", "pretrain", *DEBUG, "--manifest", tmp_path / "none.jsonl")
    assert (nowhere.code, "cannot be read" in nowhere.stderr) == (1, True)
    stage = call("plan", "pretrain", "--stage", "9")
    assert (stage.code, "unknown stage '9'" in stage.stderr) == (2, True)
    for result in (both, unknown, nowhere, stage):
        assert result.stdout == ""


def test_settings_are_those_of_the_run(call):
    shown = json.loads(call("plan", "pretrain", *DEBUG, "--set", "train.steps=9", "--show-config").stdout)
    assert shown["settings"]["train"]["steps"] == 9
