"""What no command line reaches on one machine: parts of the code on the pretended card, each against the CPU.

Each function takes the weights and a device and returns ``{"problem": None or a sentence, "counts": {...}}``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import pretended
import torch

from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.kernels.quantized import reference
from chexmix_cli.core.models.lora import adapter_tensors, add_adapters, merged
from chexmix_cli.core.settings.finetuning import LoraSettings
from chexmix_cli.core.settings.inference import DecodeSettings, Quantize
from chexmix_cli.core.weights import WeightsDir, open_weights

_MISTAKES = ("DeviceError", "DeviceError", "DeviceError", "CaptureError", "RuntimeError", "nan", "1")
_SETTINGS = DecodeSettings(max_new_tokens=6, min_new_tokens=6)


def _prompts(weights: WeightsDir, count: int) -> list[list[int]]:
    vocabulary = weights.settings.vocabulary
    generator = torch.Generator().manual_seed(1)
    codes_BP = torch.randint(vocabulary.num_codes, (count, vocabulary.tokens_per_image), generator=generator)
    return [vocabulary.report_prompt(codes) for codes in codes_BP.tolist()]


def _said(
    weights: WeightsDir, device: str, prompts: list[list[int]], *, calls: int = 1, quantize: Quantize | None = None
) -> list[list[int]]:
    decoder = weights.load_decoder(torch.device(device), torch.float32, quantize=quantize)
    engine = report_engine(decoder, weights.settings.vocabulary, ordinary_ids=range(1000))
    for _ in range(calls):
        found = engine.generate(prompts, _SETTINGS)
    return [one.token_ids for one in found]


def two_cards_in_one_process(path: str, device: str) -> dict[str, Any]:
    """Decode on a card while the other one is current, as a process with a model on each does."""
    weights = open_weights(path)
    prompts = _prompts(weights, 2)
    pretended.GUARD.set_current_device(1 - int(device[-1]))
    with pretended.Card():
        found = _said(weights, device, prompts)
    return {"problem": None if found == _said(weights, "cpu", prompts) else f"{found} on the card", "counts": {}}


def recordings_are_kept(path: str, device: str) -> dict[str, Any]:
    """Decode five batches of one shape: one graph is recorded, the host waits once a token and once to record."""
    weights = open_weights(path)
    prompts = _prompts(weights, 2)
    pretended.reset()
    with pretended.Card():
        found = _said(weights, device, prompts, calls=5)
    counts = {name: pretended.COUNTS[name] for name in ("waits", "captures", "replays")}
    problem = None if found == _said(weights, "cpu", prompts) else f"{found} on the card"
    return {"problem": problem, "counts": counts}


def quantised_weights_are_their_numbers(path: str, device: str) -> dict[str, Any]:
    """Decode with weights of 8 and 4 bits, by kernels and by torch, as the CPU does in float32 with their numbers."""
    weights = open_weights(path)
    prompts, found, expected = _prompts(weights, 3), {}, {}
    for how in ("int8", "int4"):
        exact = weights.load_decoder("cpu", torch.float32)
        for owner, name in exact.linear_layers():
            weight = getattr(owner, name).weight
            narrow = reference.quantize_4 if how == "int4" and name != "head" else reference.quantize_8
            weight.data = reference.restore(*narrow(weight.data, where=name))
        engine = report_engine(exact, weights.settings.vocabulary, ordinary_ids=range(1000))
        ids = [one.token_ids for one in engine.generate(prompts, _SETTINGS)]
        for kernels in ("auto", "torch"):
            with mock.patch.dict(os.environ, CHEXMIX_KERNELS=kernels), pretended.Card():
                found[how, kernels] = _said(weights, device, prompts, quantize=how)
            expected[how, kernels] = ids
    return {"problem": None if found == expected else f"{found} on the card, {expected} by the numbers", "counts": {}}


def adapters_gathered_on_the_cpu(path: str, device: str) -> dict[str, Any]:
    """Merge adapters that FSDP gathered on the CPU for an export (``Layout.whole``) into matrices on the card."""
    weights, merge = open_weights(path), []
    for place in ("cpu", device):
        with pretended.Card():
            decoder = weights.load_decoder(torch.device(place), torch.float32)
            add_adapters(decoder, LoraSettings(), torch.Generator().manual_seed(0), num_blocks=2)
            for name, parameter in list(decoder.named_parameters()):
                if parameter.requires_grad:
                    owner, _, leaf = name.rpartition(".")
                    value = torch.full(parameter.shape, 0.1) if leaf == "b_OR" else parameter.detach().cpu()
                    decoder.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value)
            state = {name: value.cpu() for name, value in merged(decoder).state_dict().items()}
            assert all(value.device.type == "cpu" for value in adapter_tensors(decoder).values())
        merge.append(state)
    # A is drawn on the CPU, and at random: that of the card is taken for both.
    same = all(torch.allclose(merge[0][name], merge[1][name], atol=1e-6) for name in merge[0])
    return {"problem": None if same else "other weights", "counts": {}}


def mistakes_are_seen(path: str, device: str) -> dict[str, Any]:
    """Make the mistakes that the card is for: if it forgave one, its other answers would mean nothing."""
    other = torch.device("cuda", 1 - int(device[-1]))

    def recorded(call: Callable[[], Any]) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph):
            call()
        graph.replay()

    def raised(call: Callable[[], Any]) -> str:
        try:
            return str(call())
        except (pretended.DeviceError, pretended.CaptureError, RuntimeError) as error:
            return type(error).__name__

    with pretended.Card():
        here_22, there_22 = torch.ones(2, 2, device=device), torch.ones(2, 2, device=other)
        pretended.GUARD.set_current_device(other.index)
        found = {
            "tensors of two devices": raised(lambda: here_22 + there_22),
            "a tensor of the CPU": raised(lambda: here_22 + torch.ones(2, 2)),
            "a kernel beside the current device": raised(lambda: torch.ops.chexmix.nearest_code(here_22, here_22)),
            "a wait in a recording": raised(lambda: recorded(lambda: here_22.sum().item())),
            "an empty recording": raised(lambda: recorded(lambda: there_22 + 1)),
            "memory that nobody wrote": raised(lambda: torch.empty(1, device=device).item()),
        }
        pretended.reset()
        here_22.tolist()
        found["waits"] = str(pretended.COUNTS["waits"])
    expected = dict(zip(found, _MISTAKES, strict=True))
    return {"problem": None if found == expected else f"{found}", "counts": {}}


PARTS = {
    "mistakes are seen": mistakes_are_seen,
    "two cards in one process": two_cards_in_one_process,
    "recordings are kept": recordings_are_kept,
    "quantised weights are their numbers": quantised_weights_are_their_numbers,
    "adapters gathered on the CPU": adapters_gathered_on_the_cpu,
}
