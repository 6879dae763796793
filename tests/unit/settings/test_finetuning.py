"""Fine-tuning settings: presets by task and method, and what has no effect."""

from __future__ import annotations

import pytest

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.finetuning import TASKS, ContrastSettings, FilmSettings, HeadSettings, resolve_task
from chexmix_cli.core.settings.load import parse_assignments


@pytest.mark.parametrize("preset", ["debug", "mini", "phi2"])
@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("method", [None, "probe", "lora", "full"])
def test_every_preset_has_every_task_and_method(preset, task, method):
    resolved = resolve_task(task, method, preset, [])
    assert resolved.settings.method == (method or "lora")
    assert resolved.origins["method"] == ("flag" if method else f"preset {preset}")


def test_a_method_may_have_numbers_of_its_own_below_those_of_the_user():
    lora = resolve_task("report", "lora", "mini", []).settings
    full = resolve_task("report", "full", "mini", [])
    assert full.settings.optimizer.learning_rate < lora.optimizer.learning_rate
    assert full.origins["optimizer.learning_rate"] == "preset mini with full"
    assert full.settings.optimizer.warmup_steps == lora.optimizer.warmup_steps
    mine = [("--set", parse_assignments(["optimizer.learning_rate=0.5", "method=full"]))]
    resolved = resolve_task("report", None, "mini", mine)
    assert (resolved.settings.method, resolved.settings.optimizer.learning_rate) == ("full", 0.5)
    assert resolved.settings.optimizer.min_learning_rate == full.settings.optimizer.min_learning_rate
    assert resolve_task("report", "lora", "mini", mine).settings.method == "lora"


@pytest.mark.parametrize(
    ("task", "method", "assignment"),
    [
        ("report", "full", "lora.rank=4"),
        ("retrieve", "probe", "lora.rank=4"),
        ("classify", "lora", "probe.folds=3"),
        ("classify", "probe", "train.steps=3"),
        ("classify", "probe", "optimizer.learning_rate=1"),
        ("classify", "probe", "films.variants=3"),
        ("classify", "probe", "head.layer=3"),
        ("classify", "probe", "labels.balance=none"),
    ],
)
def test_a_setting_without_effect_is_refused(task, method, assignment):
    layers = [("--set", parse_assignments([assignment]))]
    key = assignment.split("=")[0]
    with pytest.raises(SettingsError, match=f"{key}: has no effect; expected a setting of --task {task} --method"):
        resolve_task(task, method, "mini", layers)


def test_wrong_values_are_refused():
    with pytest.raises(SettingsError, match=r"--task: unknown task 'both'|unknown task 'both'"):
        resolve_task("both", None, "mini", [])
    with pytest.raises(SettingsError, match="unknown preset 'maxi'"):
        resolve_task("report", None, "maxi", [])
    with pytest.raises(SettingsError, match=r"films\.variants: is 0"):
        FilmSettings(variants=0)
    with pytest.raises(SettingsError, match=r"films\.crop_jitter: is 0\.9"):
        FilmSettings(crop_jitter=0.9)
    with pytest.raises(SettingsError, match=r"head\.layer: is -1"):
        HeadSettings(layer=-1)
    for values, message in (({"layer": -1}, "layer"), ({"size": 0}, "size"), ({"temperature": 0.0}, "temperature")):
        with pytest.raises(SettingsError, match=rf"contrast\.{message}"):
            ContrastSettings(**values)
    alone = [("--set", parse_assignments(["train.micro_batch_size=1"]))]
    with pytest.raises(SettingsError, match=r"train\.micro_batch_size: is 1; expected 2 or more"):
        resolve_task("retrieve", None, "mini", alone)
