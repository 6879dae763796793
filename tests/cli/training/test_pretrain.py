"""``chexmix pretrain``: all three stages, killed and resumed, from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES
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
    return [{key: value for key, value in record.items() if key not in CLOCK_FIGURES} for record in records]


@pytest.mark.slow
def test_three_stages_make_a_model_that_writes_reports(call, manifest, films, tmp_path):
    runs = {stage: tmp_path / stage for stage in ("tokenizer", "1", "2")}
    init: tuple[object, ...] = ()
    for stage, run in runs.items():
        result = call("pretrain", "--stage", stage, *DEBUG, "--manifest", manifest, "--out", run, *init)
        assert result.code == 0, result.stderr
        records = metrics(run)
        assert [record["step"] for record in result.records] == [record["step"] for record in records]
        assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
        assert any({"val_loss", "val_l2"} & record.keys() for record in records)
        init = ("--init", run)
    assert {"loss", "loss_image", "loss_text", "learning_rate", "grad_norm"} <= set(metrics(runs["1"])[0])
    assert (runs["2"] / "losses.png").read_bytes().startswith(b"\x89PNG")
    result = call("generate-report", films / "a.png", "--weights", runs["2"], "--set", "decode.max_new_tokens=8")
    assert result.code == 0
    assert result.records[0]["report"] is not None
    # Inpainting asks the weights how images were read in training.
    assert open_weights(runs["2"]).settings.decoder.attention == "causal"


def test_flags_are_settings_and_a_run_keeps_its_precision_and_can_be_lengthened(call, manifest, tmp_path):
    run, few = tmp_path / "run", ("--set", "train.validate_every=2")
    base = ("pretrain", "--stage", "tokenizer", *DEBUG, "--manifest", manifest, "--out", run, *few)
    first = call(*base, "--seed", "5", "--dtype", "bfloat16", "--set", "train.steps=2")
    assert first.code == 0, first.stderr
    kept = json.loads((run / "settings.json").read_text())["train"]
    assert (kept["seed"], kept["precision"]) == (5, "bfloat16")
    assert "computes in bfloat16; mfu is the share of" in first.stderr
    # Not on a terminal: the records are data, as metrics.jsonl has them.
    assert [{**record, "left_s": 0, "best": 0} for record in first.records] == [
        {**json.loads(line), "left_s": 0, "best": 0} for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    # What this machine is faster in does not count any more.
    longer = call(*base, "--seed", "5", "--dtype", "auto", "--set", "train.steps=4", "--resume")
    assert longer.code == 0, longer.stderr
    assert "lengthened from 2 to 4 steps" in longer.stderr
    assert "computes in bfloat16" in longer.stderr
    assert metrics(run)[-1]["step"] == 4
    for flags, named in (
        (("--seed", "6"), "train.seed"),
        (("--seed", "5", "--dtype", "float32"), "train.precision"),
        (("--seed", "5", "--dtype", "auto", "--set", "train.steps=3"), "train.steps"),
    ):
        steps = () if named == "train.steps" else ("--set", "train.steps=4")
        dtype = ("--dtype", "bfloat16") if named == "train.seed" else ()
        refused = call(*base, *flags, *dtype, *steps, "--resume")
        assert refused.code == 1
        assert refused.stderr.splitlines()[-2].endswith(f"settings differ from the checkpoint's in {named}")


def test_a_logger_that_is_not_installed_stops_a_run_before_it_reads_a_film(call, manifest, tmp_path, monkeypatch):
    from chexmix_cli.core.train.reporting import loggers

    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    base = ("pretrain", "--stage", "tokenizer", *DEBUG, "--manifest", manifest, "--out", tmp_path / "run")
    result = call(*base, "--set", 'train.loggers=["wandb"]')
    assert result.code == 4
    assert "error: train.loggers: wandb needs the package wandb" in result.stderr
    assert "hint: pip install 'chexmix[loggers]'" in result.stderr
    assert "read train" not in result.stderr
    assert not (tmp_path / "run").exists()
    unknown = call(*base, "--set", 'train.loggers=["tensorbord"]')
    assert (unknown.code, "did you mean 'tensorboard'?" in unknown.stderr) == (2, True)


def start(repository: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "chexmix_cli", *arguments]
    return subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, after: int) -> None:
    """Return as soon as a run has a checkpoint of a step behind ``after``, or has ended."""
    while process.poll() is None:
        if any(int(path.name[11:]) > after for path in run.glob("checkpoints/checkpoint-????????")):
            return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenizer", "1", "2"])
def test_a_run_that_was_killed_and_stopped_ends_like_one_left_alone(
    repository, call, manifest, tmp_path, stage, debug_weights
):
    """kill -9, then SIGTERM, wherever the run happens to be: the metrics are those of one left alone, to the bit."""
    more = ("--set", "train.steps=24", "--set", "train.validate_every=15", "--set", "train.log_every=3")
    arguments = ["pretrain", "--stage", stage, *DEBUG, "--manifest", str(manifest), *more, "--device", "cpu"]
    arguments += ["--init", str(debug_weights)] if stage != "tokenizer" else []
    assert call(*arguments, "--out", tmp_path / "whole").code == 0
    run = tmp_path / "killed"
    killed = start(repository, *arguments, "--out", str(run))
    wait_for_checkpoint(killed, run, after=0)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "it ended before it could be killed"
    stopped = start(repository, *arguments, "--out", str(run), "--resume")
    wait_for_checkpoint(stopped, run, after=10)
    stopped.terminate()
    _, said = stopped.communicate()
    assert stopped.returncode == 130, said
    assert "a checkpoint is written" in said
    result = call(*arguments, "--out", run, "--resume")
    assert result.code == 0, result.stderr
    assert "resumed after step" in result.stderr
    assert metrics(run) == metrics(tmp_path / "whole")


def start_ranks(repository: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start two processes as torchrun does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "chexmix_cli", *arguments],
            cwd=repository,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


@pytest.mark.slow
def test_torchrun_trains_on_two_processes_as_on_one(repository, call, manifest, tmp_path, debug_weights):
    arguments = ["pretrain", "--stage", "2", *DEBUG, "--manifest", str(manifest), "--init", str(debug_weights)]
    arguments += ["--device", "cpu", "--set", "train.parallel=fsdp"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "chexmix_cli"]
    done = subprocess.run(
        [*command, *arguments, "--out", str(tmp_path / "two")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # One of the two writes the records.
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == [
        line["step"] for line in metrics(tmp_path / "two")
    ]
    assert done.stderr.count("works as --weights") == 1
    assert call(*arguments, "--out", tmp_path / "one").code == 0
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    for left, right in zip(one, two, strict=True):
        assert left.pop("order", None) == right.pop("order", None)
        assert left == pytest.approx(right, rel=2e-4)
    film, few = manifest.parent / "a.png", "decode.max_new_tokens=8"
    assert call("generate-report", film, "--weights", tmp_path / "two", "--set", few).code == 0


@pytest.mark.slow
def test_an_error_of_all_processes_is_told_once(repository, manifest, tmp_path):
    arguments = [
        "pretrain",
        "--stage",
        "tokenizer",
        *DEBUG,
        "--manifest",
        str(manifest),
        "--out",
        str(tmp_path / "run"),
    ]
    ranks = start_ranks(repository, *arguments, "--device", "cpu", "--set", "train.micro_batch_size=4")
    said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert sorted(bool(errors) for errors in said) == [False, True]
    assert "a step has 1 micro-batches for 2 processes" in "".join(said)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(call, manifest, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    result = call("pretrain", "--stage", "tokenizer", *DEBUG, "--manifest", manifest, "--out", tmp_path / "run")
    assert result.code == 1
    assert "holds a run already" in result.stderr


def test_pictures_alone_want_codes_to_draw(call, manifest, tmp_path):
    arguments = ("--stage", "tokenizer", *DEBUG, "--manifest", manifest, "--out", tmp_path / "run")
    result = call("pretrain", *arguments, "--set", "reconstruction.pictures_only=true")
    assert result.code == 1
    assert "there are no codes to draw pictures from" in result.stderr
    assert "--init with a trained image tokenizer" in result.stderr
    assert not (tmp_path / "run").exists()


def test_bad_training_input_stops_before_the_first_step(call, manifest, films, tmp_path, debug_weights):
    base = ("pretrain", *DEBUG, "--out", tmp_path / "run")
    nowhere = call(*base, "--stage", "tokenizer", "--manifest", tmp_path / "none.jsonl")
    assert (nowhere.code, "cannot be read" in nowhere.stderr) == (1, True)
    no_init = call(*base, "--stage", "1", "--manifest", manifest)
    assert "need a trained image tokenizer" in no_init.stderr
    lines = manifest.read_text().splitlines()
    silent = json.loads(lines[0])
    silent["findings"] = None
    (films / "silent.jsonl").write_text("\n".join([json.dumps(silent), *lines[1:]]))
    missing = call(*base, "--stage", "1", "--manifest", films / "silent.jsonl", "--init", debug_weights)
    assert "film0: has neither findings nor impression" in missing.stderr
    broken = json.loads(lines[0])
    broken["file"] = "gone.png"
    (films / "broken.jsonl").write_text("\n".join([json.dumps(broken), *lines[1:]]))
    gone = call(*base, "--stage", "tokenizer", "--manifest", films / "broken.jsonl")
    assert "film0" in gone.stderr
    other = call(
        *base, "--stage", "1", "--manifest", manifest, "--init", debug_weights, "--set", "model.vqgan.code_size=4"
    )
    assert "vqgan differs in code_size" in other.stderr
    assert not (tmp_path / "run").exists()
    for result in (nowhere, no_init, missing, gone, other):
        assert result.code == 1
