"""Attention of few queries to a cache: a program takes one head of one row and a block of its positions.

One head alone is read by one multiprocessor, of which a card has over a hundred: so positions are shared, and a second
kernel joins the shares, each with its largest score and its sum (as FlashDecoding does: Dao et al. 2023). A block that
nothing attends to is not read. Positions are the side of the matrix unit that is full, queries the narrow one.

B rows, N heads, T queries, S positions of a block, H features, J blocks of positions.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.rounding.kernels import store_rounded


@triton.jit
def _decode_attention_fwd_kernel(
    q_ptr,  # (B, N, T, H), features contiguous
    keys_ptr,  # (B, N, S, H), features contiguous
    values_ptr,  # as keys
    attend_ptr,  # (B or 1, T, S) of bytes, positions contiguous; not read without HAS_MASK
    mixed_ptr,  # (B N, J, T, H) float32
    peak_ptr,  # (B N, J, T) float32: largest score
    sum_ptr,  # (B N, J, T) float32: sum of exp(score - largest)
    num_heads,
    num_new,
    num_places,
    num_blocks,
    head_size,
    stride_qb,
    stride_qn,
    stride_qt,
    stride_kb,
    stride_kn,
    stride_ks,
    stride_ab,  # 0 where one mask serves all rows
    stride_at,
    scale,
    HAS_MASK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_H: tl.constexpr,
    INTERPRETED: tl.constexpr,  # numbers widened: as in nearest_code/kernels.py
):
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, column = head // num_heads, head % num_heads
    place_S, new_T, feature_H = block * BLOCK_S + tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_H)
    is_place_S, is_new_T, is_feature_H = place_S < num_places, new_T < num_new, feature_H < head_size
    is_seen_ST = is_place_S[:, None] & is_new_T[None, :]
    if HAS_MASK:
        at_ST = attend_ptr + row * stride_ab + new_T[None, :] * stride_at + place_S[:, None]
        is_seen_ST &= tl.load(at_ST, mask=is_seen_ST, other=0) != 0
    # Nothing is read of keys and values that nothing attends to.
    is_used = tl.max(is_seen_ST.to(tl.int32)) > 0
    q_at_HT = q_ptr + row * stride_qb + column * stride_qn + new_T[None, :] * stride_qt + feature_H[:, None]
    q_HT = tl.load(q_at_HT, mask=is_new_T[None, :] & is_feature_H[:, None], other=0.0)
    at_SH = row * stride_kb + column * stride_kn + (place_S.to(tl.int64) * stride_ks)[:, None] + feature_H[None, :]
    is_there_SH = is_place_S[:, None] & is_feature_H[None, :] & is_used
    k_SH = tl.load(keys_ptr + at_SH, mask=is_there_SH, other=0.0)
    v_SH = tl.load(values_ptr + at_SH, mask=is_there_SH, other=0.0)
    dtype: tl.constexpr = (
        tl.float32 if INTERPRETED and q_ptr.dtype.element_ty == tl.bfloat16 else q_ptr.dtype.element_ty
    )
    score_ST = tl.dot(k_SH.to(dtype), q_HT.to(dtype), input_precision="ieee") * scale
    score_ST = tl.where(is_seen_ST, score_ST, float("-inf"))
    peak_T = tl.max(score_ST, axis=0)
    # Of a query that sees nothing here there is no peak: exp(-inf - -inf) would be no number.
    base_T = tl.where(peak_T == float("-inf"), 0.0, peak_T)
    weight_ST = tl.exp(score_ST - base_T[None, :])
    mixed_HT = tl.dot(tl.trans(v_SH.to(dtype)), weight_ST.to(dtype), input_precision="ieee")
    out_T = (head * num_blocks + block) * num_new + new_T
    tl.store(peak_ptr + out_T, peak_T, mask=is_new_T)
    tl.store(sum_ptr + out_T, tl.sum(weight_ST, axis=0), mask=is_new_T)
    mixed_at_HT = mixed_ptr + (out_T * head_size)[None, :] + feature_H[:, None]
    tl.store(mixed_at_HT, mixed_HT, mask=is_new_T[None, :] & is_feature_H[:, None])


@triton.jit
def _joined_attention_fwd_kernel(
    mixed_ptr,  # as above
    peak_ptr,
    sum_ptr,
    out_ptr,  # (B, T, N, H), no gaps
    num_heads,
    num_new,
    num_blocks,
    head_size,
    BLOCK_J: tl.constexpr,
    BLOCK_H: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    head, new = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, column = head // num_heads, head % num_heads
    feature_H = tl.arange(0, BLOCK_H)
    is_feature_H = feature_H < head_size
    peak, total, mixed_H = float("-inf"), 0.0, tl.zeros([BLOCK_H], tl.float32)
    for start in range(0, num_blocks, BLOCK_J):
        block_J = start + tl.arange(0, BLOCK_J)
        is_block_J = block_J < num_blocks
        at_J = (head * num_blocks + block_J) * num_new + new
        peak_J = tl.load(peak_ptr + at_J, mask=is_block_J, other=float("-inf"))
        sum_J = tl.load(sum_ptr + at_J, mask=is_block_J, other=0.0)
        at_JH = (at_J * head_size)[:, None] + feature_H[None, :]
        mixed_JH = tl.load(mixed_ptr + at_JH, mask=is_block_J[:, None] & is_feature_H[None, :], other=0.0)
        higher = tl.maximum(peak, tl.max(peak_J, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        kept, share_J = tl.exp(peak - base), tl.exp(peak_J - base)
        total = total * kept + tl.sum(sum_J * share_J, axis=0)
        mixed_H = mixed_H * kept + tl.sum(mixed_JH * share_J[:, None], axis=0)
        peak = higher
    at_H = out_ptr + ((row * num_new + new) * num_heads + column) * head_size + feature_H
    store_rounded(at_H, mixed_H / total, is_feature_H, INTERPRETED)
