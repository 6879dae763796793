"""Networks in several files under an index are read, written and verified; decoders in other forms are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_standin import Hub, Server
from safetensors.torch import load_file, save_file
from transformers import PhiForCausalLM

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.convert import convert
from chexmix_cli.core.weights.describe import describe_weights
from chexmix_cli.core.weights.export import export_hf
from chexmix_cli.core.weights.formats.sharded import plan_files
from chexmix_cli.core.weights.hub import fetch as fetch_module
from chexmix_cli.core.weights.hub.fetch import fetch
from chexmix_cli.core.weights.hub.registry import RELEASED_ENTRY, registry
from chexmix_cli.core.weights.verify import verify

INDEX = "model.safetensors.index.json"
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(directory: Path, *, name: str = "model") -> None:
    """Put a network's file into two and an index, as save_pretrained(max_shard_size=...) does."""
    tensors = load_file(directory / f"{name}.safetensors")
    keys, weight_map = sorted(tensors), {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        file = f"{name}-{number:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (directory / f"{name}.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / f"{name}.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def official(tmp_path: Path, shared: Path) -> Path:
    """Return a writable copy of the tiny released directory with its decoder in two files."""
    folder = tmp_path / "official"
    source = shared / "reference" / "official-tiny"
    folder.mkdir()
    for name in ("model.safetensors", "vqgan.ckpt", "config.json", "vqgan.yaml"):
        shutil.copyfile(source / name, folder / name)
    shard(folder)
    return folder


def status(directory: Path) -> dict[str, str]:
    return {check.name: check.status for check in verify(directory)}


def decoder_state(directory: Path) -> dict[str, torch.Tensor]:
    return open_weights(directory).load_decoder("cpu", torch.float32).state_dict()


def test_every_command_takes_all_of_a_decoder_in_several_files(tmp_path: Path, official: Path, shared: Path) -> None:
    whole = decoder_state(shared / "reference" / "official-tiny")
    assert status(official)["decoder"] == "ok"
    part = describe_weights(open_weights(official))["parts"]["decoder"]
    assert part["file"] == INDEX
    assert part["num_parameters"] == sum(value.numel() for value in whole.values())
    out = tmp_path / "out"
    written = convert(official, out)
    assert {path.name for path in written} == {path.name for path in out.iterdir()} >= {*PARTS, INDEX, "config.json"}
    assert open_weights(out).sources[0] == f"header of {PARTS[0]}"
    assert set(open_weights(out).provenance["converted_from"]) == {*PARTS, "vqgan.ckpt"}
    convert(out, out, dtype=torch.bfloat16)
    export_hf(out, tmp_path / "hf")
    phi = PhiForCausalLM.from_pretrained(tmp_path / "hf")
    for directory in (official, out, tmp_path / "hf"):
        found = decoder_state(directory)
        assert all(torch.equal(value, found[name]) for name, value in whole.items())
    assert torch.equal(phi.lm_head.weight.float(), whole["head.weight"])
    assert "failed" not in status(out).values()
    convert(official / INDEX, tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {*PARTS, INDEX, "config.json"}


def test_the_fingerprint_is_over_every_file(official: Path) -> None:
    before = open_weights(official).fingerprint
    tensors = load_file(official / PARTS[1])
    key = next(iter(tensors))
    save_file({**tensors, key: tensors[key] + 1}, official / PARTS[1])
    assert open_weights(official).fingerprint != before


def test_an_image_tokenizer_in_several_files_is_read(tiny_dir: Path) -> None:
    before = open_weights(tiny_dir).codebook_hash
    shard(tiny_dir, name="vqgan")
    assert open_weights(tiny_dir).codebook_hash == before
    assert status(tiny_dir)["vqgan"] == "ok"


def lose_a_file(directory: Path) -> None:
    (directory / PARTS[0]).unlink()


def lose_the_index(directory: Path) -> None:
    (directory / INDEX).unlink()


def lose_a_tensor(directory: Path) -> None:
    tensors = load_file(directory / PARTS[0])
    tensors.pop("lm_head.bias")
    save_file(tensors, directory / PARTS[0])


def forget_a_tensor(directory: Path) -> None:
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"].pop("lm_head.bias")
    (directory / INDEX).write_text(json.dumps(index))


def hold_a_tensor_twice(directory: Path) -> None:
    tensors = load_file(directory / PARTS[1])
    save_file({**tensors, "lm_head.bias": torch.zeros(58562)}, directory / PARTS[1])


def name_a_tensor_twice(directory: Path) -> None:
    text = (directory / INDEX).read_text()
    (directory / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"lm_head.bias": "{PARTS[1]}", '))


def point_elsewhere(directory: Path) -> None:
    (directory / INDEX).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n")


def pickle_it(directory: Path) -> None:
    tensors = {key: value for name in PARTS for key, value in load_file(directory / name).items()}
    for name in (*PARTS, INDEX):
        (directory / name).unlink()
    torch.save(tensors, directory / "pytorch_model.bin")


def pickle_it_in_parts(directory: Path) -> None:
    pickle_it(directory)
    (directory / "pytorch_model.bin").rename(directory / "pytorch_model-00001-of-00001.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_a_file, f"{PARTS[0]} is missing"),
        (lose_the_index, f"{PARTS[0]} is not read: a part of a decoder without {INDEX}"),
        (lose_a_tensor, f"lm_head.bias is not in {PARTS[0]}"),
        (forget_a_tensor, f"lm_head.bias of {PARTS[0]} is not in the index"),
        (hold_a_tensor_twice, f"lm_head.bias is in {PARTS[1]}, too, beside {PARTS[0]}"),
        (name_a_tensor_twice, "is no index of weights ('lm_head.bias' is there twice)"),
        (point_elsewhere, f"{INDEX}: is a git-lfs pointer"),
        (pickle_it, "pytorch_model.bin is not read: it is pickled"),
        (pickle_it_in_parts, "pytorch_model-00001-of-00001.bin is not read: it is pickled"),
    ],
)
def test_half_a_model_is_refused_and_nothing_is_written(tmp_path: Path, official: Path, damage, said: str) -> None:
    damage(official)
    checks = {check.name: check for check in verify(official)}
    assert any(check.status == "failed" and said in check.detail for check in checks.values()), checks
    for make in (convert, export_hf):
        with pytest.raises(WeightsError) as caught:
            make(official, tmp_path / "out")
        assert said in str(caught.value)
    with pytest.raises(WeightsError) as caught:
        describe_weights(open_weights(official))
    assert said in str(caught.value)
    assert caught.value.hint is not None or damage in (lose_a_file, name_a_tensor_twice)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "sub/model-1.safetensors", "..", ".", ""])
