"""Device function: the logits of one tile, for the kernels of the restricted head and of the expected code.

M states, R head rows, D features of one step.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_logits(
    state_ptr,  # (states, features), any row stride, features contiguous
    weight_ptr,  # (rows, features), any row stride, features contiguous
    bias_ptr,  # (rows,)
    state_M,
    row_R,
    is_state_M,
    is_row_R,
    hidden_size,
    stride_sm,
    stride_wr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,  # as in nearest_code/kernels.py
):
    """Return logits (BLOCK_M, BLOCK_R) float32, -inf in columns that are no row."""
    feature_D = tl.arange(0, BLOCK_D)
    logit_MR = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    for start in range(0, hidden_size, BLOCK_D):
        is_feature_D = start + feature_D < hidden_size
        x_MD = tl.load(
            state_ptr + state_M[:, None] * stride_sm + start + feature_D[None, :],
            mask=is_state_M[:, None] & is_feature_D[None, :],
            other=0.0,
        )
        w_RD = tl.load(
            weight_ptr + row_R[:, None] * stride_wr + start + feature_D[None, :],
            mask=is_row_R[:, None] & is_feature_D[None, :],
            other=0.0,
        )
        if UPCAST:
            x_MD, w_RD = x_MD.to(tl.float32), w_RD.to(tl.float32)
        logit_MR = tl.dot(x_MD, tl.trans(w_RD), logit_MR, input_precision="ieee")
    bias_R = tl.load(bias_ptr + row_R, mask=is_row_R, other=float("-inf")).to(tl.float32)
    return logit_MR + bias_R[None, :]
