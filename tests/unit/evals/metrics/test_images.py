"""PSNR and SSIM against scikit-image, and the ways to get them wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.evals.metrics.images import mean_ssim, psnr, psnr_db, ssim, ssim_map


def batches(height: int, width: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three pictures in [-1, 1] and noisy copies, each with another amount of noise."""
    generator = torch.Generator().manual_seed(height * width)
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    clean = torch.sin(y * x + torch.arange(3 * channels).view(3, channels, 1, 1))
    amount = torch.tensor([0.01, 0.1, 0.5]).view(3, 1, 1, 1)
    return clean, clean + amount * torch.randn(clean.shape, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (11, 11), (17, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_figures_are_those_of_scikit_image(height, width, channels):
    reference, image = batches(height, width, channels)
    expected = [
        structural_similarity(
            one.numpy().astype(np.float64),
            other.numpy().astype(np.float64),
            data_range=2.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
        )
        for one, other in zip(reference, image, strict=True)
    ]
    assert ssim(image, reference, data_range=2.0).tolist() == pytest.approx(expected, abs=1e-9)
    ratios = [
        peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=2.0)
        for a, b in zip(reference, image, strict=True)
    ]
    assert psnr(image, reference, data_range=2.0).tolist() == pytest.approx(ratios, abs=1e-9)


def test_the_data_range_counts_and_equal_pictures_are_perfect():
    reference, image = batches(24, 24)
    assert (ssim(image, reference, data_range=2.0) - ssim(image, reference, data_range=1.0)).abs().max() > 1e-3
    # Ten times the range is 20 dB.
    gained = psnr(image, reference, data_range=20.0) - psnr(image, reference, data_range=2.0)
    assert gained.tolist() == pytest.approx([20.0] * 3)
    assert ssim(reference, reference, data_range=2.0).tolist() == pytest.approx([1.0] * 3)
    assert all(math.isinf(value) for value in psnr(reference, reference, data_range=2.0).tolist())


def test_pictures_of_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"sides of 11 or more"):
        ssim(torch.zeros(1, 1, 10, 30), torch.zeros(1, 1, 10, 30), data_range=2.0)
    with pytest.raises(ShapeError, match=r"expected two equal shapes"):
        psnr(torch.zeros(1, 1, 12, 12), torch.zeros(2, 1, 12, 12), data_range=2.0)


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
    assert mean_ssim(found) == pytest.approx(mean)
    where = np.random.default_rng(1).random(first.shape) < 0.3
    where[0, 0] = True
    assert mean_ssim(found, where) == pytest.approx(full[where].mean())
    assert abs(mean_ssim(found) - structural_similarity(first, second, data_range=255)) > 1e-3
    # The range of the type, not of the picture: a dark picture keeps the constants.
    dark = mean_ssim(ssim_map(first // 8, second // 8))
    assert dark == pytest.approx(structural_similarity(first // 8, second // 8, **published))


def test_ssim_of_equal_and_of_tiny_pictures():
    first, second = pair(shape=(6, 5))
    assert mean_ssim(ssim_map(first, first)) == pytest.approx(1.0)
    assert mean_ssim(ssim_map(first, second)) == pytest.approx(ssim_map(first, second).mean())
