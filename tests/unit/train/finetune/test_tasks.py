"""The three tasks in the loop: what learns, what a checkpoint holds, resume to the bit, known outcomes."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models.lora import merged
from chexmix_cli.core.settings.finetuning import LabelSettings
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.train import distributed
from chexmix_cli.core.train.examples.step_batches import StepBatches
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES

COMBINATIONS = [(task, method) for task in ("report", "classify", "retrieve") for method in ("probe", "lora", "full")]
COMBINATIONS.remove(("classify", "probe"))  # fitted by scikit-learn, without a loop


def metrics(out: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in CLOCK_FIGURES} for record in records]


@pytest.mark.parametrize(("task", "method"), COMBINATIONS, ids="-".join)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(build, tmp_path, task, method):
    whole = build(task, tmp_path / "whole", method=method)
    assert whole.run(resume=False)

    class Killed(BaseException):
        pass

    def die(record):
        if record.get("step") == 7 and "loss" in record:
            raise Killed

    with pytest.raises(Killed):
        build(task, tmp_path / "parts", method=method, report=die).run(resume=False)
    remarks = []
    again = build(task, tmp_path / "parts", method=method, report=lambda record: remarks.append(record.get("remark")))
    assert again.run(resume=True)
    assert "resumed after step 6" in remarks
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected = dict(whole.task.module.named_parameters())
    for name, parameter in again.task.module.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize(("task", "method"), COMBINATIONS, ids="-".join)
def test_what_is_frozen_stays_to_the_bit_and_has_neither_optimiser_nor_checkpoint(
    build, start_decoder, tmp_path, task, method
):
    trainer = build(task, tmp_path, method=method, layer=1 if task != "report" else None)
    before = start_decoder().state_dict()
    assert trainer.run(resume=False)
    module = trainer.task.module
    learned = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    changed = {
        name.removeprefix("decoder.")
        for name, value in module.decoder.state_dict(prefix="decoder.").items()
        if name.removeprefix("decoder.") in before and not torch.equal(value, before[name.removeprefix("decoder.")])
    }
    assert changed <= {name.removeprefix("decoder.") for name in learned}
    owned = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert owned == {id(parameter) for name, parameter in module.named_parameters() if name in learned}
    buffers = {name for name, _ in module.named_buffers()}
    assert set(module.state_dict()) == learned | buffers
    if task == "report":
        wanted = {"probe": {"head.weight", "head.bias"}, "lora": set(), "full": set(before)}[method]
    else:  # the head reads layer 1: block 1 and what stands behind it are not run
        wanted = {name for name in before if name.startswith(("embedding", "blocks.0."))} if method == "full" else set()
    assert changed == wanted
    if method == "lora":
        blocks = {name.split(".")[2] for name in learned if "_adapter." in name}
        assert blocks == ({"0", "1"} if task == "report" else {"0"})


@pytest.mark.parametrize(("method", "balance"), [("full", "none"), ("lora", "weight"), ("lora", "sample")])
def test_planted_findings_are_learned(build, tmp_path, method, balance):
    """Held-out images: a code that occurs is a finding. The frozen random decoder alone does not tell it as well."""
    trainer = build(
        "classify",
        tmp_path,
        method=method,
        labels=LabelSettings(balance=balance),
        sizes=(160, 60),
        steps=60,
        batch_size=16,
        micro_batch_size=16,
        validate_every=60,
        learning_rate=5e-3,
    )
    trainer.run(resume=False)
    assert metrics(tmp_path)[-1]["val_auroc"] > 0.9


def test_a_classifier_is_trained_on_partly_masked_images_and_validated_on_whole_ones(build, trained_model, tmp_path):
    """Of 16 tokens each image hides 4 to 12; what the loop's step draws does not depend on the share a process has."""
    examples = build("classify", tmp_path / "masked", image_ratio=(0.25, 0.75)).task.examples
    whole = build("classify", tmp_path / "whole").task.examples
    indices = list(range(24))
    batch, plain = (one.prepare(indices, step_generator(0, 1)) for one in (examples, whole))
    is_hidden_BT = batch.token_ids_BT == trained_model.vocabulary.mask
    hidden_B = is_hidden_BT.sum(dim=1)
    assert len(set(hidden_B.tolist())) > 3
    assert hidden_B.min() >= 4
    assert hidden_B.max() <= 12
    assert torch.equal(batch.token_ids_BT[~is_hidden_BT], plain.token_ids_BT[~is_hidden_BT])
    assert torch.equal(batch.is_image_BT, plain.is_image_BT), "masked positions are pooled as the image's"
    own = examples.prepare(indices, step_generator(0, 1), slice(8, 16))
    assert torch.equal(own.token_ids_BT, batch.token_ids_BT[8:16])
    tasks = [
        build("classify", tmp_path / name, image_ratio=bounds).task
        for name, bounds in (("a", (0, 0)), ("b", (0.5, 0.9)))
    ]
    with torch.no_grad():
        assert tasks[0].validate(0) == tasks[1].validate(0)


