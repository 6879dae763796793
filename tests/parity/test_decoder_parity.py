"""The decoder against transformers' PhiForCausalLM, every parameter random, float32.

One measure for all: the largest difference, relative to the largest number in the reference. The last tests break the
decoder on purpose and see that the measure finds it.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.models import decoder as decoder_module
from chexmix_cli.core.settings.model import DecoderSettings

#: What float32 sums in another order may differ by.
TOLERANCE = 1e-5

SHAPES = {
    "released share, 32 of 80": {
        "hidden_size": 160,
        "num_layers": 3,
        "num_heads": 2,
        "mlp_size": 640,
        "rotary_size": 32,
    },
    "official-tiny, 6 of 16": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 128, "rotary_size": 6},
    "one head, one layer": {"hidden_size": 6, "num_layers": 1, "num_heads": 1, "mlp_size": 1, "rotary_size": 2},
    "odd numbers": {"hidden_size": 39, "num_layers": 5, "num_heads": 3, "mlp_size": 37, "rotary_size": 4},
    "whole head": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "mlp_size": 100, "rotary_size": 16},
    "other constants": {
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_size": 96,
        "rotary_size": 8,
        "rope_theta": 500.0,
        "norm_eps": 1e-2,
    },
}


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def settings(request: pytest.FixtureRequest) -> DecoderSettings:
    return DecoderSettings(num_rows=211, max_positions=96, **request.param)


@torch.inference_mode()
def test_logits_and_every_layer_are_phis(settings, make_pair, token_ids):
    phi, decoder = make_pair(settings)
    ids_BT = token_ids(2, 33, settings.num_rows)
    expected = phi(ids_BT, output_hidden_states=True)
    states = decoder.hidden_states(ids_BT)
    assert len(states) == len(expected.hidden_states) == settings.num_layers + 1
    for layer, (state, reference) in enumerate(zip(states, expected.hidden_states, strict=True)):
        assert difference(state, reference) < TOLERANCE, f"layer {layer}"
    assert torch.equal(decoder(ids_BT), states[-1])
    assert difference(decoder.logits(states[-1]), expected.logits) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [[1] * 20, [13, 7], [1, 2, 3, 5, 8, 1], [20]], ids=str)
def test_cached_chunks_give_the_whole(settings, make_pair, token_ids, chunks):
    phi, decoder = make_pair(settings)
    ids_BT = token_ids(2, sum(chunks), settings.num_rows)
    cache = decoder.new_cache(2, capacity=30)
    states = [decoder(part_BT, cache=cache) for part_BT in ids_BT.split(chunks, dim=1)]
    assert difference(decoder.logits(torch.cat(states, dim=1)), phi(ids_BT).logits) < TOLERANCE


@torch.inference_mode()
def test_a_truncated_cache_forgets(released_share, make_pair, token_ids):
    phi, decoder = make_pair(released_share)
    ids_BT = token_ids(1, 24, released_share.num_rows)
    cache = decoder.new_cache(1, capacity=24)
    decoder(ids_BT[:, :15], cache=cache)
    decoder(ids_BT.flip(1)[:, :6], cache=cache)  # drafts that turn out wrong
    cache.truncate(15)
    state_BTD = decoder(ids_BT[:, 15:], cache=cache)
    assert difference(decoder.logits(state_BTD), phi(ids_BT).logits[:, 15:]) < TOLERANCE


@torch.inference_mode()
def test_rows_do_not_depend_on_their_batch(settings, make_pair, token_ids):
    phi, decoder = make_pair(settings)
    ids_BT = token_ids(5, 17, settings.num_rows)
    together_BTV = decoder.logits(decoder(ids_BT))
    for row in range(5):
        alone_TV = phi(ids_BT[row : row + 1]).logits[0]
        assert difference(together_BTV[row], alone_TV) < TOLERANCE


@torch.inference_mode()
def test_left_padding_changes_nothing(settings, make_pair, token_ids):
    phi, decoder = make_pair(settings)
    prompts = [token_ids(1, length, settings.num_rows)[0].tolist() for length in (9, 1, 14, 13)]
    batch = Batch(decoder, prompts, max_new_tokens=8, pad=3)
    last_B1D, _ = batch.read_prompts()
    follow_BT = token_ids(4, 6, settings.num_rows)
    states = [batch.read(follow_BT[:, :1]), batch.read(follow_BT[:, 1:5]), batch.read(follow_BT[:, 5:])]
    found_BTV = decoder.logits(torch.cat([last_B1D, *states], dim=1))
    for row, prompt in enumerate(prompts):
        alone = torch.tensor([[*prompt, *follow_BT[row].tolist()]])
        assert difference(found_BTV[row], phi(alone).logits[0, len(prompt) - 1 :]) < TOLERANCE


@torch.inference_mode()
def test_rows_that_leave_change_nothing(released_share, make_pair, token_ids):
    phi, decoder = make_pair(released_share)
    prompts = [token_ids(1, length, released_share.num_rows)[0].tolist() for length in (9, 2, 14, 11)]
    batch = Batch(decoder, prompts, max_new_tokens=8, pad=3)
    batch.read_prompts()
    follow_BT = token_ids(4, 6, released_share.num_rows)
    batch.read(follow_BT[:, :2])
    batch.keep([1, 3])
    batch.read(follow_BT[[1, 3], 2:4])
    batch.keep([1])
    found_TV = decoder.logits(batch.read(follow_BT[[3], 4:]))[0]
    alone = torch.tensor([[*prompts[3], *follow_BT[3].tolist()]])
    assert difference(found_TV, phi(alone).logits[0, -2:]) < TOLERANCE


@torch.inference_mode()
def test_a_part_of_the_head_is_that_part_of_the_logits(released_share, make_pair, token_ids):
    phi, decoder = make_pair(released_share)
    ids_BT = token_ids(2, 5, released_share.num_rows)
    rows = slice(17, 120)
    assert difference(decoder.logits(decoder(ids_BT), rows), phi(ids_BT).logits[..., rows]) < TOLERANCE


@torch.inference_mode()
def test_bfloat16_loses_no_more_than_phi_does(released_share, make_pair, token_ids):
    phi, decoder = make_pair(released_share)
    # Weights that bfloat16 holds exactly, so that only the arithmetic differs; frequencies stay float32 in both.
    for module in (phi, decoder):
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16())
    ids_BT = token_ids(2, 64, released_share.num_rows)
    expected = phi(ids_BT).logits
    inv_freq = phi.model.rotary_emb.inv_freq.clone()
    phi.bfloat16()
    phi.model.rotary_emb.inv_freq = inv_freq
    decoder.bfloat16()
    theirs = (phi(ids_BT).logits.float() - expected).square().mean().sqrt()
    ours = (decoder.logits(decoder(ids_BT)).float() - expected).square().mean().sqrt()
    assert 0 < ours <= 1.1 * theirs


@torch.inference_mode()
def test_rounded_frequencies_are_phi_cast_as_a_whole(released_share, make_pair, token_ids):
    phi, exact = make_pair(released_share)
    rounded = type(exact)(dataclasses.replace(released_share, rope_dtype="bfloat16")).eval()
    rounded.load_state_dict(exact.state_dict())
    phi.model.rotary_emb.inv_freq = phi.model.rotary_emb.inv_freq.bfloat16().float()
    ids_BT = token_ids(1, 90, released_share.num_rows)
    expected = phi(ids_BT).logits
    assert difference(rounded.logits(rounded(ids_BT)), expected) < TOLERANCE
    assert difference(exact.logits(exact(ids_BT)), expected) > 10 * TOLERANCE


def _interleaved(x_BNTH: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor) -> Tensor:
    """Rotate pairs of neighbours, GPT-J's convention, where Phi pairs halves."""
    size = 2 * cos_B1TR.shape[-1]
    even, odd = x_BNTH[..., :size:2], x_BNTH[..., 1:size:2]
    turned = torch.stack((even * cos_B1TR - odd * sin_B1TR, odd * cos_B1TR + even * sin_B1TR), dim=-1)
    return torch.cat((turned.flatten(-2), x_BNTH[..., size:]), dim=-1)


