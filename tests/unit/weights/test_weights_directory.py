from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.files import tokenizer_files
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.hub.registry import EMBEDDED, RELEASED_ENTRY, registry


def test_what_is_saved_comes_back_whole(
    tiny: ModelSettings, tiny_dir: Path, tiny_decoder: Decoder, tiny_vqgan: Vqgan
) -> None:
    weights = open_weights(tiny_dir)
    assert weights.settings == tiny
    assert (weights.name, weights.path, weights.entry) == ("tiny", tiny_dir, None)
    assert weights.has_decoder
    assert weights.has_vqgan
    for ours, theirs in (
        (weights.load_decoder("cpu", torch.float32), tiny_decoder),
        (weights.load_vqgan(torch.device("cpu"), torch.float32), tiny_vqgan),
    ):
        assert not ours.training
        expected = theirs.state_dict()
        state = ours.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in state.items())
    tokenizer = weights.load_text_tokenizer()
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("No effusion.")) == "No effusion."


def test_the_directory_is_in_the_released_layout_too(tiny_dir: Path) -> None:
    names = {path.name for path in tiny_dir.iterdir()}
    assert names == {"model.safetensors", "vqgan.safetensors", "config.json", "vqgan.yaml", "tokenizer.json"}
    assert "model.layers.1.self_attn.q_proj.weight" in read_header(tiny_dir / "model.safetensors").tensors


def test_a_dtype_can_be_chosen_when_saving_and_when_loading(
    tmp_path: Path, tiny: ModelSettings, tiny_decoder: Decoder
) -> None:
    save_model(tmp_path, tiny, decoder=tiny_decoder, dtype=torch.bfloat16)
    assert {info.dtype for info in read_header(tmp_path / "model.safetensors").tensors.values()} == {"BF16"}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = open_weights(tmp_path).load_decoder("cpu", torch.float32)
    assert torch.equal(loaded.head.weight, tiny_decoder.head.weight.bfloat16().float())
    assert tiny_decoder.head.weight.dtype == torch.float32


def test_parts_are_missed_only_when_asked_for(tmp_path: Path, tiny: ModelSettings, tiny_vqgan: Vqgan) -> None:
    save_model(tmp_path, tiny, vqgan=tiny_vqgan)
    weights = open_weights(tmp_path)
    assert weights.settings == tiny
    assert not weights.has_decoder
    assert weights.load_text_tokenizer() is None
    assert weights.tokenizer_file is None
    with pytest.raises(WeightsError, match=r"has no decoder \(model\.safetensors\)"):
        weights.load_decoder("cpu", torch.float32)
    (tmp_path / "vqgan.safetensors").unlink()
    save_model(tmp_path, tiny, decoder=Decoder(tiny.decoder))
    with pytest.raises(WeightsError, match=r"has no image tokenizer \(vqgan\.safetensors or vqgan\.ckpt\)"):
        open_weights(tmp_path).load_vqgan("cpu", torch.float32)


def test_parts_can_be_saved_one_after_the_other(
    tmp_path: Path, tiny: ModelSettings, tiny_decoder: Decoder, tiny_vqgan: Vqgan
) -> None:
    save_model(tmp_path, tiny, vqgan=tiny_vqgan, provenance={"stage": "tokenizer"})
    save_model(tmp_path, tiny, decoder=tiny_decoder, provenance={"stage": "1"})
    weights = open_weights(tmp_path)
    assert weights.provenance == {"stage": "1"}
    assert weights.has_vqgan


