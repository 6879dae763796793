"""A hash of what a radiograph shows, and the pairs of images whose hashes are near.

The picture is shrunk to 32 x 32, its grey values replaced by their ranks, and transformed by a cosine transform; the
hash is the sign of each of the 255 lowest frequencies about their median. Ranks make it blind to brightness, contrast
and histogram equalisation, in which the variants of one film in public archives differ. It is long because chest films
look alike: hashes of 64 bits are as near between two patients as between two copies (figures in docs/datasets.md).
Letters: N images, W bytes of a hash, M distinct hashes, B bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The padding bit that fills the last byte is 0 in every hash.
HASH_BITS = 255
HASH_BYTES = 32

_SIDE, _FREQUENCIES = 32, 16
_STEPS = np.arange(_SIDE)
_COSINES = np.cos(np.pi * (2 * _STEPS[None] + 1) * _STEPS[:_FREQUENCIES, None] / (2 * _SIDE))
#: Products of blocks of this many hashes are compared at once: 32 MiB.
_BLOCK_ROWS, _BLOCK_COLUMNS = 1024, 8192


def image_hash(image: Image.Image) -> bytes:
    """Return the hash of a picture, ``HASH_BYTES`` long."""
    small = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))
    spectrum = (_COSINES @ _ranks(small) @ _COSINES.T).ravel()[1:]
    # Rounded, so that the last bits of a sum, which machines add up differently, decide nothing.
    spectrum = np.round(spectrum, 6)
    return np.packbits(spectrum > np.median(spectrum)).tobytes()


def _ranks(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return for each value the share of values below it, those equal to it counted half."""
    counts = np.bincount(values.ravel(), minlength=256)
    ranks: NDArray[np.float64] = ((np.cumsum(counts) - counts / 2) / values.size)[values]
    return ranks


def near_pairs(hashes_NW: NDArray[np.uint8], max_bits: int) -> Iterator[tuple[int, int, int]]:
    """Yield pairs of images whose hashes differ in at most ``max_bits`` bits: two indices, ascending, and the distance.

    Equal hashes are paired with the first of them only, and only the first is compared with others: a thousand copies
    of one film are 999 pairs. Exact, and ordered by the smaller index of the distinct hashes.

    Args:
        hashes_NW: as ``image_hash`` gives them, (N, 32) uint8.
        max_bits: below half of ``HASH_BITS``.

    Numerics: distances are products of signs in float32, sums of 256 ones, and so exact. All M (M - 1) / 2 pairs are
    compared by matrix products: at 255 bits and a radius of a tenth, trees and tables of bands visit nearly all too.
    """
    if not len(hashes_NW):
        return
    _, first_M, group_N = np.unique(hashes_NW, axis=0, return_index=True, return_inverse=True)
    group_N = group_N.reshape(-1)
    first_of_N = first_M[group_N]
    for index in np.flatnonzero(first_of_N != np.arange(len(hashes_NW))):
        yield int(first_of_N[index]), int(index), 0
    kept_M = np.sort(first_M)
    signs_MB = np.unpackbits(hashes_NW[kept_M], axis=1).astype(np.float32) * 2 - 1
    least = signs_MB.shape[1] - 2 * max_bits
    for top in range(0, len(kept_M), _BLOCK_ROWS):
        block_B = signs_MB[top : top + _BLOCK_ROWS]
        found: list[tuple[int, int, int]] = []
        for left in range(top, len(kept_M), _BLOCK_COLUMNS):
            products = block_B @ signs_MB[left : left + _BLOCK_COLUMNS].T
            for row, column in np.argwhere(products >= least):
                a, b = top + int(row), left + int(column)
                if a < b:
                    distance = (signs_MB.shape[1] - int(products[row, column])) // 2
                    found.append((int(kept_M[a]), int(kept_M[b]), distance))
        yield from sorted(found)
