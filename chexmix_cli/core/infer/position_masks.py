"""Which image positions are hidden: one definition for classification under masking, inpainting and their evaluation.

An order of all positions is drawn once; hiding a share hides the first ones of it. So masks are nested: what is hidden
at 20 % is hidden at 40 % too, and two ratios differ by nothing but the ratio. P image positions, raster order.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.choices import Pattern

PATTERNS: tuple[str, ...] = get_args(Pattern)


def hiding_order(pattern: Pattern, grid_size: int, *, seed: int, key: str) -> NDArray[np.int64]:
    """Return the positions in the order they are hidden, a permutation of 0..P-1, (P,) int64.

    Args:
        pattern: ``random``: uniform. ``block``: a square that grows around a random centre, inside the image.
            ``border``: from the edges inwards; positions equally far from the edge in random order.
        grid_size: positions along a side.
        seed: of the draw.
        key: what the mask belongs to, the image's id: its mask depends on neither the other images nor their order.

    Raises:
        SettingsError: if there is no such pattern.
    """
    digest = blake2b(f"{pattern}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest)])
    shuffled_P = rng.permutation(grid_size**2)
    if pattern == "random":
        return shuffled_P
    row_P, column_P = np.divmod(np.arange(grid_size**2), grid_size)
    if pattern == "block":
        # Rings of the square around the centre; near an edge the square grows to the other side, so it stays one.
        row, column = rng.integers(grid_size, size=2)
        distance_P = np.maximum(_shifted(row_P, row, grid_size), _shifted(column_P, column, grid_size))
    elif pattern == "border":
        far = grid_size - 1
        distance_P = np.minimum(np.minimum(row_P, far - row_P), np.minimum(column_P, far - column_P))
    else:
        raise SettingsError(f"unknown mask pattern {pattern!r}", where="--pattern", expected=", ".join(PATTERNS))
    order: NDArray[np.int64] = shuffled_P[np.argsort(distance_P[shuffled_P], kind="stable")]
    return order


def hidden_positions(order_P: NDArray[np.int64], ratio: float) -> NDArray[np.bool_]:
    """Return which positions are hidden at a ratio, (P,) bool: the first ``round(ratio * P)`` of the order.

    Raises:
        SettingsError: if the ratio is not in 0..1.
    """
    if not 0.0 <= ratio <= 1.0:
        raise SettingsError(f"is {ratio:g}", where="mask ratio", expected="0..1")
    is_hidden_P = np.zeros(len(order_P), bool)
    is_hidden_P[order_P[: round(ratio * len(order_P))]] = True
    return is_hidden_P


def _shifted(coordinate_P: NDArray[np.int64], centre: int, size: int) -> NDArray[np.int64]:
    """Return for each coordinate the step at which a run that grows around ``centre``, bounded by 0..size-1, has it.

    A run grows by one on each side in turn; once it meets an edge, by two on the other side, so that its length after
    step k is min(2 k + 1, size) wherever the centre is.
    """
    step = np.empty(size, np.int64)
    for reach in range(size, -1, -1):
        length = min(2 * reach + 1, size)
        start = min(max(centre - reach, 0), size - length)
        step[start : start + length] = reach
    found: NDArray[np.int64] = step[coordinate_P]
    return found