@pytest.mark.parametrize("method", ["probe", "lora", "full"])
def test_images_find_their_reports(build, tmp_path, method):
    """24 held-out pairs of 12 kinds in two wordings: chance is a mean recall of about 0.3."""
    trainer = build(
        "retrieve",
        tmp_path,
        method=method,
        sizes=(120, 24),
        steps=60,
        batch_size=24,
        micro_batch_size=24,
        validate_every=60,
        learning_rate=5e-3,
    )
    with torch.no_grad():
        before = trainer.task.validate(0)
    trainer.run(resume=False)
    after = metrics(tmp_path)[-1]
    assert before["val_recall"] < 0.6
    assert after["val_recall"] > 0.75
    assert after["val_image_to_text_mean_rank"] < 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reports_are_reproduced_from_held_out_images(build, trained_model, tmp_path, method):
    """What an image shows decides the first token; of the four only the wording (log 2 nats) cannot be known."""
    trainer = build(
        "report",
        tmp_path,
        method=method,
        sizes=(96, 24),
        steps=100,
        batch_size=24,
        micro_batch_size=24,
        validate_every=100,
        learning_rate={"lora": 1e-2, "full": 3e-3}[method],
    )
    trainer.task.module.decoder.set_dropout(0.0)
    trainer.run(resume=False)
    assert metrics(tmp_path)[-1]["val_loss"] < 0.5
    vocabulary, val = trained_model.vocabulary, trainer.task._val
    plain = merged(trainer.task.module.decoder)
    prompts = [vocabulary.report_prompt(codes.tolist()) for codes in val.codes_NVP[:, 0]]
    settings = DecodeSettings(max_new_tokens=6, min_new_tokens=0)
    found = [row.token_ids for row in report_engine(plain, vocabulary).generate(prompts, settings)]
    wanted = [([report[0]], [50, vocabulary.begin_image]) for report in val.reports]
    assert sum((ids[:1], ids[2:]) == parts for ids, parts in zip(found, wanted, strict=True)) >= 22


def test_only_the_report_counts_unless_all_is_asked_for(build, trained_model, tmp_path):
    task = build("report", tmp_path, sizes=(8, 8)).task
    batch = task.examples.prepare([0, 1], step_generator(0, 0))
    counted = batch.target_BT != -100
    assert counted.sum(dim=1).tolist() == [4, 4]
    assert (batch.input_BT[:, trained_model.vocabulary.prompt_length - 1] == trained_model.vocabulary.begin_text).all()
    report = task.examples._source.reports[0]
    assert batch.target_BT[0][counted[0]].tolist() == [*report, trained_model.vocabulary.begin_image]


def tensors(value):
    """Return the tensors of a batch in order."""
    if dataclasses.is_dataclass(value):
        return [tensor for part in dataclasses.fields(value) for tensor in tensors(getattr(value, part.name))]
    return [value] if isinstance(value, torch.Tensor) else []


