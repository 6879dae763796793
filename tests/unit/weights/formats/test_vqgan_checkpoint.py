from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.formats.vqgan_checkpoint import VqganCheckpoint


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_the_released_checkpoint_loads_whole(shared: Path) -> None:
    weights = open_weights(shared / "reference" / "official-tiny")
    path = shared / "reference" / "official-tiny" / "vqgan.ckpt"
    assert weights.vqgan_file == path
    vqgan = weights.load_vqgan("cpu", torch.float32)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in vqgan.state_dict().items())
    assert not vqgan.training


def test_loss_networks_are_dropped_and_counted(tiny_dir: Path, tiny: ModelSettings, tiny_vqgan: Vqgan) -> None:
    extra = {
        "loss.discriminator.main.0.weight": torch.zeros(2),
        "loss.logvar": torch.zeros(()),
        "discriminator.a": torch.ones(1),
    }
    (tiny_dir / "vqgan.safetensors").unlink()
    torch.save({"state_dict": {**tiny_vqgan.state_dict(), **extra}, "epoch": 3}, tiny_dir / "vqgan.ckpt")
    assert VqganCheckpoint(tiny_dir / "vqgan.ckpt").num_dropped == 3
    loaded = open_weights(tiny_dir).load_vqgan("cpu", torch.float32)
    assert all(torch.equal(value, tiny_vqgan.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.save({**tiny_vqgan.state_dict(), "model_ema.decay": torch.zeros(1)}, tiny_dir / "vqgan.ckpt")
    with pytest.raises(WeightsError, match=r"1 unexpected: model_ema\.decay"):
        open_weights(tiny_dir).load_vqgan("cpu", torch.float32)


def test_a_plain_state_dict_and_the_old_file_format_load(tiny_dir: Path, tiny_vqgan: Vqgan) -> None:
    (tiny_dir / "vqgan.safetensors").unlink()
    for is_zip in (True, False):
        torch.save(tiny_vqgan.state_dict(), tiny_dir / "vqgan.ckpt", _use_new_zipfile_serialization=is_zip)
        loaded = open_weights(tiny_dir).load_vqgan("cpu", torch.float32)
        assert torch.equal(loaded.quantize.embedding.weight, tiny_vqgan.quantize.embedding.weight)


def test_safetensors_come_before_the_checkpoint(tiny_dir: Path) -> None:
    (tiny_dir / "vqgan.ckpt").write_bytes(b"never looked at")
    open_weights(tiny_dir).load_vqgan("cpu", torch.float32)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "vqgan.ckpt", tmp_path / "it-ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Command(marker)}, path)
    with pytest.raises(WeightsError, match=r"holds \S*system, which unpickling would run as code") as caught:
        VqganCheckpoint(path)
    assert str(path) in str(caught.value)
    path.write_bytes(pickle.dumps({"a": Command(marker)}))
    with pytest.raises(WeightsError, match="is damaged or no torch checkpoint"):
        VqganCheckpoint(path)
    assert not marker.exists()


def test_what_is_no_checkpoint_is_said(tmp_path: Path, tiny_vqgan: Vqgan) -> None:
    path = tmp_path / "vqgan.ckpt"
    with pytest.raises(WeightsError, match="no such file"):
        VqganCheckpoint(path)
    torch.save(tiny_vqgan.state_dict(), path)
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    one_of_two = whole[:end] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + whole[end:]
    for content in (b"", b"some text", whole[: len(whole) // 2], whole[:-200], one_of_two):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"vqgan\.ckpt: is damaged or no torch checkpoint"):
            VqganCheckpoint(path)
    for content in ([1, 2], {"state_dict": {"a": 1}}, {"epoch": 3}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="holds no state dict"):
            VqganCheckpoint(path)
