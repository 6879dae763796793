"""Tiny models with every parameter random, as weights directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import build
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.vocab import compact
from chexmix_cli.core.weights import save_model
from chexmix_cli.core.weights.hub.registry import _PACKAGE

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(autouse=True)
def chexmix_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep caches and fetched weights out of the user's home."""
    folder = tmp_path / "chexmix-home"
    monkeypatch.setenv("CHEXMIX_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> ModelSettings:
    """Return settings of a model with every size different, so that no two can be mistaken for each other."""
    vocabulary = compact(num_text=1024, num_codes=40, tokens_per_image=16)
    return build(
        ModelSettings,
        {
            "name": "tiny",
            "vocabulary": vocabulary,
            "image": {"resolution_px": 16, "intensity": "voi", "geometry": "pad"},
            "vqgan": {
                "num_codes": 40,
                "code_size": 6,
                "latent_channels": 10,
                "channels": 8,
                "channel_multipliers": [1, 2, 3],
                "num_res_blocks": 1,
                "image_channels": 1,
                "num_groups": 4,
            },
            "decoder": {
                "num_rows": vocabulary.num_rows,
                "hidden_size": 24,
                "num_layers": 2,
                "num_heads": 2,
                "mlp_size": 40,
                "rotary_size": 4,
                "max_positions": 64,
                "residual_dropout": 0.1,
            },
        },
    )


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill every parameter, biases and norm gains too, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return module.eval()


@pytest.fixture(scope="session")
def tiny_decoder(tiny: ModelSettings) -> Decoder:
    return randomised(Decoder(tiny.decoder), seed=1)


@pytest.fixture(scope="session")
def tiny_vqgan(tiny: ModelSettings) -> Vqgan:
    return randomised(Vqgan(tiny.vqgan), seed=2)


@pytest.fixture(scope="session")
def tokenizer_json() -> Path:
    """Return the embedded model's text tokenizer, whose 1024 rows are the tiny model's text part."""
    return _PACKAGE / "assets" / "chexmix-mini" / "tokenizer.json"


@pytest.fixture
def tiny_dir(
    tmp_path: Path, tiny: ModelSettings, tiny_decoder: Decoder, tiny_vqgan: Vqgan, tokenizer_json: Path
) -> Path:
    """Return a complete weights directory as training writes it."""
    directory = tmp_path / "tiny"
    save_model(directory, tiny, decoder=tiny_decoder, vqgan=tiny_vqgan, tokenizer_file=tokenizer_json)
    return directory


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Return a function that replaces text in a file, and insists that it was there."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return replace
