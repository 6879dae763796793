"""Products with weights of 8 or 4 bits on a card: packed weights are read once, and summed in float32.

Weights lie in panels (``panels.py``). Whole numbers are exact in every dtype of activations, so the matrix unit
multiplies them as they are: the scale of a row is applied to its sum, that of a group of 32 inputs to the group's. A
group's two halves are two steps of the matrix unit, weights on the left: 16 outputs are one of its blocks, and few rows
of activations fill the side that can be narrow. Groups are a third dimension of the blocks, shared among warps.

P panels, O outputs, G groups, K inputs of half a group, R rows.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.rounding.kernels import store_rounded


@triton.jit
def _numbers(unsigned, BITS: tl.constexpr, dtype: tl.constexpr):
    """Return stored numbers, uint8 and above 0, as what they stand for."""
    offset: tl.constexpr = 1 << (BITS - 1)
    if dtype == tl.float16:
        # The bits of 1024 + n: no conversion, which is slow.
        return (unsigned.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - (1024.0 + offset)
    elif dtype == tl.bfloat16 and BITS == 4:
        # Of 128 + n: 8 bits do not fit behind bfloat16's.
        return (unsigned.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True) - (128.0 + offset)
    else:
        return ((unsigned ^ offset).to(tl.int8, bitcast=True) if BITS == 8 else unsigned.to(tl.int8) - offset).to(dtype)


@triton.jit
def _halves(
    weight_ptr,
    panel_P,
    is_panel_P,
    start,
    num_groups,
    BITS: tl.constexpr,
    dtype: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Return both halves of some groups as numbers, each (BLOCK_G, 16 BLOCK_P, 16): groups, outputs, inputs."""
    HALF: tl.constexpr = 256  # a byte for each number of half a group
    STRIDE: tl.constexpr = 64 * BITS  # bytes of a group
    byte_B = tl.arange(0, BLOCK_G * HALF)
    at_B = start * STRIDE + byte_B // HALF * STRIDE + byte_B % HALF
    at_PB = weight_ptr + (panel_P.to(tl.int64) * num_groups * STRIDE)[:, None] + at_B[None, :]
    # Beyond the last group weights may be anything, since activations there are 0.
    is_there_PB = is_panel_P[:, None] & (at_B < num_groups * STRIDE)[None, :]
    low_PB = tl.load(at_PB, mask=is_there_PB)
    if BITS == 4:
        high_PB = low_PB >> 4
        low_PB = low_PB & 15
    else:
        high_PB = tl.load(at_PB + HALF, mask=is_there_PB)
    low, high = _numbers(low_PB, BITS, dtype), _numbers(high_PB, BITS, dtype)
    # Memory's order is (panel, group, four inputs, output, input).
    low = tl.permute(tl.reshape(low, (BLOCK_P, BLOCK_G, 4, 16, 4)), (1, 0, 3, 2, 4))
    high = tl.permute(tl.reshape(high, (BLOCK_P, BLOCK_G, 4, 16, 4)), (1, 0, 3, 2, 4))
    shape: tl.constexpr = (BLOCK_G, 16 * BLOCK_P, 16)
    return tl.reshape(low, shape), tl.reshape(high, shape)