@torch.inference_mode()
def test_the_measure_finds_another_rotary_pairing(released_share, make_pair, token_ids, monkeypatch):
    phi, decoder = make_pair(released_share)
    ids_BT = token_ids(1, 20, released_share.num_rows)
    monkeypatch.setattr(decoder_module, "rotate", _interleaved)
    assert difference(decoder.logits(decoder(ids_BT)), phi(ids_BT).logits) > 100 * TOLERANCE


@torch.inference_mode()
def test_the_measure_finds_every_parameter_that_is_dropped(released_share, make_pair, token_ids):
    phi, decoder = make_pair(released_share)
    ids_BT = token_ids(2, 20, released_share.num_rows)
    expected = phi(ids_BT).logits
    hidden = released_share.hidden_size
    parts = {name: (name, slice(None)) for name, _ in decoder.named_parameters()}
    for number, letter in enumerate("qkv"):
        parts[f"bias of {letter}"] = ("blocks.1.input_proj.bias", slice(number * hidden, (number + 1) * hidden))
    parameters = dict(decoder.named_parameters())
    for label, (name, part) in parts.items():
        kept = parameters[name][part].clone()
        parameters[name][part] = 1.0 if name.endswith("norm.weight") else 0.0
        assert difference(decoder.logits(decoder(ids_BT)), expected) > 10 * TOLERANCE, f"{label} has no influence"
        parameters[name][part] = kept
    assert difference(decoder.logits(decoder(ids_BT)), expected) < TOLERANCE
