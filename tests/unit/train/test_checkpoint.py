"""Checkpoints: which ones stay, what is found damaged, full disks, other settings."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_runs import metrics

from chexmix_cli import __version__
from chexmix_cli.core.errors import ExitCode, MachineError, TrainingError
from chexmix_cli.core.train import checkpoint
from chexmix_cli.core.train.checkpoint import list_checkpoints


@pytest.fixture
def run(build, tmp_path):
    """Return the folder of a finished run of 9 steps with checkpoints after 6 and 9."""
    folder = tmp_path / "run"
    assert build("1", folder, validate_every=9).run(resume=False)
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == [
        "checkpoint-00000006",
        "checkpoint-00000009",
    ]
    return folder


def truncate(path):
    file = next(path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def zero(path):
    file = next(path.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-200:-100] = bytes(100)
    file.write_bytes(data)


def lose_a_file(path):
    next(path.glob("*.safetensors")).unlink()


def lose_the_header(path):
    (path / "checkpoint.json").unlink()


def cut_the_header(path):
    header = path / "checkpoint.json"
    header.write_text(header.read_text()[:50])


def change_the_form(path):
    header = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**header, "schema": 99}))


def empty_the_position(path):
    header = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**header, "position": {"where": 3}}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "is not what was written"),
        (zero, "is not what was written"),
        (lose_a_file, "No such file or directory"),
        (lose_the_header, "checkpoint.json: FileNotFoundError"),
        (cut_the_header, "checkpoint.json: JSONDecodeError"),
        (change_the_form, "its form is 99, this version reads 1"),
        (empty_the_position, "checkpoint.json: TypeError"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_said(build, run, damage, said):
    whole = metrics(run)
    damage(run / "checkpoints/checkpoint-00000009")
    remarks = []
    again = build("1", run, report=lambda record: remarks.append(record.get("remark") or ""), validate_every=9)
    assert again.run(resume=True)
    assert any("checkpoint-00000009 is damaged" in remark and said in remark for remark in remarks), remarks
    assert "resumed after step 6" in remarks
    assert metrics(run) == whole


def test_a_half_written_checkpoint_has_no_name_yet_and_goes(build, run):
    left_over = run / "checkpoints/.checkpoint-00000009.partial"
    (run / "checkpoints/checkpoint-00000009").rename(left_over)
    (left_over / "checkpoint.json").unlink()
    assert build("1", run, validate_every=9).run(resume=True)
    assert not left_over.exists()
    assert (run / "checkpoints/checkpoint-00000009/checkpoint.json").exists()


def test_when_all_are_damaged_nothing_is_made_up(build, run):
    for path in list_checkpoints(run / "checkpoints"):
        truncate(path)
    with pytest.raises(TrainingError, match=r"checkpoint-00000009 is damaged .*; checkpoint-00000006 is damaged"):
        build("1", run, validate_every=9).run(resume=True)


def test_resume_without_a_checkpoint_and_with_other_settings_is_refused(build, run, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        build("1", tmp_path / "empty").run(resume=True)
    with pytest.raises(TrainingError, match=r"settings differ .* in train"):
        build("1", run, validate_every=9, seed=1).run(resume=True)
    with pytest.raises(TrainingError, match=r"settings differ .* in train\.steps"):
        build("1", run, validate_every=9, steps=5).run(resume=True)
    # How it is computed and kept may change.
    assert build("1", run, validate_every=9, keep_checkpoints=1, checkpoint_activations=True).run(resume=True)


def test_a_run_can_be_lengthened(build, tmp_path):
    said = []
    build("1", tmp_path, validate_every=9).run(resume=False)
    longer = build("1", tmp_path, validate_every=9, steps=11, report=said.append)
    assert longer.run(resume=True)
    assert any("lengthened from 9 to 11 steps" in record.get("remark", "") for record in said)
    assert max(path.name for path in list_checkpoints(tmp_path / "checkpoints")) == "checkpoint-00000011"


def test_other_data_or_start_weights_are_refused_and_named(build, tmp_path):
    learnt = {"train": {"rows": 4, "labels": "aa"}, "val": {"rows": 2, "labels": "bb"}}

    def trainer(data, report=lambda record: None, **more):
        made = build("1", tmp_path, validate_every=9, report=report)
        made.settings |= {"data": data, **more}
        return made

    trainer(learnt, init="cc").run(resume=False)
    for data, named in (
        ({**learnt, "val": {"rows": 2, "labels": "ee"}}, "val.labels"),
        ({**learnt, "train": {"rows": 5, "labels": "ff"}}, "train.labels, train.rows"),
        ({**learnt, "text_tokenizer": "gg"}, "text_tokenizer"),
    ):
        with pytest.raises(TrainingError, match=f"the data differ from the checkpoint's in {named}$"):
            trainer(data, init="cc").run(resume=True)
    with pytest.raises(TrainingError, match="settings differ from the checkpoint's in init"):
        trainer(learnt, init="dd").run(resume=True)
    assert trainer(learnt, init="cc").run(resume=True)


def test_a_checkpoint_of_an_earlier_version_is_resumed_and_what_it_does_not_say_is_said(build, run):
    for path in list_checkpoints(run / "checkpoints"):
        header = json.loads((path / "checkpoint.json").read_text())
        del header["settings"]["model"]["decoder"]["attention"]
        (path / "checkpoint.json").write_text(json.dumps(header))
    remarks = []
    again = build("1", run, report=lambda record: remarks.append(record.get("remark")), validate_every=9)
    again.settings |= {"data": {"train": {"rows": 4}}, "init": "cc"}
    assert again.run(resume=True)
    assert remarks[:2] == [f"checkpoint-00000009 does not say its {name}: not compared" for name in ("data", "init")]


def test_other_tensors_are_refused(build, run):
    trainer = build("1", run, validate_every=9)
    trainer.task.module.register_buffer("new", torch.zeros(1))
    with pytest.raises(TrainingError, match=r"holds other tensors than this version trains \(1, such as module.new\)"):
        trainer.run(resume=True)


def test_the_newest_and_the_best_stay(build, tmp_path):
    trainer = build("1", tmp_path, validate_every=1, checkpoint_every=1, keep_checkpoints=2)
    values = iter([3.0, 1.0, *[2.0] * 7])
    trainer.task.validate = lambda step: {"val_loss": next(values)}
    trainer.run(resume=False)
    assert [int(path.name[-1]) for path in list_checkpoints(tmp_path / "checkpoints")] == [2, 8, 9]


def test_the_header_says_what_made_it_and_where_it_stands(run):
    header = json.loads((run / "checkpoints/checkpoint-00000009/checkpoint.json").read_text())
    assert header["made_by"] | {"version": __version__, "world_size": 1, "device": "cpu"} == header["made_by"]
    assert header["made_by"].keys() == {"version", "torch", "commit", "changed", "world_size", "device"}
    assert header["position"]["step"] == 9
    assert header["position"]["order"] == [record for record in metrics(run) if "order" in record][-1]["order"]
    assert header["settings"]["train"]["seed"] == 0
    assert header["randomness"] == "a pure function of train.seed and the step"


def test_a_disk_without_room_stops_before_the_first_step(build, tmp_path, monkeypatch):
    trainer = build("1", tmp_path, keep_checkpoints=3)
    # Weights, two means of Adam, and no average.
    one = 3 * sum(parameter.numel() * 4 for parameter in trainer.task.module.parameters())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=5 * one))
    with pytest.raises(
        MachineError, match=r"no space left on disk: .* GB free, .* GB needed \(3 \+ 2 checkpoints"
    ) as stop:
        trainer.run(resume=False)
    assert stop.value.exit_code == ExitCode.ENVIRONMENT
    assert not (tmp_path / "metrics.jsonl").exists()
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=6 * one))
    assert trainer.run(resume=False)


def test_the_estimated_size_is_that_of_a_checkpoint(run, build):
    for average in (0.0, 0.5):
        trainer = build("1", run.parent / f"average-{average}", ema_decay=average, steps=2)
        estimate = trainer._state.num_bytes()
        trainer.run(resume=False)
        files = (run.parent / f"average-{average}/checkpoints/checkpoint-00000002").glob("*.safetensors")
        written = sum(file.stat().st_size for file in files)
        assert 0 <= written - estimate < 20_000  # the files' headers, and a step count a parameter


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(build, tmp_path):
    """A limit on file sizes of this process stands for the disk: torch's writer meets a real error of the system."""
    resource = pytest.importorskip("resource")
    trainer = build("1", tmp_path, validate_every=9)
    select = trainer.task.examples.select
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(step):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return select(step)

    trainer.task.examples.select = fill_up
    try:
        with pytest.raises(
            MachineError,
            match=r"step 6 could not be written \(File too large\); checkpoint-00000003 before it is whole",
        ) as stop:
            trainer.run(resume=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stop.value.hint == "free space on the disk, then go on with --resume"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-00000003"]
    assert build("1", tmp_path, validate_every=9).run(resume=True)
