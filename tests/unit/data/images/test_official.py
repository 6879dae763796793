"""Preset ``official`` against the authors' own pipeline: all codes of ``shared/reference/official-tiny``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.studies.inputs import Study, discover, load_pixels
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings, VqganSettings

NAMES = ("a_16bit_700x560.png", "b_8bit_480x640.png", "c_rgb_600x600.png", "d_grey_512x512.jpg")
PRESET = resolve_preset("official", ImageSettings(resolution_px=512, intensity="voi", geometry="pad"), 3)
SHAPE = VqganSettings(
    num_codes=8192,
    code_size=64,
    latent_channels=64,
    channels=32,
    channel_multipliers=(1, 1, 2, 2, 4),
    num_res_blocks=2,
    image_channels=3,
)


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "reference" / "official-tiny"


@pytest.fixture(scope="module")
def encode(folder: Path):
    """Return a function from a model input to the codes of the reference's own tokenizer."""
    import torch

    from chexmix_cli.core.models.vqgan import Vqgan

    vqgan = Vqgan(SHAPE)
    vqgan.load_state_dict(torch.load(folder / "vqgan.ckpt", weights_only=True)["state_dict"])
    vqgan.eval()

    def codes(pixels_CYX: NDArray[np.float32]) -> list[int]:
        with torch.no_grad():
            found: list[int] = vqgan.encode(torch.from_numpy(pixels_CYX)[None])[0].tolist()
        return found

    return codes


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = json.loads((folder / "expected.json").read_text())["tokens"]
    return tokens


@pytest.mark.parametrize("name", NAMES)
def test_every_code_is_the_released_one(folder, encode, expected, name):
    (study,) = discover([str(folder / name)], InputSettings())
    assert isinstance(study, Study)
    assert study.id == name
    pixels_CYX, notes = load_pixels(study.chosen, PRESET)
    assert pixels_CYX.shape == (3, 512, 512)
    assert encode(pixels_CYX) == expected[name]
    assert notes == []


def test_the_codes_tell_a_rounded_stretch_and_a_missing_epsilon(folder, encode, expected):
    name = NAMES[1]
    array = np.asarray(Image.open(folder / name))
    low, high = np.percentile(array, [1, 99])
    share = (np.clip(array, low, high) - low) / (high - low)
    for wrong in (share * 255, np.rint(share * 255)):
        image = Image.fromarray(wrong.astype(np.uint8))
        same = np.equal(encode(fit(image, PRESET.image, 3)), expected[name]).mean()
        assert 0.5 < same < 1.0
