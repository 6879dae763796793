from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PhiForCausalLM

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.typicality import Typical
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.convert import convert
from chexmix_cli.core.weights.export import export_hf
from chexmix_cli.core.weights.hub.registry import RELEASED_ENTRY


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "reference" / "official-tiny"


def test_a_released_directory_becomes_self_describing_bit_for_bit(tmp_path: Path, official: Path) -> None:
    out = tmp_path / "out"
    written = convert(official, out)
    assert {path.name for path in written} == {path.name for path in out.iterdir()}
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "vqgan.safetensors",
        "config.json",
        "vqgan.yaml",
    }
    expected = {
        "model.safetensors": load_file(official / "model.safetensors"),
        "vqgan.safetensors": torch.load(official / "vqgan.ckpt", weights_only=True)["state_dict"],
    }
    for name, tensors in expected.items():
        found = load_file(out / name)
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key], tensor), key
    before, after = open_weights(official), open_weights(out)
    assert after.settings == before.settings
    assert after.sources == ("header of model.safetensors", "header of vqgan.safetensors")
    digest = hashlib.sha256((official / "vqgan.ckpt").read_bytes()).hexdigest()
    assert after.provenance["converted_from"]["vqgan.ckpt"] == digest


def test_one_file_is_converted_beside_the_other(tmp_path: Path, official: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(official, folder, copy_function=shutil.copyfile)
    before = open_weights(folder)
    assert {path.name for path in convert(folder / "vqgan.ckpt", folder)} == {"vqgan.safetensors", "vqgan.yaml"}
    (folder / "vqgan.ckpt").unlink()
    after = open_weights(folder)
    assert after.settings == before.settings
    after.load_vqgan("cpu", torch.float32)
    after.load_decoder("cpu", torch.float32)
    assert {path.name for path in convert(folder / "model.safetensors", tmp_path / "d")} == {
        "model.safetensors",
        "config.json",
    }
    assert {path.name for path in convert(folder / "vqgan.safetensors", tmp_path / "v")} == {
        "vqgan.safetensors",
        "vqgan.yaml",
    }
    assert open_weights(tmp_path / "d").settings == before.settings


def test_a_directory_can_be_converted_in_place_and_to_another_dtype(tiny_dir: Path, tiny: ModelSettings) -> None:
    before = load_file(tiny_dir / "model.safetensors")
    before = {key: value.clone() for key, value in before.items()}
    convert(tiny_dir, tiny_dir, dtype=torch.bfloat16)
    after = load_file(tiny_dir / "model.safetensors")
    assert all(torch.equal(after[key], value.bfloat16()) for key, value in before.items())
    assert open_weights(tiny_dir).settings == tiny
    assert open_weights(tiny_dir).load_text_tokenizer() is not None
    assert json.loads((tiny_dir / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_nothing_is_written_when_the_source_does_not_fit(tmp_path: Path, tiny_dir: Path, tiny: ModelSettings) -> None:
    torch.save({"quantize.embedding.weight": torch.zeros(40, 6)}, tiny_dir / "vqgan.ckpt")
    with pytest.raises(WeightsError, match=r"vqgan\.ckpt: keys do not fit the model: \d+ missing"):
        convert(tiny_dir / "vqgan.ckpt", tmp_path / "out")
    with pytest.raises(WeightsError, match="is no weight file by its name"):
        convert(tiny_dir / "config.json", tmp_path / "out")
    (tiny_dir / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has no decoder"):
        export_hf(tiny_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_terms_and_origin_travel_along(tmp_path: Path, tiny: ModelSettings, tiny_decoder: Decoder) -> None:
    source = tmp_path / "source"
    save_model(source, tiny, decoder=tiny_decoder, provenance={"stage": "2", "entry": RELEASED_ENTRY})
    (source / "LICENSE").write_text("terms")
    assert open_weights(source).entry.name == RELEASED_ENTRY
    convert(source, tmp_path / "once")
    convert(tmp_path / "once", tmp_path / "twice")
    export_hf(tmp_path / "twice", tmp_path / "hf")
    for name in ("twice", "hf"):
        weights = open_weights(tmp_path / name)
        assert weights.entry.name == RELEASED_ENTRY
        assert weights.provenance["stage"] == "2"
        assert (tmp_path / name / "LICENSE").read_text() == "terms"


@pytest.mark.parametrize("in_place", [False, True])
def test_heads_travel_along_and_belong_to_the_converted_weights(
    tmp_path: Path, tiny_dir: Path, tiny: ModelSettings, in_place: bool
) -> None:
    source = open_weights(tiny_dir)
    before, hidden = source.fingerprint, tiny.decoder.hidden_size
    ones, two = np.ones(hidden, np.float32), np.arange(2, dtype=np.float32)
    weight = np.arange(2 * hidden, dtype=np.float32).reshape(2, hidden)
    head = Head(
        labels=("Edema", "Pneumonia"),
        layer=1,
        mean_D=ones,
        scale_D=ones,
        weight_KD=weight,
        bias_K=two,
        slope_K=two,
        offset_K=two,
        threshold_K=two,
        model=before,
    )
    head.save(tiny_dir / "head.safetensors")
    projection = Projection(layer=1, hidden_size=hidden, size=3)
    projection.model = before
    projection.save(tiny_dir, {})
    typical = Typical(mean_D=ones, whiten_RD=weight, threshold=1.5, share=0.01, model=before)
    typical.save(tiny_dir / "typical.safetensors")
    out = tiny_dir if in_place else tmp_path / "out"
    written = convert(tiny_dir, out, dtype=torch.bfloat16)
    fitted = ("head", "retrieval", "typical")
    assert {out / f"{name}.safetensors" for name in fitted} <= set(written)
    after = open_weights(out).fingerprint
    carried = Head.load(out / "head.safetensors")
    assert after != before
    carried.require_model(after, "head")
    np.testing.assert_array_equal(carried.weight_KD, weight)
    Typical.load(out / "typical.safetensors").require_model(after, "typical")
    projection = Projection.load(out, tiny.decoder)
    assert projection is not None
    projection.require_model(after, "retrieval")
    # A head of other weights does not become one of these.
    dataclasses.replace(head, model="0" * 64).save(out / "head.safetensors")
    convert(out, tmp_path / "again")
    assert Head.load(tmp_path / "again" / "head.safetensors").model == "0" * 64


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_transformers_loads_the_export_and_agrees(tmp_path: Path, tiny_dir: Path, dtype: torch.dtype | None) -> None:
    out = tmp_path / "hf"
    written = export_hf(tiny_dir, out, dtype=dtype)
    assert {path.name for path in written} == {path.name for path in out.iterdir()}
    phi, report = PhiForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert phi.dtype == (dtype or torch.float32)
    weights = open_weights(tiny_dir)
    decoder = open_weights(out).load_decoder("cpu", torch.float32)
    ids = torch.randint(0, weights.settings.decoder.num_rows, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (phi.float().eval()(ids).logits - decoder.logits(decoder(ids))).abs().max()
    assert difference < 1e-5
    vocabulary = weights.settings.vocabulary
    assert phi.generation_config.eos_token_id == [vocabulary.begin_text, vocabulary.begin_image]
    assert phi.config.pad_token_id == vocabulary.pad
    text = "Mild cardiomegaly.\nNo effusion \u2265 1 cm."
    theirs, ours = AutoTokenizer.from_pretrained(out), weights.load_text_tokenizer()
    assert ours is not None
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.eos_token_id == vocabulary.begin_text


def test_a_trained_directory_itself_loads_in_transformers(tiny_dir: Path, tiny_decoder: Decoder) -> None:
    phi = PhiForCausalLM.from_pretrained(tiny_dir)
    assert torch.equal(phi.lm_head.weight, tiny_decoder.head.weight)
