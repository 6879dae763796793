"""Marks of synthetic pictures: legible or at least there, and never on the result itself."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.present.inpainting import panels_png
from chexmix_cli.core.present.marking import marked_png, with_mark
from chexmix_cli.core.present.picture import MARK, SOURCE_TYPE


@pytest.mark.parametrize("width", [1, 40, 128, 512, 3000])
def test_the_strip_stands_below_and_holds_writing(width):
    picture = np.random.default_rng(0).integers(0, 256, (30, width), dtype=np.uint8)
    marked = with_mark(picture)
    assert np.array_equal(marked[:30], picture)
    strip = marked[30:]
    assert strip.shape[1] == width
    if width >= 40:
        assert strip.min() < 100 < strip.max()
        # Nothing of the writing is cut off at the sides.
        assert (strip[:, [0, -1]] > 200).all()


def test_a_png_says_it_in_its_metadata_too():
    picture = np.full((20, 128), 90, np.uint8)
    content = marked_png(picture, "a title")
    image = Image.open(io.BytesIO(content))
    assert image.mode == "L"
    assert MARK in image.text["Comment"]
    assert "synthetic" in image.text["Comment"]
    assert image.text["DigitalSourceType"] == SOURCE_TYPE
    assert np.array_equal(np.asarray(image)[:20], picture)
    assert content == marked_png(picture, "a title")


def test_panels_are_marked_and_show_all_four():
    rng = np.random.default_rng(1)
    original, result = (rng.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(2))
    is_hidden = np.zeros((32, 32), bool)
    is_hidden[4:10, 4:10] = True
    content = panels_png(original, original, is_hidden, result, "a caption")
    image = Image.open(io.BytesIO(content))
    assert MARK in image.text["Comment"]
    pixels = np.asarray(image.convert("RGB")).astype(int)
    # The red band across the top, the hidden part in its colour.
    assert (np.abs(pixels[2, 9::50] - (156, 28, 28)) < 5).all()
    assert (np.abs(pixels - (40, 70, 120)).max(axis=2) < 3).sum() > 500
    assert content == panels_png(original, original, is_hidden, result, "a caption")
    assert content != panels_png(original, original, is_hidden, original, "a caption")
