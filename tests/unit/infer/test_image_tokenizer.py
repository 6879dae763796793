from __future__ import annotations

import numpy as np
import pytest
import torch

from chexmix_cli.core.errors import ShapeError, VocabularyError
from chexmix_cli.core.infer.image_tokenizer import READ_AHEAD, ImageTokenizer


@pytest.fixture
def image_tokenizer(vqgan, model_settings):
    return ImageTokenizer(vqgan, model_settings, batch_size=2)


@pytest.fixture
def pixels():
    """Return five pictures (5, 1, 32, 32) with very different contents."""
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(5, 1, 4, 4, generator=generator)
    fine = torch.rand(5, 1, 32, 32, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return (0.7 * smooth + 0.3 * fine) * 2 - 1


def test_codes_are_the_vqgans_in_any_grouping(image_tokenizer, vqgan, pixels, model_settings):
    codes = image_tokenizer.encode(pixels)
    assert (codes.shape, codes.dtype) == ((5, 16), torch.int64)
    assert len(codes.unique()) > 8, "the random tokenizer uses too few codes to show anything"
    with torch.inference_mode():
        for row in range(5):
            assert torch.equal(vqgan.encode(pixels[row : row + 1])[0], codes[row])
    whole = ImageTokenizer(vqgan, model_settings, batch_size=8)
    assert torch.equal(whole.encode(pixels), codes)


def test_images_may_come_one_by_one_without_end_in_sight(image_tokenizer, pixels):
    codes, held = image_tokenizer.encode(pixels).numpy(), []

    def coming():
        for place in range(READ_AHEAD + 2):
            held.append(place)
            yield pixels[place % 5].numpy()

    found = image_tokenizer.encode_each(coming())
    assert (found.shape, found.dtype) == ((READ_AHEAD + 2, 16), np.uint16)
    assert np.array_equal(found, codes[[place % 5 for place in held]])
    assert image_tokenizer.encode_each([]).shape == (0, 16)


def test_read_only_arrays_are_read(image_tokenizer, pixels):
    array = pixels.numpy().copy()
    array.setflags(write=False)
    assert torch.equal(image_tokenizer.encode(array), image_tokenizer.encode(pixels))


def test_pictures_are_clamped_and_cut_to_grey_levels(image_tokenizer, vqgan, pixels):
    codes = image_tokenizer.encode(pixels)
    with torch.no_grad():
        vqgan.decoder.conv_out.weight.mul_(30)
    pictures = image_tokenizer.decode(codes)
    with torch.inference_mode():
        raw = vqgan.decode(codes)[:, 0].double().numpy()
    assert raw.min() < -1.1
    assert raw.max() > 1.1
    expected = np.floor((np.clip(raw, -1, 1) + 1) * 127.5)
    assert (pictures.shape, pictures.dtype) == ((5, 32, 32), np.uint8)
    assert np.abs(pictures - expected).max() <= 1
    assert (pictures == expected).mean() > 0.999
    assert {0, 255} <= set(np.unique(pictures))


def test_codes_may_come_as_lists_or_small_integers(image_tokenizer, codes):
    expected = image_tokenizer.decode(torch.tensor(codes))
    assert np.array_equal(image_tokenizer.decode(codes), expected)
    stored = np.array(codes, np.uint16)
    stored.setflags(write=False)
    assert np.array_equal(image_tokenizer.decode(stored), expected)


def test_no_images_give_no_rows(image_tokenizer):
    assert image_tokenizer.encode(torch.empty(0, 1, 32, 32)).shape == (0, 16)
    assert image_tokenizer.decode([]).shape == (0, 32, 32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[0], r"pixels \(1, 32, 32\).*expected \(B, 1, 32, 32\)"),
        (lambda x: x.expand(-1, 3, -1, -1), r"pixels \(5, 3, 32, 32\)"),
        (lambda x: x[..., :31], r"pixels \(5, 1, 32, 31\)"),
        (lambda x: (x * 127).to(torch.uint8), "pixels of torch.uint8"),
        (lambda x: x * 255, r"pixels from -\d+"),
        (lambda x: torch.where(x > 0.5, torch.nan, x), "pixels from nan"),
        (lambda x: torch.where(x > 0.5, torch.inf, x), "to inf"),
    ],
)
def test_pixels_of_another_form_are_refused(image_tokenizer, pixels, spoil, message):
    with pytest.raises(ShapeError, match=message):
        image_tokenizer.encode(spoil(pixels))


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        ([[0] * 15], ShapeError, r"shape \(1, 15\).*\(B, 16\)"),
        ([0] * 16, ShapeError, r"shape \(16,\)"),
        ([[0] * 16, [0] * 15], ShapeError, "different lengths"),
        ([[0.0] * 16], ShapeError, "float64"),
        ([[True] * 16], ShapeError, "bool"),
        ([[0] * 15 + [40]], VocabularyError, r"code 40 .*0\.\.39"),
        ([[0] * 15 + [-1]], VocabularyError, "code -1"),
    ],
)
def test_codes_of_another_form_are_refused(image_tokenizer, codes, error, message):
    with pytest.raises(error, match=message):
        image_tokenizer.decode(codes)
