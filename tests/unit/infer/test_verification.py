"""``weights check`` opens every file that a command would: heads and projections, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import chexmix_cli
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.typicality import Typical
from chexmix_cli.core.infer.verification import verify_all
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import open_weights, save_model
from chexmix_cli.core.weights.formats.header import read_header

HEAD, RETRIEVAL, TYPICAL = "head.safetensors", "retrieval.safetensors", "typical.safetensors"


@pytest.fixture
def complete(tmp_path: Path, model_settings: ModelSettings, decoder: Decoder, vqgan: Vqgan) -> Path:
    """Return a weights directory with a head, projections, and what is typical."""
    directory = tmp_path / "complete"
    tokenizer = Path(chexmix_cli.__file__).parent / "assets" / "chexmix-mini" / "tokenizer.json"
    save_model(directory, model_settings, decoder=decoder, vqgan=vqgan, tokenizer_file=tokenizer)
    one = np.ones(1, np.float32)
    head = Head(
        labels=("Mass",),
        layer=2,
        mean_D=np.zeros(32, np.float32),
        scale_D=np.ones(32, np.float32),
        weight_KD=np.ones((1, 32), np.float32),
        bias_K=one,
        slope_K=one,
        offset_K=one,
        threshold_K=one,
        model=open_weights(directory).fingerprint,
    )
    head.save(directory / HEAD)
    projection = Projection(layer=1, hidden_size=32, size=8)
    projection.model = open_weights(directory).fingerprint
    projection.save(directory, {})
    Typical(
        mean_D=np.zeros(36, np.float32),
        whiten_RD=np.ones((2, 36), np.float32),
        threshold=1.5,
        share=0.01,
        model=open_weights(directory).fingerprint,
    ).save(directory / TYPICAL)
    return directory


def cut(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / name
        path.write_bytes(path.read_bytes()[:-8])

    return damage


def junk(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text("junk") and None


def head_of_other_weights(directory: Path) -> None:
    dataclasses.replace(Head.load(directory / HEAD), model="f" * 64).save(directory / HEAD)


def typical_of_other_weights(directory: Path) -> None:
    dataclasses.replace(Typical.load(directory / TYPICAL), model="f" * 64).save(directory / TYPICAL)


def projections_of_other_weights(directory: Path) -> None:
    projection = Projection(layer=1, hidden_size=32, size=8)
    projection.model = "f" * 64
    projection.save(directory, {})


def typical_of_more_states(directory: Path) -> None:
    larger = {"mean_D": np.zeros(40, np.float32), "whiten_RD": np.ones((2, 40), np.float32)}
    dataclasses.replace(Typical.load(directory / TYPICAL), **larger).save(directory / TYPICAL)


def head_of_a_grid(directory: Path) -> None:
    dataclasses.replace(Head.load(directory / HEAD), grid=2).save(directory / HEAD)


def not_finite(name: str, key: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        tensors, metadata = load_file(directory / name), dict(read_header(directory / name).metadata)
        tensors[key] = torch.full_like(tensors[key], float("nan"))
        save_file(tensors, directory / name, metadata=metadata)

    return damage


def test_a_sound_directory_passes(complete: Path) -> None:
    found = {check.name: check.status for check in verify_all(complete)}
    assert (found["head"], found["retrieval"], found["typical"]) == ("ok", "ok", "ok")
    assert "failed" not in found.values()
    for name in (HEAD, RETRIEVAL, TYPICAL):
        (complete / name).unlink()
    found = {check.name: check.status for check in verify_all(complete)}
    assert (found["head"], found["retrieval"], found["typical"]) == ("absent", "absent", "absent")


@pytest.mark.parametrize(
    ("damage", "part", "said"),
    [
        (cut(HEAD), "head", "is cut short"),
        (junk(HEAD), "head", "is not a safetensors file"),
        (head_of_other_weights, "head", "was made for other weights"),
        (head_of_a_grid, "head", "reads 32 numbers of layer 2; expected 128"),
        (not_finite(HEAD, "bias"), "head", "finite"),
        (cut(TYPICAL), "typical", "is cut short"),
        (junk(TYPICAL), "typical", "is not a safetensors file"),
        (typical_of_other_weights, "typical", "was made for other weights"),
        (typical_of_more_states, "typical", "reads 40 numbers; expected 36"),
        (not_finite(TYPICAL, "mean"), "typical", "finite"),
        (projections_of_other_weights, "retrieval", "was made for other weights"),
        (cut(RETRIEVAL), "retrieval", "is cut short"),
        (junk(RETRIEVAL), "retrieval", "is not a safetensors file"),
        (
            not_finite(RETRIEVAL, "image.projection.weight"),
            "retrieval",
            "image.projection.weight holds numbers that are not finite",
        ),
    ],
)
def test_a_broken_part_fails_alone(complete: Path, damage: Callable[[Path], None], part: str, said: str) -> None:
    damage(complete)
    (failed,) = [check for check in verify_all(complete) if check.status == "failed"]
    assert failed.name == part
    assert said in failed.detail
