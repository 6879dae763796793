"""Plans of training: what is carried over from small sizes equals what the full size costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from chexmix_cli.core import runtime
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.plan import pretrain as planning
from chexmix_cli.core.plan.measure import Plan, Point, extrapolate, module_bytes
from chexmix_cli.core.plan.pretrain import Costs, plan_pretrain, remedies, step_memory, with_examples
from chexmix_cli.core.plan.pretrain_data import DataFacts, data_facts
from chexmix_cli.core.plan.pretrain_step import measure_step
from chexmix_cli.core.plan.pretrain_tasks import drawn_decoder_task, drawn_tokenizer_task
from chexmix_cli.core.plan.sizes import DecoderSize, PictureSize
from chexmix_cli.core.settings.training import LoopSettings, OptimizerSettings, resolve_stage

CPU = torch.device("cpu")
OPTIMIZER = OptimizerSettings(learning_rate=1e-3)
MIB = 1024**2


def stage_settings(stage: str, **model):
    values = {"train": {"precision": "float32", "batch_size": 8, "micro_batch_size": 4}, "model": model}
    return resolve_stage(stage, "debug", [("test", values)]).settings


def cost(task, loop, optimizer=OPTIMIZER) -> dict[str, float]:
    return measure_step(task, loop, optimizer, device=CPU, budget_s=0.0)


@pytest.fixture(scope="module")
def manifest(draw_film, tmp_path_factory) -> Path:
    """Return a manifest of 12 films large enough to be read, 8 for training, with short reports."""
    folder = tmp_path_factory.mktemp("plan")
    lines = []
    for index in range(12):
        draw_film(index, side=96).save(folder / f"film{index}.png")
        split = "train" if index < 8 else "val"
        row = {"id": f"film{index}", "file": f"film{index}.png", "split": split, "findings": f"Case {index} is clear."}
        lines.append(json.dumps(row) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines))
    return folder / "manifest.jsonl"


@pytest.mark.parametrize("stage", ["1", "2"])
def test_bytes_of_few_layers_and_rows_carry_over_to_many(stage):
    settings = stage_settings(stage, decoder={"num_layers": 8, "hidden_size": 64})
    points = []
    for layers, rows in ((1, 512), (1, 1090), (3, 512)):
        task, loop = drawn_decoder_task(settings, DecoderSize(layers, rows, 4), [5, 30])
        points.append(Point({"layers": layers, "rows": rows}, cost(task, loop)))
    found = extrapolate(points, {"layers": 8, "rows": 1090})
    task, loop = drawn_decoder_task(settings, DecoderSize(8, 1090, 4), [5, 30])
    expected = cost(task, loop)
    assert found["pass_bytes"] == pytest.approx(expected["pass_bytes"], rel=0.05)
    assert expected["pass_bytes"] > module_bytes(task.module)[1]  # the second pass finds the gradients of the first
    assert all(expected[name] > 0 for name in ("learn_s", "update_s", "prepare_s", "validate_s"))


def test_bytes_of_few_documents_carry_over_to_many():
    settings = stage_settings("1")
    small, half, full = (
        cost(*drawn_decoder_task(settings, DecoderSize(2, 1090, examples), [20])) for examples in (2, 1, 16)
    )
    by_examples = [Point({"examples": n}, values) for n, values in ((2, small), (1, half))]
    found = with_examples(small, extrapolate(by_examples, {"examples": 0}), 8)
    assert found["pass_bytes"] == pytest.approx(full["pass_bytes"], rel=0.05)
    assert found["update_bytes"] == small["update_bytes"]


def test_bytes_of_small_pictures_carry_over_to_large_ones():
    settings = stage_settings("tokenizer", image={"resolution_px": 128}, vocabulary={"tokens_per_image": 256})
    sizes = (PictureSize(64, 1), PictureSize(32, 1))
    points = [Point({"pixels": size.pixels}, cost(*drawn_tokenizer_task(settings, size))) for size in sizes]
    full = PictureSize(128, 2)
    task, loop = drawn_tokenizer_task(settings, full)
    found = extrapolate(points, {"pixels": full.pixels})
    assert found["pass_bytes"] == pytest.approx(cost(task, loop)["pass_bytes"], rel=0.05)


def costs(**changes) -> Costs:
    step = {"pass_bytes": 50.0, "kept_bytes": 1.0, "update_bytes": 4.0}
    values = {"weights": 110, "trained": 100, "step": step, "beside": {"films": 7}, "before": {}}
    return Costs(**{**values, "before_s": 0.0, "cache_bytes": 0, "overhead": 0.0, **changes})


def test_processes_that_prepare_batches_take_memory_and_save_time():
    step = {"pass_bytes": 0.0, "kept_bytes": 0.0, "update_bytes": 0.0, "batch_bytes": 30.0}
    seconds = {"learn_s": 4.0, "prepare_s": 3.0, "update_s": 1.0, "validate_s": 0.0}
    found = costs(step=step | seconds)
    alone = LoopSettings(steps=1, batch_size=4, micro_batch_size=2)
    facts = DataFacts(num_train=4, num_val=4, report_tokens=(8,), film_bytes=0, read_s=0.0)
    assert planning.worker_memory(alone, found, 1000) == {}
    assert planning._times(alone, found, facts)["step"] == 2 * (4 + 3) + 1
    for workers, seconds_a_step in ((1, 9.0), (2, 9.0)):
        train = dataclasses.replace(alone, workers=workers)
        # Each has imported what the training has, and holds two batches of two micro-batches.
        assert planning.worker_memory(train, found, 1000) == {"workers": workers * (1000 + 2 * 60)}
        assert planning._times(train, found, facts)["step"] == seconds_a_step
    slow = costs(step={**found.step, "prepare_s": 30.0})
    assert planning._times(dataclasses.replace(alone, workers=2), slow, facts)["step"] == 30.0


def test_the_moment_that_takes_most_is_the_peak(monkeypatch):
    monkeypatch.setattr(planning, "FILE_BYTES", 1)
    one, four = (LoopSettings(steps=1, batch_size=size, micro_batch_size=1) for size in (1, 4))
    # One micro-batch and little activation: the update is the peak, with all gradients there.
    assert step_memory(one, costs()) == {"films": 7, "weights": 110, "optimizer": 200, "gradients": 100, "update": 4}
    large = costs(step={"pass_bytes": 500.0, "kept_bytes": 1.0, "update_bytes": 4.0})
    assert step_memory(one, large) == {"films": 7, "weights": 110, "optimizer": 200, "activations": 500}
    parts = step_memory(four, large)
    assert (parts["gradients"], parts["activations"]) == (100, 402)  # two more micro-batches left a byte each
    assert step_memory(one, costs(before={"encoding": 10_000})) == {"films": 7, "encoding": 10_000}
    with_mean = dataclasses.replace(one, ema_decay=0.9)
    assert step_memory(with_mean, large)["average"] == 100
    assert step_memory(one, costs(overhead=0.5))["allocator"] == (110 + 200 + 100 + 4) // 2
    # A checkpoint's file is there twice while it is written, and it is no larger than the checkpoint.
    state = {"films": 7, "weights": 110, "optimizer": 200, "gradients": 100}
    for file_bytes, held in ((40, 80), (1000, 620)):
        monkeypatch.setattr(planning, "FILE_BYTES", file_bytes)
        assert step_memory(one, costs()) == {**state, "checkpoint": held}


def test_remedies_need_less_and_say_what_they_come_to(monkeypatch):
    monkeypatch.setattr(planning, "FILE_BYTES", 1)
    train = LoopSettings(steps=1, batch_size=8, micro_batch_size=4)
    large = costs(step={"pass_bytes": 900.0, "kept_bytes": 0.0, "update_bytes": 4.0})
    plan = Plan("x", {"process": 20, **step_memory(train, large)}, 1000, {}, {})
    smaller, spread = remedies(train, large, plan)
    assert smaller.what == "--set train.micro_batch_size=1"
    # Of 800 bytes of activations a quarter stays.
    assert smaller.peak_bytes == 20 + 7 + 310 + 100 + 200
    assert "3 processes" in spread.what
    assert spread.peak_bytes <= 1000
    tight = dataclasses.replace(plan, available_bytes=100)
    assert [remedy.what for remedy in remedies(train, large, tight)] == [smaller.what]


def test_a_stage_is_planned_with_its_manifest(manifest):
    settings = stage_settings("1", image={"resolution_px": 32})
    plan = plan_pretrain(settings, data=manifest, device=CPU, name="stage 1", memory_bytes=4096 * MIB)
    assert plan.fits
    assert (plan.sizes["train_films"], plan.sizes["val_films"]) == (8, 4)
    assert plan.remarks == []
    assert plan.times["run"] == pytest.approx(sum(plan.times[name] for name in ("steps", "validation", "data")))
    assert plan.times["validation"] > 0
    record = plan.record()
    assert record["peak_bytes"] == sum(record["memory_bytes"].values())


def test_a_plan_without_data_says_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda: False)
    settings = resolve_stage("2", "debug", [("test", {"train": {"precision": "bfloat16"}})]).settings
    plan = plan_pretrain(settings, data=None, device=CPU, name="stage 2", memory_bytes=MIB)
    assert not plan.fits
    assert any("reports of 64 tokens" in remark for remark in plan.remarks)
    assert any("not faster in bfloat16" in remark for remark in plan.remarks)
    assert plan.times["data"] == 0


def test_computing_activations_twice_is_offered_where_it_helps(monkeypatch):
    """A deep decoder whose activations are what is too much: with the second computation the need falls."""
    values = {"train": {"micro_batch_size": 4}, "model": {"decoder": {"num_layers": 12, "hidden_size": 64}}}
    settings = resolve_stage("1", "debug", [("test", values)]).settings
    # What the allocator keeps depends on what the process did before: here it is the tensors that count.
    monkeypatch.setattr("chexmix_cli.core.plan.pretrain._overhead", lambda points, base: 0.0)
    plan = plan_pretrain(settings, data=None, device=CPU, name="stage 1", memory_bytes=10 * MIB)
    assert not plan.fits
    offered = {remedy.what: remedy.peak_bytes for remedy in plan.remedies}
    assert offered["--set train.checkpoint_activations=true"] < plan.peak_bytes - MIB


def test_facts_of_a_manifest(manifest, trained_model, tmp_path):
    facts = data_facts(manifest, trained_model)
    assert (facts.num_train, facts.num_val) == (8, 4)
    assert facts.film_bytes == 12 * (32 * 32 + 64 * 64)  # the picture, and the film it is cropped from
    assert all(1 <= count <= 30 for count in facts.report_tokens)
    only_train = tmp_path / "train.jsonl"
    only_train.write_text("".join(line + "\n" for line in manifest.read_text().splitlines()[:3]))
    with pytest.raises(TrainingError, match="no row with split 'val'"):
        data_facts(only_train, trained_model)
