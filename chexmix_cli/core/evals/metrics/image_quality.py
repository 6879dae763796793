"""How close a picture is to the one it should be: PSNR and SSIM, a figure an image.

Shape letters: B images, C channels, Y X rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError

#: Gaussian window of SSIM (Wang et al. 2004): 11 x 11, deviation 1.5.
_WINDOW, _DEVIATION = 11, 1.5
#: Its constants, as shares of the data range.
_K1, _K2 = 0.01, 0.03


def psnr(image_BCYX: Tensor, reference_BCYX: Tensor, *, data_range: float) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, (B,) float64; infinite where there is no error.

    Args:
        image_BCYX: pictures to judge.
        reference_BCYX: what they should be.
        data_range: largest value less smallest value that a pixel can have.
    """
    _check(image_BCYX, reference_BCYX)
    error_B = (image_BCYX.double() - reference_BCYX.double()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(data_range**2 / error_B)


def ssim(image_BCYX: Tensor, reference_BCYX: Tensor, *, data_range: float) -> Tensor:
    """Return the structural similarity of each image, (B,) float64, 1 where both are equal.

    Source: Wang et al. 2004, the Gaussian form: a window of 11 x 11 with deviation 1.5, population covariances, the
    mean over every position where the window lies inside the picture, then over channels. This is scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``, not its default.

    Raises:
        ShapeError: if the shapes differ or a side is shorter than the window.
    """
    return similarity_map(image_BCYX, reference_BCYX, data_range=data_range).flatten(1).mean(dim=1)


def similarity_map(image_BCYX: Tensor, reference_BCYX: Tensor, *, data_range: float) -> Tensor:
    """Return the structural similarity at every position where the window lies inside the picture.

    Returns:
        Shape (B, C, Y - 10, X - 10), float64; errors as :func:`ssim`.
    """
    _check(image_BCYX, reference_BCYX)
    if min(image_BCYX.shape[-2:]) < _WINDOW:
        raise ShapeError(f"{tuple(image_BCYX.shape[-2:])} pixels", where="ssim", expected=f"sides of {_WINDOW} or more")
    x, y = image_BCYX.double(), reference_BCYX.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


def _blur(image_BCYX: Tensor) -> Tensor:
    """Return means under the Gaussian window, only where it lies inside the picture."""
    offset = torch.arange(_WINDOW, dtype=torch.float64, device=image_BCYX.device) - _WINDOW // 2
    weight = torch.exp(-offset.square() / (2 * _DEVIATION**2))
    weight = weight / weight.sum()
    planes = image_BCYX.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return planes.view(*image_BCYX.shape[:2], *planes.shape[-2:])


def _check(image_BCYX: Tensor, reference_BCYX: Tensor) -> None:
    if image_BCYX.shape != reference_BCYX.shape or image_BCYX.dim() != 4:
        shapes = f"{tuple(image_BCYX.shape)} and {tuple(reference_BCYX.shape)}"
        raise ShapeError(f"pictures of {shapes}", where="image quality", expected="two equal shapes (B, C, Y, X)")