@triton.jit
def _group_scale(scale_ptr, out_O, is_out_O, group_G, num_groups):
    """Return the scales of 4 bits, (G, O) float32."""
    at_GO = ((out_O // 16).to(tl.int64) * num_groups * 16 + out_O % 16)[None, :] + group_G[:, None] * 16
    is_there_GO = (group_G < num_groups)[:, None] & is_out_O[None, :]
    return tl.load(scale_ptr + at_GO, mask=is_there_GO, other=0.0).to(tl.float32)


@triton.jit
def _quantized_product_fwd_kernel(
    x_ptr,  # (R, I), any row stride, inputs contiguous
    weight_ptr,  # (panels, groups, 512 or 256) uint8
    scale_ptr,  # (panels, 16) float32, or (panels, groups, 16) bfloat16
    bias_ptr,  # (last - first,); not read without HAS_BIAS
    y_ptr,  # (R, last - first), no gaps
    num_rows,
    num_inputs,
    num_groups,
    first,  # outputs to compute, from first to last - 1
    last,
    stride_xr,
    BITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    INTERPRETED: tl.constexpr,  # numbers widened: as in nearest_code/kernels.py
):
    BLOCK_O: tl.constexpr = 16 * BLOCK_P
    dtype: tl.constexpr = (
        tl.float32 if INTERPRETED and x_ptr.dtype.element_ty == tl.bfloat16 else x_ptr.dtype.element_ty
    )
    start_P = first // 16 + tl.program_id(0) * BLOCK_P
    panel_P, out_O = start_P + tl.arange(0, BLOCK_P), start_P * 16 + tl.arange(0, BLOCK_O)
    row_R = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_row_R, is_panel_P, is_out_O = row_R < num_rows, panel_P * 16 < last, out_O < last
    sum_GOR = tl.zeros([BLOCK_G, BLOCK_O, BLOCK_R], tl.float32)
    for start in range(0, num_groups, BLOCK_G):
        group_G = start + tl.arange(0, BLOCK_G)
        input_GK = group_G[:, None] * 32 + tl.arange(0, 16)[None, :]
        at_GKR = x_ptr + input_GK[:, :, None] + (row_R.to(tl.int64) * stride_xr)[None, None, :]
        is_low_GKR = (input_GK < num_inputs)[:, :, None] & is_row_R[None, None, :]
        is_high_GKR = (input_GK + 16 < num_inputs)[:, :, None] & is_row_R[None, None, :]
        x_low_GKR = tl.load(at_GKR, mask=is_low_GKR, other=0.0).to(dtype)
        x_high_GKR = tl.load(at_GKR + 16, mask=is_high_GKR, other=0.0).to(dtype)
        low_GOK, high_GOK = _halves(weight_ptr, panel_P, is_panel_P, start, num_groups, BITS, dtype, BLOCK_P, BLOCK_G)
        if BITS == 4:
            part_GOR = tl.dot(low_GOK, x_low_GKR, input_precision="ieee")
            part_GOR = tl.dot(high_GOK, x_high_GKR, part_GOR, input_precision="ieee")
            sum_GOR += part_GOR * _group_scale(scale_ptr, out_O, is_out_O, group_G, num_groups)[:, :, None]
        else:
            sum_GOR = tl.dot(low_GOK, x_low_GKR, sum_GOR, input_precision="ieee")
            sum_GOR = tl.dot(high_GOK, x_high_GKR, sum_GOR, input_precision="ieee")
    y_OR = tl.sum(sum_GOR, axis=0)
    if BITS == 8:
        y_OR *= tl.load(scale_ptr + out_O, mask=is_out_O, other=0.0)[:, None]
    is_out_O &= out_O >= first
    if HAS_BIAS:
        y_OR += tl.load(bias_ptr + out_O - first, mask=is_out_O, other=0.0).to(tl.float32)[:, None]
    at_OR = y_ptr + (row_R.to(tl.int64) * (last - first))[None, :] + (out_O - first)[:, None]
    store_rounded(at_OR, y_OR, is_out_O[:, None] & is_row_R[None, :], INTERPRETED)


@triton.jit
def _restored_weights_fwd_kernel(
    weight_ptr,  # as above
    scale_ptr,
    number_ptr,  # (num_out, I), no gaps
    num_out,
    num_inputs,
    num_groups,
    BITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    panel_P = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    out_O = tl.program_id(0) * 16 * BLOCK_P + tl.arange(0, 16 * BLOCK_P)
    start = tl.program_id(1) * BLOCK_G
    group_G, is_out_O = start + tl.arange(0, BLOCK_G), out_O < num_out
    low_GOK, high_GOK = _halves(
        weight_ptr, panel_P, panel_P * 16 < num_out, start, num_groups, BITS, tl.float32, BLOCK_P, BLOCK_G
    )
    if BITS == 4:
        scale_GO1 = _group_scale(scale_ptr, out_O, is_out_O, group_G, num_groups)[:, :, None]
    else:
        scale_GO1 = tl.load(scale_ptr + out_O, mask=is_out_O, other=0.0)[None, :, None]
    input_G1K = group_G[:, None, None] * 32 + tl.arange(0, 16)[None, None, :]
    at_GOK = number_ptr + (out_O.to(tl.int64) * num_inputs)[None, :, None] + input_G1K
    is_out_1O1 = is_out_O[None, :, None]
    store_rounded(at_GOK, low_GOK * scale_GO1, is_out_1O1 & (input_G1K < num_inputs), INTERPRETED)
    store_rounded(at_GOK + 16, high_GOK * scale_GO1, is_out_1O1 & (input_G1K + 16 < num_inputs), INTERPRETED)
