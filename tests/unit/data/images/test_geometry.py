from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.images.geometry import fit, from_levels, to_levels
from chexmix_cli.core.settings.model import ImageSettings


def settings(side: int, geometry: str) -> ImageSettings:
    return ImageSettings(resolution_px=side, intensity="voi", geometry=geometry)


def test_values_are_the_released_ones_for_every_grey():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = (np.arange(256) / 255.0 * 2 - 1).astype(np.float32)
    pixels = fit(image, settings(16, "crop"), 1)
    assert pixels.shape == (1, 16, 16)
    assert np.array_equal(pixels.ravel(), expected)


def test_crop_keeps_the_centre_and_rounds_its_offset_down():
    array = np.tile(np.arange(21, dtype=np.uint8), (16, 1))  # five columns too many: two go on the left, three right
    pixels = fit(Image.fromarray(array), settings(16, "crop"), 1)
    assert np.rint((pixels[0, 0] + 1) * 127.5).astype(int).tolist() == list(range(2, 18))


def test_crop_of_a_tall_film_cuts_top_and_bottom():
    array = np.tile(np.arange(24, dtype=np.uint8)[:, None], (1, 16))
    pixels = fit(Image.fromarray(array), settings(16, "crop"), 1)
    assert np.rint((pixels[0, :, 0] + 1) * 127.5).astype(int).tolist() == list(range(4, 20))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (1000, 37), (37, 37)])
def test_pad_keeps_the_whole_film_between_black_bars(size):
    pixels = fit(Image.new("L", size, 200), settings(50, "pad"), 1)[0]
    shown = pixels > -1
    rows, columns = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert max(rows, columns) == 50
    assert min(rows, columns) == max(1, round(50 * min(size) / max(size)))
    first = np.flatnonzero(shown.any(axis=0))[0]
    assert first == (50 - columns) // 2


def test_colour_and_grey_go_to_the_channels_of_the_model():
    colour = Image.new("RGB", (32, 32), (255, 0, 0))
    assert fit(colour, settings(16, "pad"), 3)[:, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert fit(colour, settings(16, "pad"), 1).shape == (1, 16, 16)
    grey = fit(Image.new("L", (32, 32), 255), settings(16, "pad"), 3)
    assert grey.shape == (3, 16, 16)
    assert (grey == 1).all()
    assert grey.dtype == np.float32
    assert grey.flags.c_contiguous


def test_every_level_survives_the_way_to_pixels_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = from_levels(levels)
    assert (pixels.dtype, pixels.shape) == (np.float32, (16, 16))
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert np.array_equal(pixels.ravel(), (np.arange(256) / 255 * 2 - 1).astype(np.float32))
    assert np.array_equal(to_levels(pixels), levels)
    assert to_levels(np.array([-1, 1 / 255, 1], np.float32)).tolist() == [0, 128, 255]
