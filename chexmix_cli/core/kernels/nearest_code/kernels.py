"""Nearest code, fused: distances and their minimum in one pass; the (latents x codes) matrix is never in memory.

M latents, K codes, E code size, S shares of the codebook. For each block of latents a share of the codebook passes by
in blocks: ``d[m, k] = |z_m|^2 + |e_k|^2 - 2 z_m . e_k``, accumulated in float32; only the smallest and its index stay.
One image is few latents: the shares are what fills a GPU then, and ``op.py`` joins them.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _nearest_code_fwd_kernel(
    z_ptr,  # (M, E), any row stride, features contiguous
    codebook_ptr,  # (K, E), any row stride, features contiguous
    distance_ptr,  # (S, M) float32: the smallest distance in each share of the codebook
    codes_ptr,  # (S, M) int64: its code
    num_latents,
    num_codes,
    codes_per_share,  # a multiple of BLOCK_K
    code_size,
    stride_zm,
    stride_ck,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    UPCAST: tl.constexpr,  # the interpreter multiplies bfloat16 as if it were integers: there, widen first
):
    row_M = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row_M = row_M < num_latents
    feature_E = tl.arange(0, BLOCK_E)
    z_norm_M = tl.zeros([BLOCK_M], tl.float32)
    for start_e in range(0, code_size, BLOCK_E):
        is_in_ME = is_row_M[:, None] & (start_e + feature_E < code_size)[None, :]
        z_ME = tl.load(z_ptr + row_M[:, None] * stride_zm + start_e + feature_E[None, :], mask=is_in_ME, other=0.0)
        z_ME = z_ME.to(tl.float32)
        z_norm_M += tl.sum(z_ME * z_ME, axis=1)
    best_M = tl.full([BLOCK_M], float("inf"), tl.float32)
    code_M = tl.zeros([BLOCK_M], tl.int64)
    share = tl.program_id(1).to(tl.int64)
    first_k = share * codes_per_share
    for start_k in range(first_k, min(first_k + codes_per_share, num_codes), BLOCK_K):
        code_K = start_k + tl.arange(0, BLOCK_K)
        is_code_K = code_K < num_codes
        product_MK = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
        norm_K = tl.zeros([BLOCK_K], tl.float32)
        for start_e in range(0, code_size, BLOCK_E):
            is_feature_E = start_e + feature_E < code_size
            z_ME = tl.load(
                z_ptr + row_M[:, None] * stride_zm + start_e + feature_E[None, :],
                mask=is_row_M[:, None] & is_feature_E[None, :],
                other=0.0,
            )
            e_KE = tl.load(
                codebook_ptr + code_K[:, None] * stride_ck + start_e + feature_E[None, :],
                mask=is_code_K[:, None] & is_feature_E[None, :],
                other=0.0,
            )
            wide_KE = e_KE.to(tl.float32)
            norm_K += tl.sum(wide_KE * wide_KE, axis=1)
            if UPCAST:
                z_ME, e_KE = z_ME.to(tl.float32), wide_KE
            product_MK = tl.dot(z_ME, tl.trans(e_KE), product_MK, input_precision="ieee")
        distance_MK = z_norm_M[:, None] + norm_K[None, :] - 2 * product_MK
        distance_MK = tl.where(is_code_K[None, :], distance_MK, float("inf"))
        nearest_M, place_M = tl.min(distance_MK, axis=1, return_indices=True, return_indices_tie_break_left=True)
        # Strictly nearer: of equals the earlier block's, which is the lower code, stays.
        is_nearer_M = nearest_M < best_M
        code_M = tl.where(is_nearer_M, start_k + place_M.to(tl.int64), code_M)
        best_M = tl.where(is_nearer_M, nearest_M, best_M)
    tl.store(distance_ptr + share * num_latents + row_M, best_M, mask=is_row_M)
    tl.store(codes_ptr + share * num_latents + row_M, code_M, mask=is_row_M)
