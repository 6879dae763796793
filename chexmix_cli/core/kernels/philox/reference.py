"""Philox 4x32-10 in numpy (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PHILOX_A, PHILOX_B = 0xD2511F53, 0xCD9E8D57
PHILOX_KEY_A, PHILOX_KEY_B = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)


def first_word(key: NDArray[Any], counter: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the first word of Philox 4x32-10 for the counter ``(counter, 0, 0, 0)``, uint64 below 2^32.

    Args:
        key: non-negative integers below 2^63; both halves are used.
        counter: non-negative integers below 2^32, of a shape that broadcasts with the key's.
    """
    key, counter = key.astype(np.uint64), counter.astype(np.uint64)
    key_a, key_b = key & _LOW, key >> np.uint64(32)
    c0 = np.broadcast_to(counter, np.broadcast_shapes(key.shape, counter.shape))
    c1 = c2 = c3 = np.zeros_like(c0)
    for _ in range(PHILOX_ROUNDS):
        product_a, product_b = np.uint64(PHILOX_A) * c0, np.uint64(PHILOX_B) * c2
        c0, c2 = (product_b >> np.uint64(32)) ^ c1 ^ key_a, (product_a >> np.uint64(32)) ^ c3 ^ key_b
        c1, c3 = product_b & _LOW, product_a & _LOW
        key_a, key_b = (key_a + np.uint64(PHILOX_KEY_A)) & _LOW, (key_b + np.uint64(PHILOX_KEY_B)) & _LOW
    return c0