def test_a_run_folder_means_its_model(tmp_path: Path, tiny_dir: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copytree(tiny_dir, run / "model")
    assert open_weights(run).path == run / "model"
    assert open_weights(str(run)).name == "tiny"


def test_what_is_not_there_is_said(tmp_path: Path, tiny_dir: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere: no such weights; expected .*chexmix-mini, chexmix"):
        open_weights("nowhere")
    with pytest.raises(WeightsError, match="is a file"):
        open_weights(tiny_dir / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no weights"):
        open_weights(tmp_path)
    with pytest.raises(WeightsError, match="'chexmix' are not here") as caught:
        open_weights("chexmix")
    assert caught.value.hint == "chexmix weights fetch chexmix --accept-licence"


def test_none_is_the_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_dir: Path) -> None:
    assets = tmp_path / "assets"
    shutil.copytree(tiny_dir, assets / EMBEDDED)
    monkeypatch.setattr("chexmix_cli.core.weights.hub.registry._PACKAGE", tmp_path)
    for spelling in (None, EMBEDDED, assets / EMBEDDED):
        weights = open_weights(spelling)
        assert weights.path == assets / EMBEDDED
        assert weights.entry == registry()[EMBEDDED]


def test_a_name_means_the_entry_and_a_path_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_dir: Path
) -> None:
    shutil.copytree(tiny_dir, tmp_path / "here" / RELEASED_ENTRY)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(WeightsError, match="not here"):
        open_weights(RELEASED_ENTRY)
    assert open_weights(f"./{RELEASED_ENTRY}").name == "tiny"
    assert open_weights(Path(RELEASED_ENTRY)).name == "tiny"


def test_files_of_two_models_are_not_mixed(tmp_path: Path, tiny: ModelSettings, tiny_dir: Path) -> None:
    other = dataclasses.replace(tiny, image=dataclasses.replace(tiny.image, geometry="crop"))
    save_model(tiny_dir, other, decoder=Decoder(tiny.decoder))
    with pytest.raises(WeightsError, match=r"describe different models \(image\.geometry\)"):
        open_weights(tiny_dir)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"model": {}}', "cannot be read"),
        ('{"schema": 2, "model": {}}', "schema 2; expected 1"),
        ('{"schema": 1, "model": {"name": "x"}}', "missing"),
        ('{"schema": 1, "model": {"nome": "x"}}', "unknown setting"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, text: str, message: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"chexmix": text})
    with pytest.raises(WeightsError, match=rf"model\.safetensors: header key 'chexmix'.*{message}"):
        open_weights(tmp_path)


def test_wrong_tensors_for_the_description_are_listed(tiny_dir: Path) -> None:
    path = tiny_dir / "model.safetensors"
    metadata = dict(read_header(path).metadata)
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    tensors["model.layers.2.mlp.fc1.bias"] = tensors.pop("model.layers.1.mlp.fc1.bias")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"1 missing: model\.layers\.1.*1 unexpected: model\.layers\.2"):
        open_weights(tiny_dir).load_decoder("cpu", torch.float32)


def test_the_fingerprint_is_of_numbers_and_settings(tmp_path: Path, tiny: ModelSettings, tiny_dir: Path) -> None:
    first = open_weights(tiny_dir).fingerprint
    moved = shutil.copytree(tiny_dir, tmp_path / "elsewhere")
    assert open_weights(moved).fingerprint == first
    (moved / "tokenizer.json").unlink()
    assert open_weights(moved).fingerprint == first
    save_model(moved, tiny, vqgan=Vqgan(tiny.vqgan))
    assert open_weights(moved).fingerprint != first


def test_digests_are_remembered_until_the_file_changes(
    tmp_path: Path, chexmix_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = file_sha256(path)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    cache = chexmix_home / "sha256.json"
    assert first in cache.read_text()
    cache.write_text(cache.read_text().replace(first, "0" * 64))
    assert file_sha256(path) == "0" * 64
    assert file_sha256(path, fresh=True) == first
    path.write_bytes(b"two!")
    assert file_sha256(path) != first
    cache.write_text("damaged")
    assert file_sha256(path, fresh=True) == file_sha256(path)
    cache.unlink()
    chexmix_home.rmdir()
    chexmix_home.write_text("a file where the folder should be")
    assert len(file_sha256(path)) == 64


def test_three_tokenizer_files_travel_together(tmp_path: Path, tiny: ModelSettings, tiny_vqgan: Vqgan) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (source / name).write_text(name)
    save_model(tmp_path / "out", tiny, vqgan=tiny_vqgan, tokenizer_file=source / "vocab.json")
    copied = tokenizer_files(tmp_path / "out")
    assert [path.read_text() for path in copied] == ["vocab.json", "merges.txt", "added_tokens.json"]


def test_opening_describes_without_torch(tiny_dir: Path, repository: Path) -> None:
    code = (
        "import sys; from chexmix_cli.core.weights import open_weights;"
        "from chexmix_cli.core.weights.describe import describe_weights;"
        "weights = open_weights(sys.argv[1]); weights.fingerprint; describe_weights(weights);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_dir)], check=True, cwd=repository)
