"""Adapters: they start as nothing, only they learn, and merged they are the same function."""

from __future__ import annotations

import itertools

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.lora import LowRank, adapter_tensors, add_adapters, merged
from chexmix_cli.core.settings.finetuning import LORA_TARGETS, LoraSettings
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.weights.formats.keys import decoder_slices

SETTINGS = DecoderSettings(
    num_rows=50,
    hidden_size=24,
    num_layers=3,
    num_heads=3,
    mlp_size=40,
    rotary_size=4,
    max_positions=20,
    residual_dropout=0.0,
)
COMBINATIONS = [
    targets for size in range(1, 7) for targets in itertools.combinations(LORA_TARGETS, size)
]  # all 63 of them


def randomise(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1) * 0.5)


@pytest.fixture
def decoder() -> Decoder:
    built = Decoder(SETTINGS)
    randomise(built, 0)
    return built.eval()


def ids(rows: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(5))


def adapted(decoder: Decoder, *, num_blocks: int = 3, **settings) -> Decoder:
    add_adapters(decoder, LoraSettings(**settings), torch.Generator().manual_seed(1), num_blocks=num_blocks)
    return decoder


def lora_modules(decoder: Decoder) -> list[LowRank]:
    return [module for module in decoder.modules() if isinstance(module, LowRank)]


def test_training_starts_at_the_frozen_model(decoder):
    before = decoder.logits(decoder(ids()))
    adapted(decoder, rank=4)
    assert torch.equal(decoder.logits(decoder(ids())), before)
    assert all(not module.b_OR.any() for module in lora_modules(decoder))
    assert all(0.5 / module.place.num_in**0.5 < module.a_RI.abs().max() for module in lora_modules(decoder))


@pytest.mark.parametrize("targets", COMBINATIONS, ids="-".join)
def test_merged_it_is_the_same_function(decoder, targets):
    """Every parameter random, in every combination of targets."""
    base = {name: value.clone() for name, value in decoder.state_dict().items()}
    adapted(decoder, rank=3, alpha=7.5, targets=targets)
    for seed, module in enumerate(lora_modules(decoder)):
        randomise(module, 10 + seed)
    with torch.inference_mode():
        expected = decoder.logits(decoder(ids()))
        plain = merged(decoder)
        found = plain.logits(plain(ids()))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert set(plain.state_dict()) == set(base)
    assert not torch.allclose(found, _logits_of(base), atol=0.1)  # the updates do something
    for name, value in base.items():  # and the frozen weights stay as they were, to the bit
        assert torch.equal(decoder.state_dict()[name], value), name


def _logits_of(state: dict[str, torch.Tensor]) -> torch.Tensor:
    decoder = Decoder(SETTINGS).eval()
    decoder.load_state_dict(state)
    with torch.inference_mode():
        return decoder.logits(decoder(ids()))


def test_a_target_changes_its_own_checkpoint_tensor_and_no_other(decoder):
    """The names are those of the checkpoint: told from the key table, not from this module's own places."""
    keys = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
    keys |= {"fc1": "mlp.fc1", "dense": "self_attn.dense", "fc2": "mlp.fc2"}
    for target, key in keys.items():
        fresh = Decoder(SETTINGS)
        fresh.load_state_dict(decoder.state_dict())
        adapted(fresh, rank=2, targets=(target,), num_blocks=2)
        for module in lora_modules(fresh):
            randomise(module, 3)
        plain, changed = merged(fresh), set()
        for item in decoder_slices(SETTINGS):
            before, after = (item.of(module.state_dict()[item.parameter]) for module in (decoder, plain))
            if not torch.equal(before, after):
                changed.add(item.key)
        assert changed == {f"model.layers.{layer}.{key}.weight" for layer in (0, 1)}


def test_the_update_of_a_checkpoint_tensor_is_what_peft_makes_of_the_saved_adapters(decoder):
    """``peft`` adds alpha / rank * lora_B @ lora_A to the weight of that name."""
    adapted(decoder, rank=2, alpha=5.0)
    for seed, module in enumerate(lora_modules(decoder)):
        randomise(module, seed)
    plain, tensors = merged(decoder), adapter_tensors(decoder)
    checked = 0
    for item in decoder_slices(SETTINGS):
        name = f"base_model.model.{item.key.removesuffix('.weight')}"
        if f"{name}.lora_A.weight" in tensors:
            update = 2.5 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
            before, after = (item.of(module.state_dict()[item.parameter]) for module in (decoder, plain))
            assert torch.allclose(before + update, after, atol=1e-5)
            checked += 1
    assert checked == 18
    assert len(tensors) == 36


def test_only_adapters_learn_and_only_in_the_blocks_asked_for(decoder):
    adapted(decoder, rank=2, num_blocks=2)
    for seed, module in enumerate(lora_modules(decoder)):
        randomise(module, seed)
    learns = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert len(learns) == 2 * 6 * 2
    assert all("_adapter.updates." in name and name.startswith(("blocks.0.", "blocks.1.")) for name in learns)
    decoder.logits(decoder(ids())).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in learns), name


def test_dropout_acts_on_the_inputs_of_updates_in_training_only(decoder):
    adapted(decoder, rank=2, dropout=0.5)
    for seed, module in enumerate(lora_modules(decoder)):
        randomise(module, seed)
    assert torch.equal(decoder(ids()), decoder(ids()))
    decoder.train()
    assert not torch.equal(decoder(ids()), decoder(ids()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 24}, r"lora\.rank: is 24; expected below 24, the width of q"),
        ({"rank": 24, "targets": ("fc1",)}, "below 24, the width of fc1"),
        ({"rank": 0}, r"lora\.rank: is 0; expected a positive number"),
        ({"alpha": 0.0}, r"lora\.alpha: is 0\.0"),
        ({"dropout": 1.0}, r"lora\.dropout: is 1\.0"),
        ({"targets": ("q", "w")}, r"lora\.targets: is \['q', 'w'\]; expected some of q, k, v, fc1, dense, fc2"),
        ({"targets": ("q", "q")}, r"lora\.targets"),
        ({"targets": ()}, r"lora\.targets"),
    ],
    ids=str,
)
def test_impossible_adapters_are_refused(decoder, settings, message):
    with pytest.raises(SettingsError, match=message):
        adapted(decoder, **settings)
    assert all(parameter.requires_grad for parameter in decoder.parameters())
