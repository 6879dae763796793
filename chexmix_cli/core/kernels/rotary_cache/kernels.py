"""Partial rotary embedding and cache write, one pass: every value is read once, rotated in float32, written once.

Shape letters as in ``reference.py``.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.rounding.kernels import store_rounded


@triton.jit
def _rotated(base_ptr, head_N, feature_H, mask_NH, cos_H, sin_H, half, head_size):
    """Return the heads at ``base_ptr``, rotated, float32."""
    offset_NH = head_N[:, None] * head_size + feature_H[None, :]
    x_NH = tl.load(base_ptr + offset_NH, mask=mask_NH, other=0.0).to(tl.float32)
    is_first_H = feature_H < half
    partner_H = tl.where(is_first_H, half, -half)
    is_rotated_NH = mask_NH & (feature_H < 2 * half)[None, :]
    # The partner's line is in the cache already: it is the same memory.
    other_NH = tl.load(base_ptr + offset_NH + partner_H[None, :], mask=is_rotated_NH, other=0.0).to(tl.float32)
    signed_H = tl.where(is_first_H, -sin_H, sin_H)
    return tl.where(is_rotated_NH, x_NH * cos_H[None, :] + other_NH * signed_H[None, :], x_NH)


@triton.jit
def _rotary_cache_fwd_kernel(
    fused_ptr,  # (B, T, X), features contiguous
    cos_ptr,  # (B or 1, 1, T, R), features contiguous
    sin_ptr,  # as cos
    start_ptr,  # (B,) int64
    q_ptr,  # (B, N, T, H), no gaps
    keys_ptr,  # (B, N, S, H), features contiguous
    values_ptr,  # as keys
    num_new,
    num_heads,
    head_size,
    half,
    stride_fb,
    stride_ft,
    stride_cb,  # 0 where one row serves all
    stride_ct,
    stride_kb,
    stride_kn,
    stride_ks,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    row, place = token // num_new, token % num_new
    head_N = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    feature_H = tl.arange(0, BLOCK_H)
    mask_NH = (head_N < num_heads)[:, None] & (feature_H < head_size)[None, :]
    angle_H = tl.where(feature_H < half, feature_H, feature_H - half)
    table = row * stride_cb + place * stride_ct
    is_angle_H = feature_H < 2 * half
    cos_H = tl.load(cos_ptr + table + angle_H, mask=is_angle_H, other=1.0).to(tl.float32)
    sin_H = tl.load(sin_ptr + table + angle_H, mask=is_angle_H, other=0.0).to(tl.float32)
    base = fused_ptr + row * stride_fb + place * stride_ft
    width = num_heads * head_size
    q_NH = _rotated(base, head_N, feature_H, mask_NH, cos_H, sin_H, half, head_size)
    q_offset_N = ((row * num_heads + head_N) * num_new + place) * head_size
    store_rounded(q_ptr + q_offset_N[:, None] + feature_H[None, :], q_NH, mask_NH, INTERPRETED)
    slot = tl.load(start_ptr + row) + place
    cache_NH = (row * stride_kb + head_N * stride_kn + slot * stride_ks)[:, None] + feature_H[None, :]
    k_NH = _rotated(base + width, head_N, feature_H, mask_NH, cos_H, sin_H, half, head_size)
    store_rounded(keys_ptr + cache_NH, k_NH, mask_NH, INTERPRETED)
    v_offset_NH = 2 * width + head_N[:, None] * head_size + feature_H[None, :]
    v_NH = tl.load(base + v_offset_NH, mask=mask_NH, other=0.0).to(tl.float32)
    store_rounded(values_ptr + cache_NH, v_NH, mask_NH, INTERPRETED)
