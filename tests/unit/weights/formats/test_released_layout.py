from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings
from chexmix_cli.core.vocab import RELEASED
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.formats.header import DTYPE_BYTES
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.released import config_text, read_config, read_vqgan_config, vqgan_config_text
from chexmix_cli.core.weights.hub.registry import RELEASED_ENTRY, registry

CONFIG: dict[str, Any] = {
    "model_type": "phi",
    "vocab_size": 58562,
    "hidden_size": 40,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "partial_rotary_factor": 0.4,
}
DDCONFIG: dict[str, Any] = {
    "attn_resolutions": [],
    "ch": 32,
    "ch_mult": [1, 2],
    "double_z": False,
    "dropout": 0.0,
    "in_channels": 3,
    "num_res_blocks": 2,
    "out_ch": 3,
    "resolution": 64,
    "z_channels": 16,
}


def _config(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**CONFIG, **changes}))
    return path


def _vqgan_config(path: Path, params: dict[str, Any] | None = None, **changes: Any) -> Path:
    values = {"ddconfig": {**DDCONFIG, **changes}, "embed_dim": 8, "n_embed": 8192, **(params or {})}
    path.write_text(yaml.safe_dump({"model": {"params": values, "target": "taming.models.vqgan.VQModel"}}))
    return path


def _sparse_weights(path: Path, settings: DecoderSettings) -> None:
    """Write a safetensors file with the right header whose numbers are a hole: gigabytes that cost nothing."""
    header, end = {}, 0
    for item in decoder_slices(settings):
        start, end = end, end + math.prod(item.shape) * DTYPE_BYTES["BF16"]
        header[item.key] = {"dtype": "BF16", "shape": item.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_the_reference_loads_and_its_logits_are_ours(shared: Path) -> None:
    directory = shared / "reference" / "official-tiny"
    weights = open_weights(directory)
    assert weights.settings.vocabulary == RELEASED
    assert (weights.settings.image.intensity, weights.settings.image.geometry) == ("official", "crop")
    assert weights.settings.image.resolution_px == 512
    assert weights.sources == ("decoder: config.json", "vqgan: vqgan.yaml", "vocabulary: released")
    assert weights.entry is None  # of the released layout, but not the released weights
    reference = np.load(directory / "logits.npz")
    decoder = weights.load_decoder("cpu", torch.float32)
    with torch.no_grad():
        states = decoder(torch.from_numpy(reference["input_ids"]))[:, torch.from_numpy(reference["rows"])]
        difference = (decoder.logits(states)[0] - torch.from_numpy(reference["logits"])).abs().max()
    assert difference < 1e-4


def test_config_and_yaml_are_read(tmp_path: Path) -> None:
    decoder = read_config(_config(tmp_path / "config.json", resid_pdrop=0.2, rope_theta=5000.0, layer_norm_eps=1e-6))
    expected = DecoderSettings(
        num_rows=58562,
        hidden_size=40,
        num_layers=3,
        num_heads=4,
        mlp_size=80,
        rotary_size=4,
        max_positions=2048,
        rope_theta=5000.0,
        norm_eps=1e-6,
        residual_dropout=0.2,
    )
    assert decoder == expected
    nested = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.4}
    newer = _config(tmp_path / "new.json", resid_pdrop=0.2, layer_norm_eps=1e-6, rope_parameters=nested)
    assert read_config(newer) == expected
    vqgan, resolution = read_vqgan_config(_vqgan_config(tmp_path / "vqgan.yaml", resolution=32))
    assert resolution == 32
    assert (vqgan.num_codes, vqgan.code_size, vqgan.latent_channels, vqgan.channels) == (8192, 8, 16, 32)
    assert (vqgan.channel_multipliers, vqgan.num_res_blocks, vqgan.image_channels) == ((1, 2), 2, 3)
    assert (vqgan.num_groups, vqgan.norm_eps) == (32, 1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qk_layernorm", True),
        ("tie_word_embeddings", True),
        ("hidden_act", "gelu"),
        ("num_key_value_heads", 2),
        ("model_type", "llama"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}),
        ("quantization_config", {"bits": 4}),
        ("vocab_size", None),
        ("hidden_size", "40"),
        ("partial_rotary_factor", 0.3),
        ("num_attention_heads", 3),
        ("num_attention_heads", 0),
    ],
)
def test_a_decoder_we_do_not_have_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    path = _config(tmp_path / "config.json", **{key: value})
    names = {"rope_scaling": "rope_type", "rope_parameters": "rope_type", "partial_rotary_factor": "rotary_size"}
    expected = names.get(key, key) if (key, value) != ("num_attention_heads", 3) else "hidden_size"
    expected = "num_heads" if (key, value) == ("num_attention_heads", 0) else expected
    with pytest.raises(WeightsError, match=expected) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_resolutions", [16]),
        ("double_z", True),
        ("resamp_with_conv", False),
        ("attn_type", "linear"),
        ("out_ch", 1),
        ("ch_mult", "1,2"),
        ("ch", 0),
        ("resolution", None),
        ("num_heads", 4),
    ],
)
def test_a_vqgan_we_do_not_have_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    path = _vqgan_config(tmp_path / "vqgan.yaml", **{key: value})
    with pytest.raises(WeightsError, match="vqgan.channels" if key == "ch" else key) as caught:
        read_vqgan_config(path)
    assert str(path) in str(caught.value)


