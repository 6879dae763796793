"""Expected code vectors, fused: an attention of states over codes whose keys are head rows, whose values code vectors.

M states, D hidden, K codes, E code size, S shares of the codes. A program goes through a share in blocks and keeps, as
flash attention does (Dao et al. 2022), the largest logit, the sum of exponentials below it, and the sum of vectors
weighted so; ``op.py`` joins the shares. The formulas are in ``reference.py``.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.logits.kernels import tile_logits


@triton.jit
def _expected_code_fwd_kernel(
    state_ptr,  # (M, D), any row stride, features contiguous
    weight_ptr,  # (K, D), any row stride, features contiguous
    bias_ptr,  # (K,)
    codebook_ptr,  # (K, E) float32, any row stride, features contiguous
    code_ptr,  # (S, M) int64: the best code of each share
    peak_ptr,  # (S, M) float32: its logit
    sum_ptr,  # (S, M) float32: sum of exp(logit - largest)
    weight_sum_ptr,  # (S, M) float32: the same at the temperature
    vector_ptr,  # (S, M, E) float32: code vectors, weighted so and summed
    num_states,
    num_codes,
    codes_per_share,  # a multiple of BLOCK_K
    hidden_size,
    code_size,
    stride_sm,
    stride_wk,
    stride_ck,
    inverse_temperature,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    UPCAST: tl.constexpr,  # as in nearest_code/kernels.py
):
    state_M = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    share = tl.program_id(1).to(tl.int64)
    is_state_M = state_M < num_states
    feature_E = tl.arange(0, BLOCK_E)
    is_feature_E = feature_E < code_size
    peak_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    code_M = tl.zeros([BLOCK_M], tl.int64)
    sum_M = tl.zeros([BLOCK_M], tl.float32)
    weight_sum_M = tl.zeros([BLOCK_M], tl.float32)
    vector_ME = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    first_k = share * codes_per_share
    for start_k in range(first_k, min(first_k + codes_per_share, num_codes), BLOCK_K):
        code_K = start_k + tl.arange(0, BLOCK_K)
        is_code_K = code_K < num_codes
        logit_MK = tile_logits(
            state_ptr,
            weight_ptr,
            bias_ptr,
            state_M,
            code_K,
            is_state_M,
            is_code_K,
            hidden_size,
            stride_sm,
            stride_wk,
            BLOCK_M,
            BLOCK_K,
            BLOCK_D,
            UPCAST,
        )
        best_M, place_M = tl.max(logit_MK, axis=1, return_indices=True, return_indices_tie_break_left=True)
        # Strictly larger: of equals the earlier block's, which is the lower code, stays.
        is_better_M = best_M > peak_M
        code_M = tl.where(is_better_M, start_k + place_M.to(tl.int64), code_M)
        higher_M = tl.maximum(best_M, peak_M)
        # While every code so far is barred there is no peak, and exp(-inf - -inf) would be no number.
        base_M = tl.where(higher_M == float("-inf"), 0.0, higher_M)
        sum_M = sum_M * tl.exp(peak_M - base_M) + tl.sum(tl.exp(logit_MK - base_M[:, None]), axis=1)
        part_MK = tl.exp((logit_MK - base_M[:, None]) * inverse_temperature)
        shrink_M = tl.exp((peak_M - base_M) * inverse_temperature)
        weight_sum_M = weight_sum_M * shrink_M + tl.sum(part_MK, axis=1)
        e_KE = tl.load(
            codebook_ptr + code_K[:, None] * stride_ck + feature_E[None, :],
            mask=is_code_K[:, None] & is_feature_E[None, :],
            other=0.0,
        )
        vector_ME = tl.dot(part_MK, e_KE, vector_ME * shrink_M[:, None], input_precision="ieee")
        peak_M = higher_M
    out_M = share * num_states + state_M
    tl.store(code_ptr + out_M, code_M, mask=is_state_M)
    tl.store(peak_ptr + out_M, peak_M, mask=is_state_M)
    tl.store(sum_ptr + out_M, sum_M, mask=is_state_M)
    tl.store(weight_sum_ptr + out_M, weight_sum_M, mask=is_state_M)
    tl.store(
        vector_ptr + out_M[:, None] * code_size + feature_E[None, :],
        vector_ME,
        mask=is_state_M[:, None] & is_feature_E[None, :],
    )