def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"lm_head.bias": name}}))
    with pytest.raises(WeightsError, match="names a file outside its folder") as caught:
        open_weights(tmp_path)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": ' + "[" * 99999]
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=f"{INDEX}: (is no index of weights|names no tensor)"):
        open_weights(tmp_path)


def test_a_network_is_written_into_files_of_a_size(tmp_path: Path, tiny_dir: Path) -> None:
    most = 6_000
    whole = load_file(tiny_dir / "model.safetensors")
    convert(tiny_dir, tmp_path / "out", max_bytes=most)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    for name in files:
        held = load_file(tmp_path / "out" / name)
        assert {index["weight_map"][key] for key in held} == {name}
        # A tensor beyond the size has a file to itself.
        assert len(held) == 1 or sum(value.nbytes for value in held.values()) <= most
    assert any(value.nbytes > most for value in whole.values())
    weights = open_weights(tmp_path / "out")
    assert weights.vqgan_file == tmp_path / "out" / "vqgan.safetensors.index.json"
    assert weights.settings == open_weights(tiny_dir).settings
    assert "failed" not in status(tmp_path / "out").values()
    # transformers finds the same numbers, and one file again holds them all.
    phi = PhiForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(phi.lm_head.weight, whole["lm_head.weight"])
    convert(tmp_path / "out", tmp_path / "one", max_bytes=10**9)
    assert {key: value.tolist() for key, value in load_file(tmp_path / "one" / "model.safetensors").items()} == {
        key: value.tolist() for key, value in whole.items()
    }
    assert not (tmp_path / "one" / INDEX).exists()


def test_files_are_not_written_over_while_they_are_read(tmp_path: Path, tiny_dir: Path) -> None:
    source = tmp_path / "source"
    convert(tiny_dir, source, max_bytes=24_000)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    decoder = open_weights(source).decoder_source()
    first, *others = (
        plan_files("model.safetensors", decoder, max_bytes=size) for size in (24_000, *range(24_100, 60_000, 100))
    )
    moved = 24_100 + 100 * next(n for n, plan in enumerate(others) if plan != first and set(plan) == set(first))
    with pytest.raises(WeightsError, match=r"holds model-0000\d-of-0000\d.safetensors, which is still to be read"):
        convert(source, source, max_bytes=moved)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    # In the same files it may be: each takes its own place.
    convert(source, source, dtype=torch.bfloat16)
    assert open_weights(source).load_decoder("cpu", torch.float32) is not None
    with pytest.raises(WeightsError, match="holds model.safetensors, which would be read in place of"):
        convert(tiny_dir, tiny_dir, max_bytes=24_000)


def test_half_precision_in_several_files_under_a_wrapper_is_read_everywhere(tmp_path: Path, tiny_dir: Path) -> None:
    whole = {key: value.half() for key, value in load_file(tiny_dir / "model.safetensors").items()}
    metadata = open_metadata(tiny_dir / "model.safetensors")
    for prefix in ("module.", "model.", "_orig_mod."):
        folder = tmp_path / prefix
        shutil.copytree(tiny_dir, folder)
        wrapped = {prefix + key: value for key, value in whole.items()}
        save_file(wrapped, folder / "model.safetensors", metadata={"format": "pt", **metadata})
        shard(folder)
        assert "failed" not in status(folder).values()
        convert(folder, tmp_path / f"{prefix}out", max_bytes=8_000)
        export_hf(folder, tmp_path / f"{prefix}hf")
        for directory in (folder, tmp_path / f"{prefix}out", tmp_path / f"{prefix}hf"):
            found = decoder_state(directory)
            assert torch.equal(found["head.weight"], whole["lm_head.weight"].float())
        assert PhiForCausalLM.from_pretrained(tmp_path / f"{prefix}hf").dtype == torch.float16


