"""Pairs of decoders with the same random parameters: transformers' PhiForCausalLM and ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.weights.formats.keys import decoder_slices

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")

Pair = tuple["transformers.PhiForCausalLM", Decoder]


@pytest.fixture(autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """Ask for one thread in every test of this folder."""


def phi_config(settings: DecoderSettings) -> transformers.PhiConfig:
    """Return the configuration with which transformers builds the decoder of ``settings``."""
    return transformers.PhiConfig(
        vocab_size=settings.num_rows,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.mlp_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        hidden_act="gelu_new",
        max_position_embeddings=settings.max_positions,
        layer_norm_eps=settings.norm_eps,
        # Half a feature more than needed: transformers cuts the product to a whole number.
        partial_rotary_factor=min(1.0, (settings.rotary_size + 0.5) / settings.head_size),
        rope_theta=settings.rope_theta,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter with numbers that matter: no bias is 0, no gain is 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise / parameter.shape[1] ** 0.5 if parameter.ndim > 1 else 0.5 + 0.5 * noise)


def copy_weights(phi: transformers.PhiForCausalLM, decoder: Decoder) -> Decoder:
    """Copy every tensor of a PhiForCausalLM into a decoder, both ways complete."""
    source = dict(phi.state_dict())
    target = dict(decoder.named_parameters())
    with torch.no_grad():
        for item in decoder_slices(decoder.settings):
            item.of(target[item.parameter]).copy_(source.pop(item.key))
    assert not source, f"keys without a place: {sorted(source)}"
    return decoder


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Return a function that builds both decoders of some settings, every parameter random, float32, eval mode."""

    def build(settings: DecoderSettings, seed: int = 0) -> Pair:
        phi = transformers.PhiForCausalLM(phi_config(settings)).eval()
        randomise(phi, seed)
        return phi, copy_weights(phi, Decoder(settings)).eval()

    return build


@pytest.fixture(scope="session")
def released_share() -> DecoderSettings:
    """Return a small decoder with the released head: 80 features, 32 of them rotary."""
    return DecoderSettings(
        num_rows=211, hidden_size=160, num_layers=3, num_heads=2, mlp_size=320, rotary_size=32, max_positions=96
    )


@pytest.fixture(scope="session")
def token_ids() -> Callable[[int, int, int], Tensor]:
    """Return a function that draws random token ids (rows, length) below a number of rows."""

    def draw(rows: int, length: int, num_rows: int) -> Tensor:
        return torch.randint(0, num_rows, (rows, length), generator=torch.Generator().manual_seed(length))

    return draw
