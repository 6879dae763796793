"""How weights read images is part of their settings: it survives every way of writing them, or is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.models.attention import ImageSpan
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import ReportFinetuning
from chexmix_cli.core.settings.load import build, to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import resolve_stage
from chexmix_cli.core.train.finetune.exporting import Exporter
from chexmix_cli.core.weights import WeightsDir, open_weights, save_model
from chexmix_cli.core.weights.convert import convert
from chexmix_cli.core.weights.export import export_hf
from chexmix_cli.core.weights.formats.header import DESCRIPTION_KEY, read_header
from chexmix_cli.core.weights.verify import verify


@pytest.fixture
def whole_dir(
    tmp_path: Path, tiny: ModelSettings, tiny_decoder: Decoder, tiny_vqgan: Vqgan, tokenizer_json: Path
) -> Path:
    """Return weights that read images whole."""
    settings = dataclasses.replace(tiny, decoder=dataclasses.replace(tiny.decoder, attention="bidirectional"))
    save_model(tmp_path / "whole", settings, decoder=tiny_decoder, vqgan=tiny_vqgan, tokenizer_file=tokenizer_json)
    return tmp_path / "whole"


def write_as_before(directory: Path, attention: dict[str, str]) -> None:
    """Give each file of a directory the header of 0.1.0: the decoder's attention in the provenance, by file name."""
    for name, form in attention.items():
        values = json.loads(read_header(directory / name).metadata[DESCRIPTION_KEY])
        values["model"]["decoder"].pop("attention", None)
        values["provenance"]["attention"] = form
        save_file(load_file(directory / name), directory / name, metadata={DESCRIPTION_KEY: json.dumps(values)})


def assert_whole(weights: WeightsDir) -> None:
    vocabulary = weights.settings.vocabulary
    span = weights.load_decoder("cpu", torch.float32).image_span
    assert span == ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image)
    assert weights.settings.decoder.attention == "bidirectional"
    assert "attention" not in weights.provenance
    # transformers would read it as a causal decoder.
    assert not (weights.path / "config.json").exists()
    assert {check.name for check in verify(weights.path) if check.status == "failed"} == set()


def finetuned(start: Path, out: Path) -> None:
    values = {
        "method": "lora",
        "train": {"steps": 1, "batch_size": 1, "micro_batch_size": 1},
        "optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.0},
    }
    weights = open_weights(start)
    parts = weights.load_decoder("cpu", torch.float32), weights.load_vqgan("cpu", torch.float32)
    Exporter(build(ReportFinetuning, values), weights, *parts).export_model(out)
    assert not (out / "adapter").exists()  # `peft` would add them to a causal decoder


@pytest.mark.parametrize("write", [convert, finetuned])
def test_it_survives_every_way_of_writing_weights(
    tmp_path: Path, whole_dir: Path, write: Callable[[Path, Path], object]
) -> None:
    assert_whole(open_weights(whole_dir))
    write(whole_dir, tmp_path / "out")
    assert_whole(open_weights(tmp_path / "out"))
    convert(tmp_path / "out" / "model.safetensors", tmp_path / "out", dtype=torch.bfloat16)
    assert_whole(open_weights(tmp_path / "out"))


def test_transformers_is_not_given_what_it_cannot_express(tmp_path: Path, whole_dir: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"decoder.attention is 'bidirectional', which a Phi of other programs"
    ) as caught:
        export_hf(whole_dir, tmp_path / "hf")
    assert "weights convert" in str(caught.value.hint)
    assert not (tmp_path / "hf").exists()


def test_directories_of_before_are_read_as_before(tmp_path: Path, tiny_dir: Path) -> None:
    write_as_before(tiny_dir, {"model.safetensors": "bidirectional", "vqgan.safetensors": "bidirectional"})
    assert open_weights(tiny_dir).sees_whole_image
    assert {check.name for check in verify(tiny_dir) if check.status == "failed"} == set()
    convert(tiny_dir / "model.safetensors", tiny_dir)
    assert_whole(open_weights(tiny_dir))
    with pytest.raises(WeightsError, match="cannot express"):
        export_hf(tiny_dir, tmp_path / "hf")
    write_as_before(tiny_dir, {"model.safetensors": "paper"})
    assert not open_weights(tiny_dir).sees_whole_image


def test_an_image_tokenizer_made_with_another_decoder_says_nothing_of_this_one(tiny_dir: Path) -> None:
    # As in the embedded model: its tokenizer's file came out of a stage 2 that read images whole.
    write_as_before(tiny_dir, {"vqgan.safetensors": "bidirectional"})
    assert not open_weights(tiny_dir).sees_whole_image


#: The settings of 0.1.0, by part of a model.
FIELDS_BEFORE = {
    "vocabulary": "num_text num_codes image_start tokens_per_image begin_image end_image begin_text mask pad num_rows",
    "image": "resolution_px intensity geometry",
    "vqgan": "num_codes code_size latent_channels channels channel_multipliers num_res_blocks image_channels "
    "num_groups norm_eps",
    "decoder": "num_rows hidden_size num_layers num_heads mlp_size rotary_size max_positions rope_theta rope_dtype "
    "norm_eps residual_dropout",
}


def test_heads_and_indexes_of_before_still_know_their_weights(tiny_dir: Path) -> None:
    # Their files name the fingerprint; a setting that is new must not change that of weights which do without it.
    weights = open_weights(tiny_dir)
    values = to_dict(weights.settings)
    settings = {part: {name: values[part][name] for name in names.split()} for part, names in FIELDS_BEFORE.items()}
    files = [tiny_dir / name for name in ("model.safetensors", "vqgan.safetensors")]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    known = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()
    assert weights.fingerprint == known


@pytest.mark.parametrize("stage", ["1", "2"])
def test_pretraining_sets_it_in_one_place(stage: str) -> None:
    values = {"model": {"decoder": {"attention": "bidirectional"}}}
    with pytest.raises(SettingsError, match=r"model.decoder.attention: is 'bidirectional'; expected causal: stage 2's"):
        resolve_stage(stage, "debug", [("--set", values)])
