"""Every command and every training on this machine's GPU: the CPU's results. Skipped where there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from compared import MismatchError, compare, run, write_films
from scenarios import GROUPS

SCENARIOS = {scenario.name: scenario for group in GROUPS.values() for scenario in group}


@pytest.fixture
def folder(tmp_path):
    write_films(tmp_path)
    return tmp_path


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_real_card_gives_what_the_cpu_gives(name, debug_weights, folder):
    scenario = SCENARIOS[name]
    expected = run(scenario, "cpu", str(debug_weights), folder)
    last = f"cuda:{torch.cuda.device_count() - 1}"
    compare(expected, run(scenario, last, str(debug_weights), folder), name)


def test_the_comparison_sees_another_result(debug_weights, folder):
    """Where there is no card: the scenario runs as above, and one code of another film is told."""
    expected = run(SCENARIOS["tokenize"], "cpu", str(debug_weights), folder)
    assert len(expected["records"]) == 3
    other = {"records": [*expected["records"][:2], expected["records"][0]]}
    with pytest.raises(MismatchError, match=r"tokenize/records\[2\]"):
        compare(expected, other, "tokenize")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_cards_train_as_one(parallel, debug_weights, folder, repository):
    """Over NCCL: the losses of one process, within what another order of summing changes."""
    command = ["pretrain", "--stage", "2", "--preset", "debug", "--manifest", str(folder / "manifest.jsonl")]
    command += ["--init", str(debug_weights), "--device", "cuda", "--set", f"train.parallel={parallel}"]
    for setting in ("train.steps=4", "train.log_every=1", "train.precision=float32", "optimizer.learning_rate=1e-5"):
        command += ["--set", setting]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    losses = []
    for number, starter in enumerate(([sys.executable, "-m"], start)):
        out = folder / f"run-{number}"
        done = subprocess.run(
            [*starter, "chexmix_cli", *command, "--out", str(out)],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
