"""The checks of the settings classes themselves, and the presets that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chexmix_cli.core.errors import ChexmixError, SettingsError
from chexmix_cli.core.settings import load
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings
from chexmix_cli.core.settings.load import build, read_preset, to_dict
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings, VqganSettings
from chexmix_cli.core.vocab import RELEASED, compact

MODELS = sorted(path.stem for path in (Path(load.__file__).parent / "presets" / "model").glob("*.toml"))


def preset(name: str) -> dict[str, Any]:
    return read_preset("model", name)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_preset_is_a_whole_model_and_survives_json(name):
    model = build(ModelSettings, preset(name))
    assert model.grid_size**2 == model.vocabulary.tokens_per_image
    assert build(ModelSettings, to_dict(model)) == model


def test_the_embedded_vocabulary_is_compact():
    found = build(ModelSettings, preset("mini")).vocabulary
    sizes = {name: getattr(found, name) for name in ("num_text", "num_codes", "tokens_per_image")}
    assert found == compact(**sizes)


def test_the_released_size_is_the_published_one():
    """The numbers of CHEXMIX.md, written out a second time."""
    model = build(ModelSettings, preset("phi2"))
    assert model.vocabulary == RELEASED
    decoder, vqgan, image = model.decoder, model.vqgan, model.image
    assert (decoder.hidden_size, decoder.num_layers, decoder.num_heads, decoder.head_size) == (2560, 32, 32, 80)
    assert (decoder.mlp_size, decoder.rotary_size, decoder.rope_theta) == (10240, 32, 10000.0)
    assert (decoder.max_positions, decoder.norm_eps, decoder.residual_dropout) == (2048, 1e-5, 0.1)
    assert (vqgan.num_codes, vqgan.code_size, vqgan.latent_channels, vqgan.channels) == (8192, 256, 256, 128)
    assert (vqgan.channel_multipliers, vqgan.num_res_blocks, vqgan.downsampling) == ((1, 1, 2, 2, 4), 2, 16)
    assert (vqgan.num_groups, vqgan.norm_eps, vqgan.image_channels) == (32, 1e-6, 3)
    assert (image.resolution_px, image.geometry, model.grid_size) == (512, "crop", 32)


DECODER = {"num_rows": 10, "hidden_size": 12, "num_layers": 1, "num_heads": 3, "mlp_size": 5, "rotary_size": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "decoder.hidden_size: is 0; expected a positive number"),
        ({"num_layers": -1}, "decoder.num_layers: is -1"),
        ({"num_heads": 5}, r"decoder.hidden_size: is 12; expected a multiple of num_heads \(5\)"),
        ({"rotary_size": 3}, "decoder.rotary_size: is 3; expected an even number up to 4"),
        ({"rotary_size": 6}, "decoder.rotary_size: is 6"),
        ({"rotary_size": 0}, "decoder.rotary_size: is 0"),
        ({"residual_dropout": 1.0}, r"decoder.residual_dropout: is 1.0; expected 0\.\.0.99"),
        ({"max_positions": 0}, "decoder.max_positions: is 0"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(change, message):
    DecoderSettings(**DECODER, max_positions=8)
    with pytest.raises(SettingsError, match=message):
        DecoderSettings(**{"max_positions": 8, **DECODER, **change})


VQGAN = {
    "num_codes": 4,
    "code_size": 2,
    "latent_channels": 2,
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "image_channels": 1,
    "num_groups": 4,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codes": 0}, "vqgan.num_codes: is 0"),
        ({"channel_multipliers": ()}, "vqgan.channel_multipliers"),
        ({"image_channels": 2}, "vqgan.image_channels: is 2; expected 1 or 3"),
        ({"num_groups": 3}, "vqgan.channels: is 8; expected a multiple of 3 groups"),
    ],
)
def test_an_image_tokenizer_that_cannot_be_is_refused(change, message):
    assert VqganSettings(**VQGAN).downsampling == 2
    with pytest.raises(SettingsError, match=message):
        VqganSettings(**{**VQGAN, **change})


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("decoder", {"num_rows": 1091}, "decoder.num_rows: is 1091; expected the vocabulary's 1090 rows"),
        ("vqgan", {"num_codes": 512}, "vqgan.num_codes: is 512; expected the vocabulary's 64 codes"),
        ("image", {"resolution_px": 130}, "image.resolution_px: is 130; expected a multiple of 8"),
        ("image", {"resolution_px": 256}, "vocabulary.tokens_per_image: is 16; expected 32 x 32 codes"),
        (
            "decoder",
            {"max_positions": 19},
            "decoder.max_positions: is 19; expected more than the report prompt's 19",
        ),
        ("image", {"geometry": "stretch"}, "image.geometry: 'stretch' is not a choice"),
        ("decoder", {"rope_dtype": "float16"}, "decoder.rope_dtype: 'float16' is not a choice"),
        ("vocabulary", {"pad": 1088}, "are not distinct"),
        ("decoder", {"rope_grid": 5}, "decoder.rope_grid: is 5; expected 0, or the 4 codes of an image's side"),
    ],
)
def test_a_model_whose_parts_disagree_is_refused(section, change, message):
    values = preset("debug")
    values[section] = {**values[section], **change}
    with pytest.raises(ChexmixError, match=message):
        build(ModelSettings, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "decode.max_new_tokens: is 0"),
        ({"min_new_tokens": 201}, r"decode.min_new_tokens: is 201; expected 0\.\.200"),
        ({"min_new_tokens": -1}, "decode.min_new_tokens: is -1"),
        ({"temperature": -0.1}, "decode.temperature: is -0.1; expected 0 or more, finite"),
        ({"temperature": float("inf")}, "decode.temperature: is inf"),
        ({"temperature": float("nan")}, "decode.temperature: is nan"),
        ({"top_p": 0.0}, "decode.top_p: is 0.0; expected above 0, up to 1"),
        ({"top_p": 1.5}, "decode.top_p: is 1.5"),
        ({"top_p": float("nan")}, "decode.top_p: is nan"),
    ],
)
def test_decoding_that_cannot_be_is_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        DecodeSettings(**change)


def test_decoding_is_as_published_unless_told_otherwise():
    settings = DecodeSettings()
    assert (settings.max_new_tokens, settings.min_new_tokens, settings.temperature) == (200, 5, 0.0)
    assert settings.vocabulary == "text"


@pytest.mark.parametrize("name", ["batch_size", "max_file_mb", "max_pixels"])
def test_bounds_on_inputs_are_positive(name):
    with pytest.raises(SettingsError, match=f"input.{name}: is 0; expected a positive number"):
        InputSettings(**{name: 0})
