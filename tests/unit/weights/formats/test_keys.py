from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PhiConfig, PhiForCausalLM

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.formats.header import Description
from chexmix_cli.core.weights.formats.keys import decoder_slices, is_training_only, num_parameters, same_name_slices


def test_every_number_of_every_parameter_is_in_exactly_one_slice(tiny: ModelSettings) -> None:
    decoder = Decoder(tiny.decoder)
    times = {name: torch.zeros_like(value) for name, value in decoder.state_dict().items()}
    for item in decoder_slices(tiny.decoder):
        view = item.of(times[item.parameter])
        assert tuple(view.shape) == item.shape, item.key
        view += 1
    for name, count in times.items():
        assert bool((count == 1).all()), name


def test_the_keys_are_those_of_phi_for_causal_lm(tiny: ModelSettings) -> None:
    ours = {item.key: item.shape for item in decoder_slices(tiny.decoder)}
    theirs = {key: tuple(value.shape) for key, value in _phi(tiny).state_dict().items()}
    assert ours == theirs


def test_the_phi2_preset_has_the_size_of_phi2_with_the_grown_vocabulary() -> None:
    settings = build(ModelSettings, read_preset("model", "phi2"))
    # Phi-2's own configuration, as far as it differs from the class defaults.
    config = PhiConfig(
        vocab_size=58562, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"):
        theirs = PhiForCausalLM(config)
    assert num_parameters(decoder_slices(settings.decoder)) == sum(value.numel() for value in theirs.parameters())
    with torch.device("meta"):
        vqgan = Vqgan(settings.vqgan)
    # "68.7 M parameters" (docs/model.md), to the three digits given.
    assert round(num_parameters(same_name_slices(vqgan)) / 1e6, 1) == 68.7


@pytest.mark.parametrize("is_swapped", [False, True])
def test_logits_equal_transformers_and_two_swapped_keys_show(
    tmp_path: Path, tiny: ModelSettings, is_swapped: bool
) -> None:
    phi = _phi(tiny).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.normal_(std=0.5, generator=generator)
    tensors = {key: value.clone() for key, value in phi.state_dict().items()}
    if is_swapped:
        first, second = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qv")
        tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"chexmix": Description(tiny).to_json()})
    decoder = open_weights(tmp_path).load_decoder("cpu", torch.float32)
    ids = torch.randint(0, tiny.decoder.num_rows, (2, 30), generator=generator)
    with torch.no_grad():
        difference = (decoder.logits(decoder(ids)) - phi(ids).logits).abs().max().item()
    assert difference > 0.1 if is_swapped else difference < 1e-4


def test_what_only_training_needed_is_told_from_the_rest() -> None:
    assert is_training_only("loss.perceptual_loss.net.slice1.0.weight")
    assert is_training_only("discriminator.main.0.weight")
    assert not is_training_only("encoder.conv_in.weight")
    assert not is_training_only("lossless.weight")


def _phi(settings: ModelSettings) -> PhiForCausalLM:
    decoder = settings.decoder
    return PhiForCausalLM(
        PhiConfig(
            vocab_size=decoder.num_rows,
            hidden_size=decoder.hidden_size,
            intermediate_size=decoder.mlp_size,
            num_hidden_layers=decoder.num_layers,
            num_attention_heads=decoder.num_heads,
            max_position_embeddings=decoder.max_positions,
            partial_rotary_factor=decoder.rotary_size / decoder.head_size,
        )
    )
