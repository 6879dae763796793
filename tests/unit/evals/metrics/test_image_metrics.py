"""PSNR and SSIM against scikit-image, and the ways to get them wrong."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from chexmix_cli.core.evals.metrics.images import psnr_db, ssim, ssim_map


def pair(seed: int = 0, shape: tuple[int, int] = (41, 30)):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, shape).astype(np.uint8)
    second = np.clip(first + rng.normal(0, 25, shape), 0, 255).astype(np.uint8)
    return first, second


def test_psnr_equals_scikit_image_and_a_hand_case():
    first, second = pair()
    assert psnr_db(first, second) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255))
    # One pixel of four is off by 10: the mean squared error is 25.
    assert psnr_db(np.zeros((2, 2), np.uint8), np.array([[0, 10], [0, 0]], np.uint8)) == pytest.approx(
        10 * np.log10(255**2 / 25)
    )


def test_equal_pictures_have_no_psnr():
    first, second = pair()
    assert psnr_db(first, first) is None
    second[:5] = first[:5]
    where = np.zeros(first.shape, bool)
    where[:5] = True
    assert psnr_db(first, second, where) is None


def test_unsigned_differences_do_not_wrap():
    assert psnr_db(np.array([[0]], np.uint8), np.array([[255]], np.uint8)) == pytest.approx(0.0)


def test_pasted_pixels_raise_the_psnr_of_the_whole_for_nothing():
    """A mask of a quarter gives 6.02 dB: why both numbers are reported, and whether pixels were pasted."""
    first, second = pair(shape=(40, 40))
    is_hidden = np.zeros((40, 40), bool)
    is_hidden[:10] = True
    pasted = np.where(is_hidden, second, first)
    whole, masked = psnr_db(first, pasted), psnr_db(first, pasted, is_hidden)
    assert whole - masked == pytest.approx(10 * np.log10(4))


def test_ssim_is_scikit_images_with_the_published_window_and_not_its_default():
    first, second = pair()
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    mean, full = structural_similarity(first, second, full=True, **published)
    found = ssim_map(first, second)
    assert np.abs(found - full).max() < 1e-9
    assert ssim(found) == pytest.approx(mean)
    where = np.random.default_rng(1).random(first.shape) < 0.3
    where[0, 0] = True
    assert ssim(found, where) == pytest.approx(full[where].mean())
    assert abs(ssim(found) - structural_similarity(first, second, data_range=255)) > 1e-3
    # The range of the type, not of the picture: a dark picture keeps the constants.
    dark = ssim(ssim_map(first // 8, second // 8))
    assert dark == pytest.approx(structural_similarity(first // 8, second // 8, **published))


def test_ssim_of_equal_and_of_tiny_pictures():
    first, second = pair(shape=(6, 5))
    assert ssim(ssim_map(first, first)) == pytest.approx(1.0)
    assert ssim(ssim_map(first, second)) == pytest.approx(ssim_map(first, second).mean())
