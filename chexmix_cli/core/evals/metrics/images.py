"""PSNR and SSIM of two grey 8-bit pictures, whole or where pixels were hidden. Y X pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chexmix_cli.core.evals.metrics.image_quality import similarity_map

_PEAK = 255.0
#: From the middle of SSIM's window to its edge.
_REACH_PX = 5


def psnr_db(left: NDArray[Any], right: NDArray[Any], where: NDArray[np.bool_] | None = None) -> float | None:
    """Return the peak signal-to-noise ratio of two 8-bit pictures in dB; None if they are equal: it is infinite.

    The mean over several pictures is the mean of their ratios, not the ratio of their mean error.

    Args:
        left, right: same shape, in the scale 0..255.
        where: pixels that count, at least one; default: all.
    """
    error_YX = (left.astype(np.float64) - right.astype(np.float64)) ** 2
    error = float(error_YX.mean() if where is None else error_YX[where].mean())
    return None if error == 0 else 10 * math.log10(_PEAK**2 / error)


def ssim_map(left_YX: NDArray[Any], right_YX: NDArray[Any]) -> NDArray[np.float64]:
    """Return the structural similarity around each pixel, (Y, X); pictures are mirrored at their edges.

    Equals the full map of scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)``, whose defaults are another window and other covariances.
    """
    padded = [
        torch.from_numpy(np.pad(picture_YX.astype(np.float64), _REACH_PX, mode="symmetric"))[None, None]
        for picture_YX in (left_YX, right_YX)
    ]
    found: NDArray[np.float64] = similarity_map(padded[0], padded[1], data_range=_PEAK)[0, 0].numpy()
    return found


def ssim(map_YX: NDArray[np.float64], where: NDArray[np.bool_] | None = None) -> float:
    """Return the mean of a map of similarities: over the pixels ``where``, else over all whose window fits.

    A picture smaller than the window has no such pixel: then all count.
    """
    if where is not None:
        return float(map_YX[where].mean())
    inner_YX = map_YX[_REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX]
    return float(inner_YX.mean() if inner_YX.size else map_YX.mean())
