"""Two processes (gloo) against one: the same examples in the same order, the same losses, checkpoints for either."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
import torch
from rank_program import STEPS
from safetensors.torch import load_file
from small_runs import STAGES, make_trainer, metrics

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.plan.exchange import parameters_of, replicated, sharded
from chexmix_cli.core.train.checkpoint import list_checkpoints

PROGRAM = Path(__file__).with_name("rank_program.py")
PARALLEL = ("ddp", "fsdp")


def start_ranks(arguments: list[str], repository: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(repository), str(repository / "tests"))),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a folder with runs of one process and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    for stage in STAGES:
        make_trainer(stage, folder / f"alone-{stage}", steps=STEPS, ema_decay=0.5).run(resume=False)
    half = make_trainer("1", folder / "alone-bfloat16", steps=STEPS, ema_decay=0.5, precision="bfloat16")
    half.run(resume=False)
    stopped = make_trainer("2", folder / "one-ddp", steps=STEPS, checkpoint_every=2, ema_decay=0.5)
    interrupt_at(stopped, 4)
    with pytest.raises(InterruptedError):
        stopped.run(resume=False)
    shutil.copytree(folder / "one-ddp", folder / "one-fsdp")
    ranks = start_ranks([str(PROGRAM), str(folder)], repository)
    said = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return folder


def interrupt_at(trainer, step):
    select = trainer.task.examples.select

    def interrupted(number):
        if number == step:
            raise InterruptedError
        return select(number)

    trainer.task.examples.select = interrupted


def assert_same_run(left: Path, right: Path, rel: float) -> None:
    one, two = metrics(left), metrics(right)
    assert [record["step"] for record in one] == [record["step"] for record in two]
    for before, after in zip(one, two, strict=True):
        assert before.get("order") == after.get("order")
        for name, value in before.items():
            if isinstance(value, float):
                assert after[name] == pytest.approx(value, rel=rel, abs=1e-6), (before["step"], name)


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_do_what_one_does(runs, stage, parallel):
    assert_same_run(runs / f"alone-{stage}", runs / f"{parallel}-{stage}", rel=2e-4)


def test_ranks_whose_batches_others_prepare_learn_the_same_to_the_bit(runs):
    assert metrics(runs / "ddp-ahead") == metrics(runs / "ddp-2")


def test_a_batch_that_one_rank_has_not_ends_all_with_a_checkpoint_and_its_reason(runs):
    assert {(runs / f"lost-{rank}").read_text() for rank in (0, 1)} == {"film3: no such file"}
    checkpoint = list_checkpoints(runs / "ddp-lost/checkpoints")[-1]
    assert checkpoint.name == "checkpoint-00000004"
    assert sorted(file.name[:11] for file in checkpoint.glob("*.safetensors")) == ["shard-00001", "shard-00002"]


def test_weights_gathered_in_bfloat16_learn_what_one_process_does(runs):
    """Autocast rounds the same tensors; what differs is the order in which gradients are summed."""
    assert_same_run(runs / "alone-bfloat16", runs / "fsdp-bfloat16", rel=2e-3)


def test_a_plan_counts_what_two_processes_send(runs):
    decoder = Decoder(small_runs.model_settings().decoder)
    parameters, found = parameters_of(decoder, decoder.blocks), {}
    for parallel in PARALLEL:
        found[parallel] = json.loads((runs / f"{parallel}-collectives.json").read_text())
    counted = sharded(parameters, "bfloat16")
    for name, travels in (
        ("gathered", (counted.first, counted.forward, counted.again)),
        ("reduced", (counted.reduced, counted.last)),
    ):
        num_bytes, calls = found["fsdp"][name]
        assert calls == sum(travel.calls for travel in travels), name
        # Each process's share of each tensor is as long as the others': rows are added to some.
        assert num_bytes == pytest.approx(sum(travel.num_bytes for travel in travels), rel=0.01), name
    assert found["fsdp"]["summed"] == [0, 0]
    summed = replicated(parameters).step
    assert found["ddp"] == {"gathered": [0, 0], "reduced": [0, 0], "summed": [summed.num_bytes, summed.calls]}


def test_another_order_would_be_seen(runs):
    """Negative control of the comparison: a run with another seed differs in order and losses."""
    other = make_trainer("2", runs / "other-seed", steps=2, seed=1)
    other.run(resume=False)
    first, expected = metrics(runs / "other-seed")[0], metrics(runs / "alone-2")[0]
    assert first["order"] != expected["order"]
    assert first["loss"] != pytest.approx(expected["loss"], rel=2e-4)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_what_one_process_began_two_end(runs, parallel):
    assert_same_run(runs / "alone-2", runs / f"one-{parallel}", rel=2e-4)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_what_two_processes_began_one_ends(runs, parallel, tmp_path):
    """Rank 1 alone was told to stop: both did, after the same step, with a checkpoint of both."""
    begun = runs / f"{parallel}-stopped"
    checkpoint = list_checkpoints(begun / "checkpoints")[-1]
    assert checkpoint.name == "checkpoint-00000003"
    shards = sorted(file.name[:11] for file in checkpoint.glob("*.safetensors"))
    assert shards == ["shard-00001", "shard-00002"]
    shutil.copytree(begun, tmp_path / "run")
    assert make_trainer("2", tmp_path / "run", steps=STEPS, ema_decay=0.5).run(resume=True)
    assert_same_run(runs / "alone-2", tmp_path / "run", rel=2e-4)


def test_what_was_replicated_goes_on_sharded(runs):
    assert_same_run(runs / "alone-2", runs / "ddp-fsdp", rel=2e-4)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_exported_weights_are_whole(runs, parallel):
    alone, together = (load_file(runs / f"{name}-2" / "model/model.safetensors") for name in ("alone", parallel))
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert together[name].shape == tensor.shape
        assert torch.allclose(together[name], tensor, rtol=1e-3, atol=1e-4), name
