"""The restricted head, fused: logits of a block of rows live in registers, only what is asked of them leaves.

M states, D hidden, R head rows. A program takes BLOCK_M states and BLOCK_R rows; the blocks of rows are joined by
``op.py`` (a table of R / BLOCK_R entries a state). The formulas are in ``reference.py``.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.logits.kernels import tile_logits
from chexmix_cli.core.kernels.philox.kernels import first_word

GREEDY = tl.constexpr(0)
SAMPLED = tl.constexpr(1)
GIVEN = tl.constexpr(2)


@triton.jit
def _restricted_head_fwd_kernel(
    state_ptr,  # (M, D), any row stride, features contiguous
    weight_ptr,  # (R, D), any row stride, features contiguous
    bias_ptr,  # (R,)
    seed_ptr,  # (M,) int64: seeds, or the given rows; not read if GREEDY
    row_ptr,  # (blocks of R, M) int64: the best row of each block; not written if GIVEN
    score_ptr,  # (blocks of R, M) float32: its score; not written if GIVEN
    logit_ptr,  # (blocks of R, M) float32: its logit; if GIVEN, of the given row, 0 where another block has it
    peak_ptr,  # (blocks of R, M) float32: largest logit
    sum_ptr,  # (blocks of R, M) float32: sum of exp(logit - largest)
    num_states,
    num_rows,
    hidden_size,
    stride_sm,
    stride_wr,
    inverse_temperature,
    MODE: tl.constexpr,  # GREEDY, SAMPLED or GIVEN
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
    score_MR = logit_MR
    if MODE == SAMPLED:
        seed_M = tl.load(seed_ptr + state_M, mask=is_state_M, other=0)
        bits_MR = first_word(seed_M[:, None] + tl.zeros_like(row_R)[None, :], row_R[None, :])
        uniform_MR = ((bits_MR >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08
        score_MR = logit_MR * inverse_temperature - tl.log(-tl.log(uniform_MR))
    if MODE == GIVEN:
        given_M = tl.load(seed_ptr + state_M, mask=is_state_M, other=-1)
        is_chosen_MR = row_R[None, :] == given_M[:, None]
    else:
        best_M, place_M = tl.max(score_MR, axis=1, return_indices=True, return_indices_tie_break_left=True)
        is_chosen_MR = tl.arange(0, BLOCK_R)[None, :] == place_M[:, None]
        tl.store(row_ptr + out_M, block * BLOCK_R + place_M.to(tl.int64), mask=is_state_M)
        tl.store(score_ptr + out_M, best_M, mask=is_state_M)
    chosen_M = tl.sum(tl.where(is_chosen_MR, logit_MR, 0.0), axis=1)
    tl.store(logit_ptr + out_M, chosen_M, mask=is_state_M)
