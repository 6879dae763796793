"""A model and data small enough to train in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chexmix_cli.core.settings.model import DecoderSettings, ImageSettings, ModelSettings, VqganSettings
from chexmix_cli.core.train.documents import DocumentSet
from chexmix_cli.core.vocab import compact


@pytest.fixture(autouse=True)
def one_thread():
    """Bits must not depend on how the machine splits a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained_model() -> ModelSettings:
    """Return settings of a 32 px model with 16 image tokens."""
    vocabulary = compact(num_text=300, num_codes=32, tokens_per_image=16)
    return ModelSettings(
        name="train-test",
        vocabulary=vocabulary,
        image=ImageSettings(resolution_px=32, intensity="voi", geometry="pad"),
        vqgan=VqganSettings(
            num_codes=32,
            code_size=4,
            latent_channels=8,
            channels=8,
            channel_multipliers=(1, 1, 2, 2),
            num_res_blocks=1,
            image_channels=1,
            num_groups=4,
        ),
        decoder=DecoderSettings(
            num_rows=vocabulary.num_rows,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_size=64,
            rotary_size=8,
            max_positions=48,
        ),
    )


def _draw(seed: int, side: int = 40) -> Image.Image:
    """Return a smooth random picture: a few bright blobs on a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    values = 0.3 * y + 0.1
    for _ in range(3):
        centre_y, centre_x, width = rng.uniform(0.2, 0.8, 3)
        values += 0.6 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (0.02 + 0.05 * width))
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def draw_film() -> Callable[..., Image.Image]:
    """Return the function that draws one of arbitrarily many synthetic films."""
    return _draw


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 12 drawn images, 8 for training, with short reports."""
    folder = tmp_path_factory.mktemp("manifest")
    lines = []
    for index in range(12):
        _draw(index).save(folder / f"film{index}.png")
        lines.append(
            {
                "id": f"film{index}",
                "file": f"film{index}.png",
                "split": "train" if index < 8 else "val",
                "findings": f"Case {index} is clear.",
                "impression": "Normal." if index % 2 else "Opacity.",
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def document_set(trained_model: ModelSettings) -> DocumentSet:
    """Return 8 random documents with two image variants each."""
    rng = np.random.default_rng(7)
    codes_NVP = rng.integers(0, 32, (8, 2, 16)).astype(np.uint16)
    reports = [rng.integers(0, 290, int(length)).tolist() for length in rng.integers(4, 12, 8)]
    return DocumentSet(codes_NVP, reports, [f"doc{index}" for index in range(8)])