def test_other_vqgan_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vqgan.yaml"
    path.write_text("model:\n  target: taming.models.vqgan.GumbelVQ\n  params: {ddconfig: {}}\n")
    with pytest.raises(WeightsError, match="GumbelVQ"):
        read_vqgan_config(path)
    with pytest.raises(WeightsError, match="remap"):
        read_vqgan_config(_vqgan_config(path, params={"remap": "used.npy"}))
    with pytest.raises(WeightsError, match="n_embed"):
        read_vqgan_config(_vqgan_config(path, params={"n_embed": "many"}))
    for text, message in (("a: [", "is not YAML"), ("- a", "no model.params"), ("", "no model.params")):
        path.write_text(text)
        with pytest.raises(WeightsError, match=message):
            read_vqgan_config(path)
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(WeightsError, match="is not YAML"):
        read_vqgan_config(path)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_config_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_what_is_written_reads_back(tmp_path: Path, tiny: ModelSettings) -> None:
    for settings in (tiny, registry()[RELEASED_ENTRY].model_settings()):
        (tmp_path / "config.json").write_text(config_text(settings, "float32"))
        (tmp_path / "vqgan.yaml").write_text(vqgan_config_text(settings))
        found = read_config(tmp_path / "config.json")
        assert found == build(DecoderSettings, {**_as_dict(settings.decoder), "rope_dtype": "float32"})
        assert read_vqgan_config(tmp_path / "vqgan.yaml") == (settings.vqgan, settings.image.resolution_px)


def test_every_rotary_size_survives_being_a_factor(tmp_path: Path, tiny: ModelSettings) -> None:
    for head_size in (16, 24, 56, 80, 112, 128):
        for rotary_size in range(2, head_size + 1, 2):
            decoder = {
                **_as_dict(tiny.decoder),
                "num_heads": 2,
                "hidden_size": 2 * head_size,
                "rotary_size": rotary_size,
            }
            settings = build(ModelSettings, {**_as_dict(tiny), "decoder": decoder})
            (tmp_path / "config.json").write_text(config_text(settings, "float32"))
            assert read_config(tmp_path / "config.json").rotary_size == rotary_size


def test_an_unknown_vocabulary_is_named(tmp_path: Path, tiny_dir: Path) -> None:
    for name in ("config.json", "vqgan.yaml"):
        (tmp_path / name).write_text((tiny_dir / name).read_text())
    _strip_header(tiny_dir / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="vocab_size is 1066, a vocabulary that is not known; expected 58562"):
        open_weights(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        WeightsError, match=r"no config\.json beside it, and not the released model's tensors.*misshapen"
    ):
        open_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    _strip_header(tiny_dir / "vqgan.safetensors", tmp_path / "vqgan.safetensors")
    with pytest.raises(WeightsError, match="n_embed is 40"):
        open_weights(tmp_path)


def test_the_released_files_alone_are_known_by_their_tensors(tmp_path: Path) -> None:
    released = registry()[RELEASED_ENTRY].model_settings()
    _sparse_weights(tmp_path / "model.safetensors", released.decoder)
    weights = open_weights(tmp_path)
    assert weights.settings.decoder == released.decoder
    assert weights.settings.vocabulary == RELEASED
    assert weights.sources == ("decoder: preset phi2", "vqgan: preset phi2", "vocabulary: released")
    assert weights.entry == registry()[RELEASED_ENTRY]  # so its licence is shown
    assert weights.entry.licence.must_accept


def test_image_and_vocabulary_must_agree(tmp_path: Path, shared: Path, edit: Callable[[Path, str, str], None]) -> None:
    shutil.copytree(shared / "reference" / "official-tiny", tmp_path / "copy", copy_function=shutil.copy)
    path = tmp_path / "copy" / "vqgan.yaml"
    path.chmod(0o644)
    edit(path, "resolution: 512", "resolution: 256")
    with pytest.raises(WeightsError, match="vocabulary.tokens_per_image"):
        open_weights(tmp_path / "copy")


def test_the_presets_of_this_part_are_valid(tmp_path: Path, tokenizer_json: Path) -> None:
    for name in ("phi2", "debug"):
        assert build(ModelSettings, read_preset("model", name)).name == name
    assert build(ModelSettings, read_preset("model", "phi2")).vocabulary == RELEASED
    # The debug model's reports are encoded with the embedded model's tokenizer.
    debug = build(ModelSettings, read_preset("model", "debug"))
    from chexmix_cli.core.models.decoder import Decoder

    save_model(tmp_path, debug, decoder=Decoder(debug.decoder), tokenizer_file=tokenizer_json)
    assert open_weights(tmp_path).load_text_tokenizer() is not None


def _strip_header(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(load_file(source), target)


def _as_dict(settings: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(settings)
