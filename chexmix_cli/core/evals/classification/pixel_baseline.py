"""The baseline without a model: principal components of the pixels, for the same probe.

A masked part of the grid is a whole square of pixels, filled with the mean of the image's visible ones: nothing of it
is left. N images, P grid positions, Y X pixels, D components.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.probes.components import principal_components
from chexmix_cli.core.vocab import grid_side

Pixels = NDArray[np.float32]


def small_pixels(pixels_CYX: Pixels, most_px: int, grid_size: int) -> Pixels:
    """Return an image as means of equal square parts, (side, side) float32, none of which crosses the grid's lines.

    Args:
        pixels_CYX: an image whose side is a multiple of the grid's.
        most_px: the side is as large as it can be up to this.
        grid_size: cells along a side.

    Raises:
        SettingsError: if that is less than a pixel a cell.
    """
    side = pixels_CYX.shape[-1]
    if most_px < grid_size:
        raise SettingsError(
            f"is {most_px}", where="sweep.baseline_side_px", expected=f"{grid_size} or more, a pixel for each code"
        )
    side_px = max(px for px in range(grid_size, min(side, most_px) + 1, grid_size) if side % px == 0)
    step = side // side_px
    grey_YX = pixels_CYX.mean(axis=0)
    found: Pixels = grey_YX.reshape(side_px, step, side_px, step).mean(axis=(1, 3)).astype(np.float32)
    return found


def fill_masked(pixels_NYX: Pixels, is_masked_NP: NDArray[np.bool_]) -> Pixels:
    """Return images with masked parts of the grid set to the mean of the visible pixels; 0 if none is visible."""
    grid_size = grid_side(is_masked_NP.shape[1])
    cell = pixels_NYX.shape[1] // grid_size
    is_masked_NYX = is_masked_NP.reshape(-1, grid_size, grid_size).repeat(cell, axis=1).repeat(cell, axis=2)
    count_N = (~is_masked_NYX).sum(axis=(1, 2))
    total_N = np.where(is_masked_NYX, 0.0, pixels_NYX).sum(axis=(1, 2), dtype=np.float64)
    mean_N = (total_N / np.maximum(count_N, 1)).astype(np.float32)
    return np.where(is_masked_NYX, mean_N[:, None, None], pixels_NYX)


class PixelComponents:
    """Principal components, fitted on train images.

    Args:
        pixels_NYX: of the train images, as the probe is to see them.
        components: most components.
        seed: of the randomised decomposition.
    """

    def __init__(self, pixels_NYX: Pixels, components: int, seed: int) -> None:
        flat_ND = pixels_NYX.reshape(len(pixels_NYX), -1)
        self._pca = principal_components(flat_ND, components, seed=seed)

    def features(self, pixels_NYX: Pixels) -> Pixels:
        """Return the images' components, (N, D) float32."""
        found: Pixels = self._pca.transform(pixels_NYX.reshape(len(pixels_NYX), -1)).astype(np.float32)
        return found