@pytest.mark.parametrize("task", ["report", "classify", "retrieve"])
def test_batches_are_the_same_in_another_process_and_shared_among_ranks(build, tmp_path, task, monkeypatch):
    trainer = build(task, tmp_path)
    here = StepBatches(trainer.task.examples, trainer.train)
    if task == "retrieve":  # the first rank's longest report is longer than the second's
        trainer.task.examples._source.documents.reports[trainer.task.examples.select(2)[0]] = [100] * 9
    whole, again = here(2), pickle.loads(pickle.dumps(here))(2)
    assert whole.indices == again.indices
    assert len(tensors(whole.batch)) > 1
    for one, other in zip(tensors(whole.batch), tensors(again.batch), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    own = StepBatches(trainer.task.examples, trainer.train)(2)
    assert (own.state == whole.state).all()
    for mine, theirs in zip(tensors(own.batch), tensors(trainer.task.split(whole.batch, 4)[1]), strict=True):
        # A document's padding is dropped before it is computed, and may be less here; nothing else is.
        assert mine.shape == theirs.shape or task == "report"
        assert torch.equal(mine.nan_to_num(), theirs[tuple(slice(size) for size in mine.shape)].nan_to_num())


def test_uncounted_labels_have_no_gradient(build, tmp_path):
    task = build("classify", tmp_path).task
    batch = task.examples.prepare([0, 1, 3], step_generator(0, 0))
    assert batch.target_BL.isnan()[:, 1].tolist() == [True, False, True]
    assert task.num_units(batch) == 4
    only_unknown = task.split(batch, 1)[0]
    task.loss(only_unknown, 0).total.backward()
    assert torch.equal(task.module.head.weight.grad[1], torch.zeros(32))
    assert task.module.head.bias.grad[0] != 0


def test_an_exported_head_is_without_the_shift_of_balancing(build, tmp_path):
    """The mean probability of images is the share of the finding, whichever way the classes were made even."""
    shares = {}
    for balance in ("none", "weight", "sample"):
        exports: list = []
        settings = LabelSettings(balance=balance)
        trainer = build(
            "classify", tmp_path / balance, labels=settings, exports=exports, steps=1, validate_every=1, sizes=(60, 30)
        )
        shift = trainer.task._shift_L
        assert torch.equal(shift, torch.zeros(2)) == (balance == "none")
        with torch.no_grad():
            trainer.task.validate(0)
        trainer.task.export(tmp_path)
        _, model, bias, (logit, _) = exports[-1]
        assert torch.allclose(model.head.bias - bias, shift)
        shares[balance] = bias.sigmoid()
        assert torch.allclose(logit.sigmoid().mean(dim=0), shares[balance], atol=1e-5)  # zero weights: the bias is all
    target = trainer.task._train.target_NL
    expected = (target == 1).sum(dim=0) / (~target.isnan()).sum(dim=0)
    for found in shares.values():
        assert torch.allclose(found, expected, atol=1e-5)


def test_balanced_order_shows_the_rarer_class_more_often(build, tmp_path):
    task = build("classify", tmp_path, labels=LabelSettings(balance="sample"), sizes=(60, 30)).task
    shown = [index for step in range(len(task.examples.shown) // 8) for index in task.examples.select(step)]
    target = task._train.target_NL[:, 0]
    assert float((target == 1).float().mean()) == pytest.approx(0.35)
    assert float((target[shown] == 1).float().mean()) > 0.45
    assert task.examples.select(3) == task.examples.select(3)


def test_validation_without_both_classes_is_refused(build, tmp_path):
    with pytest.raises(TrainingError, match="no finding has both classes in the validation rows"):
        build("classify", tmp_path, sizes=(48, 1))


def test_a_non_finite_loss_stops_the_run_and_names_the_batch(build, tmp_path):
    trainer = build("classify", tmp_path, method="full")
    with torch.no_grad():
        trainer.task.module.head.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="step 0 is not finite"):
        trainer.run(resume=False)
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert len(record["ids"]) == 8
    assert all(name.startswith("film") for name in record["ids"])


def test_a_run_ends_when_its_own_metric_no_longer_gets_better(build, tmp_path):
    trainer = build("classify", tmp_path, steps=20, validate_every=1, patience=2, checkpoint_every=50)
    figures = iter([0.6, 0.8, 0.7, 0.8, 0.9])
    trainer.task.validate = lambda step: {"val_auroc": next(figures), "val_loss": 1.0}
    assert trainer.run(resume=False)
    assert trainer.position.step == 4


def test_another_method_does_not_resume_the_run(build, tmp_path):
    build("report", tmp_path, method="lora").run(resume=False)
    with pytest.raises(TrainingError, match="settings differ"):
        build("report", tmp_path, method="full").run(resume=True)
