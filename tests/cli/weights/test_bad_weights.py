"""Weights that cannot be used: named before the first record, exit code 1, nothing on stdout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy_of(debug_weights, tmp_path):
    """Return a copy of the debug weights that may be spoilt."""
    folder = tmp_path / "weights"
    shutil.copytree(debug_weights, folder)
    return folder


def rewrite(path: Path, change) -> None:
    """Write a safetensors file again after a change to its tensors, header kept."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, path, metadata)


def truncate(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def misshape(folder: Path) -> None:
    def change(tensors):
        name = next(name for name in tensors if name.endswith("final_layernorm.weight"))
        tensors[name] = tensors[name][:-1].clone()

    rewrite(folder / "model.safetensors", change)


def leave_out(folder: Path) -> None:
    def change(tensors):
        del tensors[next(name for name in tensors if name.endswith("final_layernorm.bias"))]

    rewrite(folder / "model.safetensors", change)


def add(folder: Path) -> None:
    def change(tensors):
        tensors["model.extra.weight"] = next(iter(tensors.values())).clone()

    rewrite(folder / "model.safetensors", change)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def pretend(folder: Path) -> None:
    (folder / "model.safetensors").write_text("This is no safetensors file.\n" * 40)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, ["model.safetensors"]),
        (pretend, ["model.safetensors"]),
        (misshape, ["model.safetensors", "final_layernorm.weight", "shape"]),
        (leave_out, ["model.safetensors", "final_layernorm.bias", "missing"]),
        (add, ["model.safetensors", "model.extra.weight", "unexpected"]),
        (empty, ["weights"]),
    ],
)
def test_spoilt_weights_are_named(call, films, copy_of, spoil, said):
    spoil(copy_of)
    result = call("generate-report", films, "--weights", copy_of, "--set", "decode.max_new_tokens=8")
    assert result.code == 1, result.stderr
    for word in said:
        assert word in result.stderr
    assert result.stdout == ""


def test_a_missing_part_is_named_by_the_command_that_needs_it(call, films, copy_of):
    (copy_of / "model.safetensors").unlink()
    assert call("tokenize", films, "--weights", copy_of).code == 0
    result = call("generate-report", films, "--weights", copy_of)
    assert result.code == 1
    assert "has no decoder; expected model.safetensors" in result.stderr
    (copy_of / "vqgan.safetensors").unlink()
    assert call("tokenize", films, "--weights", copy_of).code == 1


def test_a_name_nobody_knows_is_refused_with_the_known_ones(call, films):
    result = call("tokenize", films, "--weights", "chexmix-minni")
    assert result.code == 1
    assert "no such weights" in result.stderr
    assert "chexmix-mini" in result.stderr


@pytest.mark.parametrize(("flag", "value"), [("--device", "gpu"), ("--dtype", "float8"), ("--image-preset", "offical")])
def test_a_choice_that_is_none_exits_2_and_names_the_choices(call, films, debug_weights, flag, value):
    result = call("tokenize", films, "--weights", debug_weights, flag, value)
    assert result.code == 2
    assert f"'{value}'" in result.stderr
    assert result.stdout == ""


def test_weights_without_a_text_tokenizer_give_ids_only(call, films, copy_of):
    (copy_of / "tokenizer.json").unlink()
    result = call("generate-report", films / "a.png", "--weights", copy_of, "--set", "decode.max_new_tokens=8")
    assert result.code == 0, result.stderr
    record = json.loads(result.stdout)
    assert len(record["token_ids"]) <= 8
    assert "report" not in record
    assert "no text tokenizer" in result.stderr
