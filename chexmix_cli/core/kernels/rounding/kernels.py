"""Device function: float32 numbers stored in the dtype of their pointer, rounded to even."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_rounded(pointer, value, mask, INTERPRETED: tl.constexpr):
    """Store a block of float32 values."""
    if INTERPRETED and pointer.dtype.element_ty == tl.bfloat16:
        # The interpreter cuts bfloat16 off where a GPU rounds to even: rounded here, nothing is left to cut.
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        value = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)
