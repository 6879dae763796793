"""The loop: resume to the bit, stops, damaged checkpoints, non-finite gradients, learning."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.training import (
    LoopSettings,
    MaskingSettings,
    OptimizerSettings,
    Stage1Training,
    Stage2Training,
    TokenizerTraining,
)
from chexmix_cli.core.train.checkpoint import list_checkpoints
from chexmix_cli.core.train.decoder_task import DecoderTask
from chexmix_cli.core.train.films import Films
from chexmix_cli.core.train.loop import Trainer
from chexmix_cli.core.train.tokenizer_task import TokenizerTask

LOOP = LoopSettings(
    steps=9, batch_size=4, micro_batch_size=2, checkpoint_every=3, validate_every=4, log_every=1, precision="float32"
)
OPTIMIZER = OptimizerSettings(learning_rate=3e-3, warmup_steps=2, weight_decay=0.1)


@pytest.fixture
def build(trained_model, document_set, draw_film):
    """Return a function that makes a fresh trainer of a stage, as a new process would."""

    def make(stage: str, out: Path, report: Any = lambda record: None, **loop: Any) -> Trainer:
        torch.manual_seed(0)
        train = dataclasses.replace(LOOP, **loop)
        common = {"model": trained_model, "train": train, "optimizer": OPTIMIZER}
        if stage == "tokenizer":
            settings = TokenizerTraining(**common)
            films = Films([draw_film(seed) for seed in range(6)], trained_model)
            task = TokenizerTask(settings, Vqgan(trained_model.vqgan), films, films, [f"film{i}" for i in range(6)])
        else:
            settings = Stage1Training(**common) if stage == "1" else Stage2Training(**common, masking=MaskingSettings())
            decoder = Decoder(trained_model.decoder)
            init_decoder(decoder, torch.Generator().manual_seed(0))
            task = DecoderTask(settings, decoder, document_set, document_set, lambda directory: None)
        out.mkdir(parents=True, exist_ok=True)
        return Trainer(task, train, OPTIMIZER, to_dict(settings), out=out, report=report)

    return make


def losses(out: Path) -> list[dict[str, float]]:
    """Return the metrics without the one figure that depends on the clock."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "examples_per_s"} for record in records]


@pytest.mark.parametrize("stage", ["tokenizer", "1", "2"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(build, tmp_path, stage):
    whole = build(stage, tmp_path / "whole")
    assert whole.run(resume=False)

    class Killed(BaseException):
        pass

    def die(record):
        if record.get("step") == 7 and "loss" in record:
            raise Killed

    with pytest.raises(Killed):
        build(stage, tmp_path / "parts", report=die).run(resume=False)
    remarks = []
    again = build(stage, tmp_path / "parts", report=lambda record: remarks.append(record.get("remark")))
    assert again.run(resume=True)
    assert "resumed after step 6" in remarks
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    expected = whole.task.module.state_dict()
    for name, tensor in again.task.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_sigterm_leaves_a_checkpoint_to_go_on_from(build, tmp_path):
    def terminate(record):
        if record.get("step") == 5 and "loss" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert build("1", tmp_path / "parts", report=terminate).run(resume=False) is False
    assert signal.getsignal(signal.SIGTERM) is before
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "checkpoint-00000005.safetensors"
    assert build("1", tmp_path / "parts").run(resume=True)
    build("1", tmp_path / "whole").run(resume=False)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_damaged_checkpoint_is_passed_over_and_said(build, tmp_path):
    build("1", tmp_path).run(resume=False)
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name[11:19] for path in checkpoints] == ["00000006", "00000009"]
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:-100])
    remarks = []
    trainer = build("1", tmp_path, report=lambda record: remarks.append(record.get("remark") or ""))
    assert trainer.run(resume=True)
    assert any("checkpoint-00000009.safetensors is damaged" in remark for remark in remarks)
    assert "resumed after step 6" in remarks


@pytest.mark.parametrize(("higher_is_better", "best"), [(False, 1.0), (True, 3.0)])
def test_the_task_names_the_metric_that_decides_and_its_direction(build, tmp_path, higher_is_better, best):
    records = []
    trainer = build("1", tmp_path, report=records.append, validate_every=3)
    values = iter([2.0, 1.0, 3.0])
    trainer.task.metric, trainer.task.higher_is_better = "val_figure", higher_is_better
    trainer.task.validate = lambda: {"val_figure": next(values)}
    trainer.run(resume=False)
    assert trainer.position.best == best
    # The second is better where less is, the third where more is.
    expected = [True, False, True] if higher_is_better else [True, True, False]
    assert [record["best"] for record in records if "val_figure" in record] == expected


def test_resume_without_a_checkpoint_and_with_other_settings_is_refused(build, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        build("1", tmp_path).run(resume=True)
    build("1", tmp_path).run(resume=False)
    with pytest.raises(TrainingError, match=r"settings differ .* in train"):
        build("1", tmp_path, seed=1).run(resume=True)


def test_micro_batches_change_nothing_but_rounding(build, tmp_path):
    for size in (1, 4):
        trainer = build("1", tmp_path / str(size), micro_batch_size=size)
        # Dropout draws by micro-batch; everything else must agree.
        trainer.task.module.set_dropout(0.0)
        trainer.run(resume=False)
    one, four = (losses(tmp_path / str(size)) for size in (1, 4))
    for left, right in zip(one, four, strict=True):
        if "loss" in left:
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_a_non_finite_gradient_stops_the_run_and_names_the_batch(build, tmp_path):
    trainer = build("1", tmp_path)
    with torch.no_grad():
        trainer.task.module.head.bias[3] = float("nan")
    with pytest.raises(TrainingError, match="gradient of step 0 is not finite"):
        trainer.run(resume=False)
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record["step"] == 0
    assert len(record["ids"]) == 4
    assert all(name.startswith("doc") for name in record["ids"])
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_stage_1_learns_its_documents_by_heart(build, tmp_path):
    """Eight random reports: overfitted, the loss of their text is near nothing, and greedy decoding repeats one."""
    steps = 250
    trainer = build("1", tmp_path, steps=steps, batch_size=8, micro_batch_size=8, validate_every=steps, log_every=steps)
    trainer.task.module.set_dropout(0.0)
    trainer.run(resume=False)
    result = losses(tmp_path)[-1]
    assert result["val_loss_text"] < 0.1
    decoder, documents = trainer.task.module.eval(), trainer.task._train
    vocabulary = trainer.task._vocabulary
    prompt = vocabulary.report_prompt(documents.codes_NVP[0, 0].tolist())
    generated = []
    with torch.no_grad():
        for _ in range(len(documents.reports[0]) + 1):
            logits = decoder.logits(decoder(torch.tensor([prompt + generated])))
            generated.append(int(logits[0, -1].argmax()))
    assert generated == [*documents.reports[0], vocabulary.begin_image]
