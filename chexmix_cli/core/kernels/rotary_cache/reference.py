"""Partial rotary embedding and cache write in plain torch: the definition.

B rows, T new positions, S slots of the cache, N heads, H head size, R rotary half, X width of the fused product, whose
first three times N H features are queries, keys and values (their bias is in it already: products add it for nothing).
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError


def rotate_and_cache(
    fused_BTX: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, keys_BNSH: Tensor, values_BNSH: Tensor, start_B: Tensor
) -> Tensor:
    """Return the rotated queries, (B, N, T, H); write rotated keys and values to slots ``start`` on, in place.

    Args:
        fused_BTX: the product, float32, bfloat16 or float16; the features of a position side by side.
        cos_B1TR, sin_B1TR: rotary tables, same dtype; one row serves all, or each has its own. Feature i of a head is
            paired with i + R; those from 2 R on pass through.
        keys_BNSH, values_BNSH: one layer's cache, same dtype; the features of a slot side by side.
        start_B: slot of each row's first new position, int64; that T slots are left is not checked: on a GPU that
            would wait for it.

    Raises:
        ShapeError: if shapes or dtypes do not fit.
    """
    check(fused_BTX, cos_B1TR, sin_B1TR, keys_BNSH, values_BNSH, start_B)
    num_rows, num_heads, _, head_size = keys_BNSH.shape
    num_new, half = fused_BTX.shape[1], cos_B1TR.shape[-1]
    qkv = fused_BTX[..., : 3 * num_heads * head_size].view(num_rows, num_new, 3, num_heads, head_size)
    q_BNTH, k_BNTH, v_BNTH = qkv.permute(2, 0, 3, 1, 4)
    rotated = []
    for x in (q_BNTH, k_BNTH):
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        parts = (first * cos_B1TR - second * sin_B1TR, second * cos_B1TR + first * sin_B1TR, rest)
        rotated.append(torch.cat(parts, dim=-1))
    slot_BT = start_B[:, None] + torch.arange(num_new, device=start_B.device)
    row_B1 = torch.arange(num_rows, device=start_B.device)[:, None]
    keys_BNSH[row_B1, :, slot_BT] = rotated[1].transpose(1, 2)
    values_BNSH[row_B1, :, slot_BT] = v_BNTH.transpose(1, 2)
    return rotated[0]


def check(
    fused_BTX: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, keys_BNSH: Tensor, values_BNSH: Tensor, start_B: Tensor
) -> None:
    """Raise ShapeError unless these fit each other."""
    tensors = (fused_BTX, cos_B1TR, sin_B1TR, keys_BNSH, values_BNSH)
    fits = [x.ndim for x in tensors] == [3, 4, 4, 4, 4] and keys_BNSH.shape == values_BNSH.shape
    fits = fits and cos_B1TR.shape == sin_B1TR.shape and start_B.shape == fused_BTX.shape[:1]
    if fits:
        rows, heads, slots, size = keys_BNSH.shape
        fits = fused_BTX.shape[0] == rows and fused_BTX.shape[2] >= 3 * heads * size and fused_BTX.shape[1] <= slots
        fits = fits and cos_B1TR.shape[:3] in ((1, 1, fused_BTX.shape[1]), (rows, 1, fused_BTX.shape[1]))
        fits = fits and 2 * cos_B1TR.shape[3] <= size
    if not fits or len({x.dtype for x in tensors}) > 1 or start_B.dtype != torch.int64:
        raise ShapeError(
            ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in (*tensors, start_B)),
            where="rotary cache",
            expected="(B, T, X), two (B or 1, 1, T, R), two (B, N, S, H) of one dtype, and (B,) int64",
        )
