"""Classical fills of hidden pixels from the visible ones: what a model has to beat, and what joins its fill to them.

All take a grey picture, float64, and where it is hidden, and return it filled; hidden values are not looked at. The
picture's edges reflect (no flow across them). Y X pixels, H hidden ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

from chexmix_cli.core.errors import DataError, Reason

Picture = NDArray[np.float64]
Hidden = NDArray[np.bool_]
Pixels = NDArray[np.int64]

#: Pixels around a hidden one that Telea's fill reads, in pixels.
_RADIUS_PX = 4
_DISC = [
    (down, right)
    for down in range(-_RADIUS_PX, _RADIUS_PX + 1)
    for right in range(-_RADIUS_PX, _RADIUS_PX + 1)
    if 0 < down**2 + right**2 <= _RADIUS_PX**2
]


def mean_fill(picture_YX: Picture, is_hidden_YX: Hidden) -> Picture:
    """Return the picture with the mean of its visible pixels where it is hidden."""
    _require_visible(is_hidden_YX)
    return np.where(is_hidden_YX, picture_YX[~is_hidden_YX].mean(), picture_YX)


def harmonic_fill(picture_YX: Picture, is_hidden_YX: Hidden) -> Picture:
    """Return the picture with Laplace's equation solved where it is hidden (the five-point stencil)."""
    _require_visible(is_hidden_YX)
    return _solver(_laplacian(*picture_YX.shape), is_hidden_YX)(picture_YX)


def biharmonic_fill(picture_YX: Picture, is_hidden_YX: Hidden) -> Picture:
    """Return the picture with the biharmonic equation solved where it is hidden (the stencil applied twice).

    The solution overshoots; it is kept between the darkest and the brightest visible pixel. Source: Damelin and Hoang
    2018; the same equations, and the same bounds, as scikit-image's ``inpaint_biharmonic``.
    """
    _require_visible(is_hidden_YX)
    laplacian = _laplacian(*picture_YX.shape)
    filled_YX = _solver(laplacian @ laplacian, is_hidden_YX)(picture_YX)
    return _bounded(filled_YX, picture_YX, is_hidden_YX)


def tension_fill(picture_YX: Picture, is_hidden_YX: Hidden, length_px: float = 4.0) -> Picture:
    """Return the picture with a spline in tension where it is hidden: (L L - L / l^2) u = 0, L the five-point stencil.

    Over holes narrower than the length it behaves like the biharmonic fill, over wider ones like the harmonic one,
    which does not overshoot. Bounded as the biharmonic fill is. Source: Smith and Wessel 1990, with the tension said as
    a length.

    Args:
        picture_YX, is_hidden_YX: as for all fills.
        length_px: l, above 0, in pixels.
    """
    _require_visible(is_hidden_YX)
    filled_YX = _solver(_tension(picture_YX.shape, length_px), is_hidden_YX)(picture_YX)
    return _bounded(filled_YX, picture_YX, is_hidden_YX)


def tension_blends(
    picture_YX: Picture, drawn: Sequence[Picture], is_hidden_YX: Hidden, *, detail: float, length_px: float
) -> list[Picture]:
    """Return the picture filled from each of several pictures that were drawn whole, without a seam.

    With E the tension fill before its bounds, v the picture, M a drawn one and d the share of detail, hidden pixels are
    E(v - d M) + d M. As E is linear, that is E(v) + d (M - E(M)): the classical fill, and of the drawn picture only
    what its own pixels around the hole do not tell already. An offset between M and v falls out. Bounded as the
    tension fill, which ``detail`` 0 gives. The equations are factored once for all drawn pictures.

    Args:
        picture_YX, is_hidden_YX: as for all fills.
        drawn: whole pictures, (Y, X) each, of the same grey levels; they are looked at everywhere.
        detail: d, in [0, 1].
        length_px: as for :func:`tension_fill`.
    """
    _require_visible(is_hidden_YX)
    solve = _solver(_tension(picture_YX.shape, length_px), is_hidden_YX)
    blends = []
    for drawn_YX in drawn:
        blend_YX = solve(picture_YX - detail * drawn_YX) + detail * drawn_YX
        # Visible pixels are the picture's own, not what rounding leaves of them.
        blend_YX = np.where(is_hidden_YX, blend_YX, picture_YX)
        blends.append(_bounded(blend_YX, picture_YX, is_hidden_YX))
    return blends