def test_what_stands_beside_a_readable_decoder_does_not_matter(tmp_path: Path, tiny_dir: Path) -> None:
    (tiny_dir / "pytorch_model.bin").write_bytes(b"")
    (tiny_dir / INDEX).write_text("{}")
    assert status(tiny_dir)["decoder"] == "ok"
    convert(tiny_dir, tmp_path / "out")


def test_an_image_tokenizer_alone_does_its_work_beside_a_decoder_that_is_not_read(official: Path) -> None:
    pickle_it(official)
    open_weights(official).load_vqgan("cpu", torch.float32)
    with pytest.raises(WeightsError, match="pytorch_model.bin is not read"):
        open_weights(official).load_decoder("cpu", torch.float32)


def test_a_folder_of_a_pickled_decoder_alone_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(WeightsError, match="pytorch_model.bin is not read: it is pickled"):
        open_weights(tmp_path)


def test_several_files_are_not_written_where_one_would_be_read(
    official: Path, tiny_dir: Path, tiny: ModelSettings
) -> None:
    before = (tiny_dir / "model.safetensors").read_bytes()
    with pytest.raises(WeightsError, match="holds model.safetensors, which would be read in place of"):
        convert(official, tiny_dir)
    assert (tiny_dir / "model.safetensors").read_bytes() == before
    assert open_weights(tiny_dir).settings == tiny


def test_a_repository_with_a_decoder_in_several_files_is_fetched_whole(
    official: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry()[RELEASED_ENTRY]
    names = (*PARTS, INDEX, "vqgan.ckpt", "config.json", "vqgan.yaml")
    hub = Hub.of_directory(str(entry.repository), official, names)
    monkeypatch.setattr(fetch_module, "_WAIT_S", 0.0)
    with Server(hub) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        lock = fetch(entry, accept_licence=True)
        assert set(lock.files) == set(names)
        found = decoder_state(entry.directory)
        assert {check.status for check in verify("chexmix")} == {"ok", "absent"}
        (entry.directory / PARTS[1]).unlink()
        assert "failed" in {check.status for check in verify("chexmix")}
        fetch(entry, accept_licence=True)
        del hub.files[PARTS[0]]
        with pytest.raises(WeightsError, match=f"has no {PARTS[0]}, which its index names"):
            fetch(entry, accept_licence=True)
    whole = decoder_state(shared / "reference" / "official-tiny")
    assert all(torch.equal(value, found[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("model.layers.0.mlp.fc1.weight", {0: 1e5, 1: -3e38}, r"fc1.weight \(2 of 960 numbers become infinite\)"),
        ("model.layers.0.mlp.fc1.weight", 1e-8, r"fc1.weight \(960 of 960 numbers become 0\)"),
        ("model.layers.1.mlp.fc2.weight", 1e-7, r"fc2.weight \(960 numbers, too small for it, change by 19%\)"),
    ],
)
@pytest.mark.parametrize("make", [convert, export_hf])
def test_what_float16_cannot_hold_is_refused_and_the_source_stays(
    tmp_path: Path, tiny_dir: Path, make, key: str, change: object, said: str
) -> None:
    weights = open_weights(tiny_dir)
    decoder, settings = weights.load_decoder("cpu", torch.float32), weights.settings
    tensors = load_file(tiny_dir / "model.safetensors")
    view = tensors[key].view(-1)
    for index, value in change.items() if isinstance(change, dict) else ():
        view[index] = value
    if not isinstance(change, dict):
        view[:] = change
    metadata = {"format": "pt", **open_metadata(tiny_dir / "model.safetensors")}
    save_file(tensors, tiny_dir / "model.safetensors", metadata=metadata)
    before = {path.name: path.read_bytes() for path in tiny_dir.iterdir()}
    for out in (tiny_dir, tmp_path / "out"):
        with pytest.raises(WeightsError, match=said):
            make(tiny_dir, out, dtype=torch.float16)
    assert not (tmp_path / "out").exists()
    assert {path.name: path.read_bytes() for path in tiny_dir.iterdir()} == before
    # What was sound is converted, and what is wider keeps everything.
    convert(tiny_dir, tmp_path / "wide", dtype=torch.bfloat16)
    save_model(tmp_path / "sound", settings, decoder=decoder, dtype=torch.float16)


def open_metadata(path: Path) -> dict[str, str]:
    from chexmix_cli.core.weights.formats.header import read_header

    return dict(read_header(path).metadata)
