"""Checkpoints as wrappers save them: read where one prefix explains all, named for what they are where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.convert import convert
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.verify import verify

Tensors = Mapping[str, torch.Tensor]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
PAGE = "\n<!DOCTYPE html><html><body>403</body></html>"


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def compiled_inside(tensors: Tensors) -> Tensors:
    return {name.replace("model.layers.", "model.layers._orig_mod."): value for name, value in tensors.items()}


def twice(tensors: Tensors) -> Tensors:
    return {**prefixed("module.")(tensors), **prefixed("other.")(tensors)}


def beside(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.zeros(2)}


def some_prefixed(tensors: Tensors) -> Tensors:
    return {f"net.{name}": value for name, value in tensors.items() if name != "lm_head.bias"}


def with_adapters(tensors: Tensors) -> Tensors:
    name = "model.layers.0.self_attn.q_proj"
    found = {**tensors, f"{name}.base_layer.weight": tensors[f"{name}.weight"]}
    del found[f"{name}.weight"]
    found |= {f"{name}.lora_{side}.default.weight": torch.zeros(2) for side in "AB"}
    return prefixed("base_model.model.")(found)


def rewrite(directory: Path, change: Callable[[Tensors], Tensors]) -> Tensors:
    """Give the decoder's tensors other names and return them as they were."""
    path = directory / "model.safetensors"
    before, metadata = load_file(path), dict(read_header(path).metadata)
    save_file({name: value.clone() for name, value in change(before).items()}, path, metadata=metadata)
    return before


@pytest.mark.parametrize(
    "change",
    [
        *(prefixed(f"{name}.") for name in ("module", "_orig_mod", "base_model.model", "model", "module._orig_mod")),
        compiled_inside,
    ],
)
def test_one_prefix_over_all_is_taken_off(tmp_path: Path, tiny_dir: Path, change: Callable[[Tensors], Tensors]) -> None:
    before = rewrite(tiny_dir, change)
    assert {check.status for check in verify(tiny_dir)} == {"ok", "absent"}
    convert(tiny_dir, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (twice, "the network is there 2 times, under 'module.' and 'other.'", "save one of them"),
        (beside("model_ema.decay"), "1 of them are a running average of the weights (model_ema.*)", "one of the two"),
        (beside("ema.lm_head.bias"), "a running average of the weights (ema.*)", "one of the two"),
        (beside("optimizer.lr"), "1 unexpected: optimizer.lr", "belongs to other settings"),
        (some_prefixed, "are there under the prefix 'net.'", "without 'net.'"),
        (with_adapters, "2 of them are adapters that are not merged", "merge_and_unload"),
    ],
)
def test_what_leaves_a_choice_is_refused_and_named(
    tmp_path: Path, tiny_dir: Path, change: Callable[[Tensors], Tensors], said: str, hint: str
) -> None:
    rewrite(tiny_dir, change)
    with pytest.raises(WeightsError) as caught:
        convert(tiny_dir, tmp_path / "out")
    assert said in str(caught.value)
    assert hint in str(caught.value.hint)
    (failed,) = [check for check in verify(tiny_dir) if check.status == "failed"]
    assert said in failed.detail
    assert not (tmp_path / "out").exists()


def litema(tensors: Tensors) -> Tensors:
    """Add copies as latent diffusion's LitEma names them: without dots."""
    copies = {f"model_ema.{name.replace('.', '')}": value for name, value in tensors.items()}
    return {**tensors, **copies, "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}


@pytest.mark.parametrize(
    "content",
    [
        lambda state: {"state_dict": prefixed("module.")({**state, "loss.logvar": torch.zeros(1)})},
        lambda state: {
            "state_dict": {**prefixed("first_stage_model.")(state), "model.diffusion_model.out.weight": torch.zeros(1)}
        },
        lambda state: {"model": state, "epoch": 3},
    ],
)
def test_an_image_tokenizer_is_found_where_it_is(tiny_dir: Path, tiny_vqgan: Vqgan, content) -> None:
    (tiny_dir / "vqgan.safetensors").unlink()
    torch.save(content(tiny_vqgan.state_dict()), tiny_dir / "vqgan.ckpt")
    found = open_weights(tiny_dir).load_vqgan("cpu", torch.float32).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in tiny_vqgan.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda state: {"state_dict": litema(state)}, r"are a running average of the weights \(model_ema\.\*\)"),
        (lambda state: {"state_dict": state, "ema_state_dict": state}, r"holds an average .*\(ema_state_dict\) beside"),
        (lambda state: {"generator": state, "critic": state}, "holds no state dict but 2: generator, critic"),
        (lambda state: {"state_dict": {**state, "quantize.temperature": torch.zeros(1)}}, "quantize.temperature"),
    ],
)
def test_an_image_tokenizer_that_leaves_a_choice_is_refused(tiny_dir: Path, tiny_vqgan: Vqgan, content, said) -> None:
    (tiny_dir / "vqgan.safetensors").unlink()
    torch.save(content(tiny_vqgan.state_dict()), tiny_dir / "vqgan.ckpt")
    with pytest.raises(WeightsError, match=said):
        open_weights(tiny_dir).load_vqgan("cpu", torch.float32)
    assert any(check.status == "failed" for check in verify(tiny_dir))


@pytest.mark.parametrize(("text", "said"), [(POINTER, "is a git-lfs pointer"), (PAGE, "is a web page, not the file")])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "vqgan.safetensors", "vqgan.ckpt", "vqgan.yaml", "tokenizer.json"]
)
def test_what_stands_in_for_a_file_is_named(tiny_dir: Path, name: str, text: str, said: str) -> None:
    if name == "vqgan.ckpt":
        (tiny_dir / "vqgan.safetensors").unlink()
    (tiny_dir / name).write_text(text)
    assert any(check.status == "failed" and said in check.detail for check in verify(tiny_dir))


def test_a_text_tokenizer_that_was_not_fetched_is_named(tiny_dir: Path) -> None:
    (tiny_dir / "tokenizer.json").write_text(POINTER)
    with pytest.raises(WeightsError, match="is a git-lfs pointer"):
        open_weights(tiny_dir).load_text_tokenizer()


def test_the_layouts_of_the_case(shared: Path, tmp_path: Path) -> None:
    official = shared / "reference" / "official-tiny"
    tensors = load_file(official / "model.safetensors")
    for prefix in ("module.", "_orig_mod.", "base_model.model.", "model."):
        folder = tmp_path / prefix
        folder.mkdir()
        for name in ("config.json", "vqgan.yaml", "vqgan.ckpt"):
            (folder / name).write_bytes((official / name).read_bytes())
        save_file(dict(prefixed(prefix)(tensors)), folder / "model.safetensors", metadata={"format": "pt"})
        assert {check.name: check.status for check in verify(folder)}["decoder"] == "ok"