def telea_fill(picture_YX: Picture, is_hidden_YX: Hidden) -> Picture:
    """Return the picture filled from the edge of what is hidden inwards, each pixel from the known ones near it.

    A pixel is the mean of the known pixels within a radius, weighted by direction, distance and level: Telea 2004,
    section 2, but for three things. Distances to the edge are exact (Euclidean), not fast marching's estimate of them.
    Pixels equally far from it are filled together, so that no position is preferred and a mirrored picture gives the
    mirrored fill. The first-order term of the estimates is left out: over wide holes it extrapolates without bound
    (on radiographs it cost 3 to 6 dB), and OpenCV's implementation keeps no more than its direction, one grey level.
    """
    _require_visible(is_hidden_YX)
    front = _Front(picture_YX, is_hidden_YX)
    level_H = front.level_YX[is_hidden_YX]
    order_H = np.argsort(level_H, kind="stable")
    pixels_H = np.flatnonzero(is_hidden_YX)[order_H]
    starts = np.flatnonzero(np.diff(level_H[order_H], prepend=-1.0))
    for pixels in np.split(pixels_H, starts[1:]) if len(starts) else []:
        front.fill(*np.divmod(pixels, picture_YX.shape[1]))
    return front.picture()


class _Front:
    """A picture being filled, with a margin of unknown pixels around it."""

    def __init__(self, picture_YX: Picture, is_hidden_YX: Hidden) -> None:
        inside = ndimage.distance_transform_edt(is_hidden_YX)
        outside = ndimage.distance_transform_edt(~is_hidden_YX) if is_hidden_YX.any() else inside
        #: Distance to the edge: 1 and more where it is hidden, 0 and less where it is known.
        self.level_YX: Picture = np.where(is_hidden_YX, inside, 1 - outside)
        self._margin = _RADIUS_PX + 1
        self._values = np.pad(np.where(is_hidden_YX, 0.0, picture_YX), self._margin)
        self._is_known = np.pad(~is_hidden_YX, self._margin)
        self._level = np.pad(self.level_YX, self._margin, mode="edge")
        self._normal = np.gradient(self._level)

    def picture(self) -> Picture:
        """Return the picture without its margin."""
        return self._values[self._margin : -self._margin, self._margin : -self._margin]

    def fill(self, rows: Pixels, columns: Pixels) -> None:
        """Fill hidden pixels at the edge of the known ones."""
        rows, columns = rows + self._margin, columns + self._margin
        total, weights = np.zeros(len(rows)), np.zeros(len(rows))
        for down, right in _DISC:
            there = rows + down, columns + right
            squared = down**2 + right**2
            along = down * self._normal[0][rows, columns] + right * self._normal[1][rows, columns]
            # Where the direction says nothing, the distance decides; a weight of nought would leave pixels empty.
            direction = np.maximum(np.abs(along) / np.sqrt(squared), 1e-6)
            level = 1 + np.abs(self._level[there] - self._level[rows, columns])
            weight = np.where(self._is_known[there], direction / squared / level, 0.0)
            total += weight * self._values[there]
            weights += weight
        self._values[rows, columns] = total / weights
        self._is_known[rows, columns] = True


def _laplacian(height: int, width: int) -> sparse.csr_matrix:
    """Return the five-point Laplacian of a picture in raster order, (Y X, Y X), with reflecting edges."""

    def second_difference(count: int) -> sparse.dia_matrix:
        diagonal = np.full(count, -2.0)
        diagonal[0] += 1
        diagonal[-1] += 1
        side = np.ones(count - 1)
        return sparse.diags([side, diagonal, side], [-1, 0, 1])

    return sparse.csr_matrix(sparse.kronsum(second_difference(width), second_difference(height)))


def _tension(shape: tuple[int, ...], length_px: float) -> sparse.csr_matrix:
    """Return the operator L L - L / l^2 of a picture in raster order, (Y X, Y X)."""
    laplacian = _laplacian(*shape)
    return laplacian @ laplacian - laplacian / length_px**2


def _solver(operator: sparse.csr_matrix, is_hidden_YX: Hidden) -> Callable[[Picture], Picture]:
    """Return a function from a picture to the one whose ``operator`` is 0 at every hidden pixel."""
    is_hidden = is_hidden_YX.ravel()
    hidden, visible = np.flatnonzero(is_hidden), np.flatnonzero(~is_hidden)
    if not len(hidden):
        return np.copy
    rows = operator[hidden]
    # Symmetric and definite: no pivoting, and an ordering made for it, take a third of the time.
    factors = splu(
        rows[:, hidden].tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    outside = rows[:, visible]

    def solve(picture_YX: Picture) -> Picture:
        filled = picture_YX.ravel().copy()
        filled[hidden] = factors.solve(-(outside @ filled[visible]))
        return filled.reshape(picture_YX.shape)

    return solve


def _bounded(filled_YX: Picture, picture_YX: Picture, is_hidden_YX: Hidden) -> Picture:
    """Return a filled picture between the darkest and the brightest visible pixel."""
    visible = picture_YX[~is_hidden_YX]
    return np.clip(filled_YX, visible.min(), visible.max())


def _require_visible(is_hidden_YX: Hidden) -> None:
    if is_hidden_YX.all():
        raise DataError(Reason.BLANK, "no pixel is visible", expected="some to fill the others from")


FILLS: Mapping[str, Callable[[Picture, Hidden], Picture]] = {
    "mean": mean_fill,
    "harmonic": harmonic_fill,
    "biharmonic": biharmonic_fill,
    "tension": tension_fill,
    "telea": telea_fill,
}
