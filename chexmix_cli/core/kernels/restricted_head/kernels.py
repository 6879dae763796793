"""The restricted head, fused: logits of a block of rows live in registers, only what is asked of them leaves.

M states, D hidden, R head rows. A program takes BLOCK_M states and BLOCK_R rows; the blocks of rows are joined by
``op.py`` (a table of R / BLOCK_R entries a state). The formulas are in ``reference.py``.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.logits.kernels import tile_logits

GREEDY = tl.constexpr(0)
GIVEN = tl.constexpr(1)


@triton.jit
def _restricted_head_fwd_kernel(
    state_ptr,  # (M, D), any row stride, features contiguous
    weight_ptr,  # (R, D), any row stride, features contiguous
    bias_ptr,  # (R,)
    given_ptr,  # (M,) int64: the given rows; not read if GREEDY
    row_ptr,  # (blocks of R, M) int64: the best row of each block; not written if GIVEN
    logit_ptr,  # (blocks of R, M) float32: logit of the given row, 0 where another block has it; not written if GREEDY
    peak_ptr,  # (blocks of R, M) float32: largest logit, that of the best row
    sum_ptr,  # (blocks of R, M) float32: sum of exp(logit - largest)
    num_states,
    num_rows,
    hidden_size,
    stride_sm,
    stride_wr,
    MODE: tl.constexpr,  # GREEDY or GIVEN
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,  # as in nearest_code/kernels.py
):
    state_M = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    block = tl.program_id(1).to(tl.int64)
    row_R = block * BLOCK_R + tl.arange(0, BLOCK_R)
    is_state_M, is_row_R = state_M < num_states, row_R < num_rows
    logit_MR = tile_logits(
        state_ptr,
        weight_ptr,
        bias_ptr,
        state_M,
        row_R,
        is_state_M,
        is_row_R,
        hidden_size,
        stride_sm,
        stride_wr,
        BLOCK_M,
        BLOCK_R,
        BLOCK_D,
        UPCAST,
    )
    peak_M = tl.max(logit_MR, axis=1)
    # A block of barred rows only has no peak: exp(-inf - -inf) would be no number.
    base_M = tl.where(peak_M == float("-inf"), 0.0, peak_M)
    sum_M = tl.sum(tl.exp(logit_MR - base_M[:, None]), axis=1)
    out_M = block * num_states + state_M
    tl.store(peak_ptr + out_M, peak_M, mask=is_state_M)
    tl.store(sum_ptr + out_M, sum_M, mask=is_state_M)
    if MODE == GIVEN:
        given_M = tl.load(given_ptr + state_M, mask=is_state_M, other=-1)
        is_given_MR = row_R[None, :] == given_M[:, None]
        tl.store(logit_ptr + out_M, tl.sum(tl.where(is_given_MR, logit_MR, 0.0), axis=1), mask=is_state_M)
    else:
        _, place_M = tl.max(logit_MR, axis=1, return_indices=True, return_indices_tie_break_left=True)
        tl.store(row_ptr + out_M, block * BLOCK_R + place_M.to(tl.int64), mask=is_state_M)
