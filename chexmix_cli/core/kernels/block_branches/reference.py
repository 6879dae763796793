"""What a block computes between its two products, in plain torch: the definition.

B rows, T new positions, N heads, H head size, D = N H, F width of the other branch, S slots of the cache, R rotary
half.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.kernels.decode_attention import reference as attention
from chexmix_cli.core.kernels.rotary_cache import reference as rotary_cache


def branches(
    fused_BTX: Tensor,
    cos_B1TR: Tensor,
    sin_B1TR: Tensor,
    keys_BNSH: Tensor,
    values_BNSH: Tensor,
    attend_BTS: Tensor | None,
    start: int,
) -> Tensor:
    """Return both branches side by side, (B, T, D + F): attention, and gelu (with tanh) of the rest.

    Keys and values of the new positions are written to slots ``start`` on, in place.

    Args:
        fused_BTX: the first product, X = 3 D + F: queries, keys, values, and what gelu takes.
        cos_B1TR, sin_B1TR: rotary tables; one row serves all, or each has its own.
        keys_BNSH, values_BNSH: one layer's cache.
        attend_BTS: True where a new position may attend among the first ``start + T`` slots; (1, T, S) for all rows
            alike. None: everywhere.
        start: positions that the cache holds already, the same for every row.

    Raises:
        ShapeError: if shapes or dtypes do not fit.
    """
    rows, heads, _, size = keys_BNSH.shape
    end, starts_B = start + fused_BTX.shape[1], torch.full((rows,), start)
    q_BNTH = rotary_cache.rotate_and_cache(fused_BTX, cos_B1TR, sin_B1TR, keys_BNSH, values_BNSH, starts_B)
    mixed_BTNH = attention.attend(q_BNTH, keys_BNSH[:, :, :end], values_BNSH[:, :, :end], attend_BTS)
    return torch.cat((mixed_BTNH.flatten(2), F.gelu(fused_BTX[..., 3 * heads * size :], approximate="tanh")), dim=-1)
