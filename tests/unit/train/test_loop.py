"""The loop: resume to the bit, stops, non-finite gradients, learning."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal

import pytest
import torch
from small_runs import STAGES, metrics

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.train import loop
from chexmix_cli.core.train.checkpoint import list_checkpoints


@pytest.mark.parametrize("stage", STAGES)
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
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected = whole.task.module.state_dict()
    for name, tensor in again.task.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / run).rglob("*9/*.safetensors")}
        for run in ("whole", "parts")
    ]
    assert written[0]
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_a_checkpoint_to_go_on_from(build, tmp_path, name):
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"there is no {name} here, or it is ignored")

    def terminate(record):
        if record.get("step") == 5 and "loss" in record:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert build("1", tmp_path / "parts", report=terminate).run(resume=False) is False
    assert signal.getsignal(number) is before
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "checkpoint-00000005"
    assert build("1", tmp_path / "parts").run(resume=True)
    build("1", tmp_path / "whole").run(resume=False)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_report_that_spans_an_interruption_has_all_its_steps(build, tmp_path):
    """Reports every four steps, stopped after six: the mean of steps 5 to 8 is that of the uninterrupted run."""

    def stop_at_six(trainer):
        select = trainer.task.examples.select

        def stopping(step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return select(step)

        trainer.task.examples.select = stopping
        return trainer

    assert not stop_at_six(build("2", tmp_path / "parts", log_every=4)).run(resume=False)
    assert build("2", tmp_path / "parts", log_every=4).run(resume=True)
    assert build("2", tmp_path / "whole", log_every=4).run(resume=False)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_activations_computed_twice_give_the_same_bits(build, tmp_path):
    """Dropout included."""
    for name, is_twice in (("once", False), ("twice", True)):
        trainer = build("2", tmp_path / name, steps=3, validate_every=3, checkpoint_activations=is_twice)
        calls = count_calls(trainer.task.module.blocks[0].norm)
        trainer.run(resume=False)
        # Three steps of two micro-batches, and a validation of four.
        assert len(calls) == 6 * (1 + is_twice) + 4
    assert metrics(tmp_path / "once") == metrics(tmp_path / "twice")


@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_validation_hides_the_same_whatever_the_micro_batch(build, tmp_path, stage):
    found = []
    for size in (1, 2, 4):
        task = build(stage, tmp_path / str(size), micro_batch_size=size).task
        task.module.eval()
        with torch.inference_mode():
            found.append(task.validate(0))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's tracer looks at it
@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_blocks_give_the_same_losses_and_are_compiled_once(build, tmp_path, monkeypatch, recomputed):
    """Through torch's tracer; what its backend makes of the graph is not for a suite of seconds.

    Every micro-batch has documents of other lengths, and image spans between them: a plan that no other step has.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for name, is_compiled in (("plain", False), ("compiled", True)):
        loop = {"steps": 6, "validate_every": 6, "compile": is_compiled, "checkpoint_activations": recomputed}
        made = build("2", tmp_path / name, **loop)
        masking = dataclasses.replace(made.task._settings.masking, attention="bidirectional")
        made.task._settings = dataclasses.replace(made.task._settings, masking=masking)
        made.run(resume=False)
    # Before and behind attention: in training and validation, each for one length and then for any.
    assert 0 < len(graphs) <= 8
    for plain, compiled in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "compiled"), strict=True):
        assert plain.pop("order", None) == compiled.pop("order", None)
        assert plain == pytest.approx(compiled, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_average_of_the_weights_is_validated_and_exported(build, tmp_path, stage):
    """By hand: the average after each step, and the validation of the average of the last."""
    trainer = build(stage, tmp_path, ema_decay=0.6, steps=4, validate_every=4)
    names = [name for name, parameter in trainer.task.module.named_parameters() if parameter.requires_grad]
    state = trainer.task.module.state_dict
    expected = {name: state()[name].clone() for name in names}
    seen, validate, after_step = {}, trainer.task.validate, trainer.task.after_step
    steps = iter(range(4))

    def average(generator):
        after_step(generator)
        decay = min(0.6, (1 + (step := next(steps))) / (10 + step))
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * state()[name]

    def remember(step):
        seen.update({name: state()[name].clone() for name in names})
        return validate(step)

    trainer.task.after_step, trainer.task.validate = average, remember
    trainer.run(resume=False)
    assert any(not torch.equal(seen[name], state()[name]) for name in names), "the weights in training came back"
    for name in names:
        assert torch.allclose(seen[name], expected[name], rtol=1e-5, atol=1e-7), name


def test_patience_ends_a_run_and_says_so(build, tmp_path):
    records = []
    trainer = build("1", tmp_path, report=records.append, validate_every=1, patience=2)
    values = iter([3.0, 1.0, 2.0, 1.0])
    trainer.task.validate = lambda step: {"val_loss": next(values)}
    assert trainer.run(resume=False)
    assert (trainer.position.step, trainer.position.best_step) == (4, 2)
    assert {"remark": "no better val_loss in 2 validations: ends early"} in records
    # It has ended: going on from its last checkpoint does nothing more.
    again = build("1", tmp_path, validate_every=1, patience=2)
    assert again.run(resume=True)
    assert again.position == dataclasses.replace(trainer.position)


@pytest.mark.parametrize(("higher_is_better", "best"), [(False, 1.0), (True, 3.0)])
def test_the_task_names_the_metric_that_decides_and_its_direction(build, tmp_path, higher_is_better, best):
    records = []
    trainer = build("1", tmp_path, report=records.append, validate_every=3)
    values = iter([2.0, 1.0, 3.0])
    trainer.task.metric, trainer.task.higher_is_better = "val_figure", higher_is_better
    trainer.task.validate = lambda step: {"val_figure": next(values)}
    trainer.run(resume=False)
    assert trainer.position.best == best
    # The second is better where less is, the third where more is.
    expected = [True, False, True] if higher_is_better else [True, True, False]
    assert [record["best"] for record in records if "val_figure" in record] == expected


def test_micro_batches_change_nothing_but_rounding(build, tmp_path):
    for size in (1, 4):
        trainer = build("1", tmp_path / str(size), micro_batch_size=size)
        # Dropout draws by micro-batch; everything else must agree.
        trainer.task.module.set_dropout(0.0)
        trainer.run(resume=False)
    one, four = (metrics(tmp_path / str(size)) for size in (1, 4))
    for left, right in zip(one, four, strict=True):
        if "loss" in left:
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_a_non_finite_gradient_stops_the_run_and_names_the_batch(build, tmp_path):
    trainer = build("1", tmp_path)
    with torch.no_grad():
        trainer.task.module.head.bias[3] = float("nan")
    with pytest.raises(TrainingError, match="loss or the gradient of step 0 is not finite"):
        trainer.run(resume=False)
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record["step"] == 0
    assert len(record["ids"]) == 4
    assert all(name.startswith("doc") for name in record["ids"])
    assert (record["losses"]["loss"], record["grad_norm"]) == ("nan", "nan")
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_stage_1_learns_its_documents_by_heart(build, tmp_path):
    """Eight random reports: overfitted, the loss of their text is near nothing, and greedy decoding repeats one."""
    steps = 250
    trainer = build("1", tmp_path, steps=steps, batch_size=8, micro_batch_size=8, validate_every=steps, log_every=steps)
    trainer.task.module.set_dropout(0.0)
    trainer.run(resume=False)
    result = metrics(tmp_path)[-1]
    assert result["val_loss_text"] < 0.1
    decoder, documents = trainer.task.module.eval(), trainer.task.examples._source
    vocabulary = trainer.task._vocabulary
    prompt = vocabulary.report_prompt(documents.codes_NVP[0, 0].tolist())
    generated = []
    with torch.no_grad():
        for _ in range(len(documents.reports[0]) + 1):
            logits = decoder.logits(decoder(torch.tensor([prompt + generated])))
            generated.append(int(logits[0, -1].argmax()))
    assert generated == [*documents.reports[0], vocabulary.begin_image]


def test_a_record_says_how_fast_and_how_long(build, tmp_path, monkeypatch):
    """Tokens of the documents, the share of the peak by their operations, and nothing left behind the last step."""
    peak = 1e9
    monkeypatch.setattr(loop, "flop_rate", lambda dtype, device: peak)
    records = []
    trainer = build("1", tmp_path, report=records.append, steps=4, validate_every=4)
    trainer.run(resume=False)
    said = [record for record in records if "mfu" in record]
    assert [record["step"] for record in said] == [1, 2, 3, 4]
    for record in said:
        examples = trainer.task.examples
        work = trainer.task.work(examples.prepare(examples.select(record["step"] - 1), torch.Generator()))
        assert record["tokens_per_s"] / record["examples_per_s"] == pytest.approx(work.tokens / 4)
        assert record["mfu"] * peak / record["tokens_per_s"] == pytest.approx(work.flop / work.tokens)
    left = [record["left_s"] for record in said]
    assert left[0] > left[-1] == 0
    assert records[0] == {
        "remark": "computes in float32; mfu is the share of 0.001 TFLOP/s, measured: its fastest products of matrices"
    }
    # How long it may take is told, not kept.
    assert all("left_s" not in line for line in metrics(tmp_path))
