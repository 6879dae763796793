"""Philox 4x32-10 inside a Triton kernel; the definition is in ``reference.py``."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_word(key, counter):
    """Return the first word, uint32, for the counter ``(counter, 0, 0, 0)``; int64 key and counter broadcast."""
    key_a = (key & 0xFFFFFFFF).to(tl.uint32)
    key_b = ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c0 = counter.to(tl.uint32) + tl.zeros_like(key_a)
    c1 = tl.zeros_like(c0)
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0)
    multiplier_a = tl.full(c0.shape, 0xD2511F53, tl.uint32)
    multiplier_b = tl.full(c0.shape, 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high_a, low_a = tl.umulhi(multiplier_a, c0), multiplier_a * c0
        high_b, low_b = tl.umulhi(multiplier_b, c2), multiplier_b * c2
        c0, c2 = high_b ^ c1 ^ key_a, high_a ^ c3 ^ key_b
        c1, c3 = low_b, low_a
        key_a += tl.full(key_a.shape, 0x9E3779B9, tl.uint32)
        key_b += tl.full(key_b.shape, 0xBB67AE85, tl.uint32)
    return c0
