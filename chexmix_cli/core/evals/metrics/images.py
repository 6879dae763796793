"""How close a picture is to the one it should be: PSNR and SSIM, of batches of any range, or of two 8-bit pictures.

Of two 8-bit pictures either is over all pixels, or over those that were hidden. Shape letters: B images, C channels,
Y X rows and columns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError

#: Gaussian window of SSIM (Wang et al. 2004): 11 x 11, deviation 1.5; from its middle to its edge.
_WINDOW, _DEVIATION = 11, 1.5
_REACH_PX = _WINDOW // 2
#: Its constants, as shares of the data range.
_K1, _K2 = 0.01, 0.03
#: Data range of 8-bit pictures.
_LEVELS = 255.0


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


def psnr_db(left: NDArray[Any], right: NDArray[Any], where: NDArray[np.bool_] | None = None) -> float | None:
    """Return the peak signal-to-noise ratio of two 8-bit pictures in dB; None if they are equal: it is infinite.

    The mean over several pictures is the mean of their ratios, not the ratio of their mean error.

    Args:
        left, right: same shape, in the scale 0..255.
        where: pixels that count, at least one; default: all.
    """
    error_YX = (left.astype(np.float64) - right.astype(np.float64)) ** 2
    error = float(error_YX.mean() if where is None else error_YX[where].mean())
    return None if error == 0 else 10 * math.log10(_LEVELS**2 / error)


def ssim_map(left_YX: NDArray[Any], right_YX: NDArray[Any]) -> NDArray[np.float64]:
    """Return the structural similarity around each pixel, (Y, X); pictures are mirrored at their edges.

    Equals the full map of scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)``, whose defaults are another window and other covariances.
    """
    padded = [
        torch.from_numpy(np.pad(picture_YX.astype(np.float64), _REACH_PX, mode="symmetric"))[None, None]
        for picture_YX in (left_YX, right_YX)
    ]
    found: NDArray[np.float64] = similarity_map(padded[0], padded[1], data_range=_LEVELS)[0, 0].numpy()
    return found


def mean_ssim(map_YX: NDArray[np.float64], where: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of a map of similarities: over the pixels ``where``, else over all whose window fits.

    A picture smaller than the window has no such pixel: then all count.
    """
    if where is not None:
        return float(map_YX[where].mean())
    inner_YX = map_YX[_REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX]
    return float(inner_YX.mean() if inner_YX.size else map_YX.mean())


def _blur(image_BCYX: Tensor) -> Tensor:
    """Return means under the Gaussian window, only where it lies inside the picture."""
    offset = torch.arange(_WINDOW, dtype=torch.float64, device=image_BCYX.device) - _REACH_PX
    weight = torch.exp(-offset.square() / (2 * _DEVIATION**2))
    weight = weight / weight.sum()
    planes = image_BCYX.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return planes.view(*image_BCYX.shape[:2], *planes.shape[-2:])


def _check(image_BCYX: Tensor, reference_BCYX: Tensor) -> None:
    if image_BCYX.shape != reference_BCYX.shape or image_BCYX.dim() != 4:
        shapes = f"{tuple(image_BCYX.shape)} and {tuple(reference_BCYX.shape)}"
        raise ShapeError(f"pictures of {shapes}", where="image quality", expected="two equal shapes (B, C, Y, X)")
