"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.evals.metrics.image_quality import psnr, ssim


def pair(height: int, width: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three pictures in [-1, 1] and noisy copies, each with another amount of noise."""
    generator = torch.Generator().manual_seed(height * width)
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    clean = torch.sin(y * x + torch.arange(3 * channels).view(3, channels, 1, 1))
    amount = torch.tensor([0.01, 0.1, 0.5]).view(3, 1, 1, 1)
    return clean, clean + amount * torch.randn(clean.shape, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (11, 11), (17, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_figures_are_those_of_scikit_image(height, width, channels):
    reference, image = pair(height, width, channels)
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
    reference, image = pair(24, 24)
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
