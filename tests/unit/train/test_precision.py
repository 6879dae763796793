"""What ``train.precision = "auto"`` comes to, by machine, and on a run that goes on."""

from __future__ import annotations

import json

import pytest
import torch

from chexmix_cli.core import runtime
from chexmix_cli.core.settings.finetuning import resolve_task
from chexmix_cli.core.settings.training import resolve_stage
from chexmix_cli.core.train import precision
from chexmix_cli.core.train.precision import bfloat16_is_faster, with_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends a CPU with bfloat16 instructions or without, and rates of products."""

    def pretend(*, has_bfloat16, gain=2.0, has_gpu_bfloat16=True):
        monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda: has_bfloat16)
        monkeypatch.setattr(precision, "flop_rate", lambda dtype, device: gain if dtype == torch.bfloat16 else 1.0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_gpu_bfloat16)

    return pretend


@pytest.mark.parametrize("preset", ["mini", "small", "phi2"])
def test_every_preset_that_is_no_test_leaves_it_to_the_machine(preset):
    for stage in ("tokenizer", "1", "2"):
        assert resolve_stage(stage, preset, []).settings.train.precision == "auto"
    if preset != "small":
        for task in ("report", "classify", "retrieve"):
            assert resolve_task(task, "lora", preset, []).settings.train.precision == "auto"


@pytest.mark.parametrize(
    ("has_bfloat16", "gain", "expected"),
    [
        (True, 4.0, "bfloat16"),  # AMX
        (True, 1.1, "float32"),  # no faster, and less exact
        (True, 0.55, "float32"),  # AVX512-BF16 without AMX, as measured
        (False, 4.0, "float32"),
    ],
)
def test_a_cpu_takes_what_it_is_faster_in(machine, has_bfloat16, gain, expected):
    machine(has_bfloat16=has_bfloat16, gain=gain)
    settings = resolve_stage("1", "mini", []).settings
    assert with_precision(settings, CPU).train.precision == expected
    asked = resolve_stage("1", "mini", [("flag", {"train": {"precision": "bfloat16"}})]).settings
    assert with_precision(asked, CPU) is asked


def test_a_gpu_takes_bfloat16_where_it_multiplies_in_it(machine):
    machine(has_bfloat16=False, gain=0.1)
    assert bfloat16_is_faster(CUDA)
    assert not bfloat16_is_faster(MPS)
    machine(has_bfloat16=True, has_gpu_bfloat16=False)
    assert not bfloat16_is_faster(CUDA)


def test_here_it_is_what_the_products_say():
    """No pretending: what is chosen on this machine is what its own products of matrices do."""
    rates = [precision.flop_rate(dtype, CPU) for dtype in (torch.bfloat16, torch.float32)]
    assert bfloat16_is_faster(CPU) == (runtime.has_cpu_bfloat16() and rates[0] > 1.25 * rates[1])


@pytest.mark.parametrize("begun_in", ["float32", "bfloat16"])
def test_a_run_that_goes_on_keeps_its_own(machine, tmp_path, begun_in):
    machine(has_bfloat16=begun_in == "float32")  # the other one is faster here
    settings = resolve_stage("1", "mini", []).settings
    newest = tmp_path / "checkpoint-00000009"
    for folder, text in (
        (tmp_path / "checkpoint-00000006", json.dumps({"settings": {"train": {"precision": begun_in}}})),
        (newest, '{"settings": {"tra'),  # half a header, which is passed over
    ):
        folder.mkdir()
        (folder / "checkpoint.json").write_text(text)
    assert with_precision(settings, CPU, resumed=tmp_path).train.precision == begun_in
    assert with_precision(settings, CPU).train.precision != begun_in
