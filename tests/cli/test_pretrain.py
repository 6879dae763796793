"""``chexmix pretrain``: all three stages, killed and resumed, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chexmix_cli.core.weights import open_weights

DEBUG = ("--preset", "debug")


@pytest.fixture
def manifest(films: Path) -> Path:
    from PIL import Image

    lines = []
    for index, name in enumerate(["a", "b", "c"] * 3):
        target = films / f"{name}{index}.png"
        Image.open(films / f"{name}.png").rotate(index * 7).save(target)
        split = "val" if index % 3 == 2 else "train"
        lines.append({"id": f"film{index}", "file": target.name, "split": split, "findings": f"The lungs of {name}."})
    path = films / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def metrics(run: Path) -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "examples_per_s"} for record in records]


@pytest.mark.slow
def test_three_stages_make_a_model_that_writes_reports(call, manifest, films, tmp_path):
    runs = {stage: tmp_path / stage for stage in ("tokenizer", "1", "2")}
    init: tuple[object, ...] = ()
    for stage, run in runs.items():
        result = call("pretrain", "--stage", stage, *DEBUG, "--data", manifest, "--out", run, *init)
        assert result.code == 0, result.stderr
        assert result.stdout == ""
        records = metrics(run)
        assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
        assert any("val_loss" in record for record in records)
        init = ("--init", run)
    assert {"loss", "loss_image", "loss_text", "learning_rate", "grad_norm"} <= set(metrics(runs["1"])[0])
    result = call("generate-report", films / "a.png", "--weights", runs["2"], "--set", "decode.max_new_tokens=8")
    assert result.code == 0
    assert result.records[0]["report"] is not None
    # Inpainting asks the weights how images were read in training.
    assert open_weights(runs["2"]).provenance["attention"] == "paper"


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(repository, call, manifest, tmp_path):
    """kill -9 in the middle: the metrics of the resumed run equal those of one that was left alone."""
    more = ("--set", "train.steps=40", "--set", "train.validate_every=10", "--set", "train.checkpoint_every=4")
    arguments = ["pretrain", "--stage", "tokenizer", *DEBUG, "--data", str(manifest), *more]
    assert call(*arguments, "--out", tmp_path / "whole").code == 0
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "chexmix_cli", *arguments, "--out", str(run)]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(run.glob("checkpoints/checkpoint-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(run.glob("checkpoints/checkpoint-*.safetensors"))
    result = call(*arguments, "--out", run, "--resume")
    assert result.code == 0, result.stderr
    assert "resumed after step" in result.stderr
    assert metrics(run) == metrics(tmp_path / "whole")


def test_a_run_is_not_overwritten(call, manifest, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    result = call("pretrain", "--stage", "tokenizer", *DEBUG, "--data", manifest, "--out", tmp_path / "run")
    assert result.code == 1
    assert "holds a run already" in result.stderr


def test_bad_training_input_stops_before_the_first_step(call, manifest, films, tmp_path, debug_weights):
    base = ("pretrain", *DEBUG, "--out", tmp_path / "run")
    nowhere = call(*base, "--stage", "tokenizer", "--data", tmp_path / "none.jsonl")
    assert (nowhere.code, "manifest cannot be read" in nowhere.stderr) == (1, True)
    no_init = call(*base, "--stage", "1", "--data", manifest)
    assert "need a trained image tokenizer" in no_init.stderr
    lines = manifest.read_text().splitlines()
    silent = json.loads(lines[0])
    silent["findings"] = None
    (films / "silent.jsonl").write_text("\n".join([json.dumps(silent), *lines[1:]]))
    missing = call(*base, "--stage", "1", "--data", films / "silent.jsonl", "--init", debug_weights)
    assert "film0: has neither findings nor impression" in missing.stderr
    broken = json.loads(lines[0])
    broken["file"] = "gone.png"
    (films / "broken.jsonl").write_text("\n".join([json.dumps(broken), *lines[1:]]))
    gone = call(*base, "--stage", "tokenizer", "--data", films / "broken.jsonl")
    assert "film0" in gone.stderr
    other = call(*base, "--stage", "1", "--data", manifest, "--init", debug_weights, "--set", "model.vqgan.code_size=4")
    assert "vqgan differs in code_size" in other.stderr
    assert not (tmp_path / "run").exists()
    for result in (nowhere, no_init, missing, gone, other):
        assert result.code == 1
