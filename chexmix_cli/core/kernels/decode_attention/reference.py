"""Attention of new positions to a cache in plain torch: the definition.

B rows, N heads, T new positions, S positions of the cache, H head size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError


def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> Tensor:
    """Return the mixed values (B, T, N, H), scores scaled by the root of H.

    Args:
        q_BNTH: queries, float32, bfloat16 or float16.
        k_BNSH, v_BNSH: keys and values, same dtype.
        attend_BTS: True where a new position may attend, somewhere in every row of the mask; (1, T, S) for all rows
            alike. None: everywhere.

    Raises:
        ShapeError: if shapes or dtypes do not fit.
    """
    check(q_BNTH, k_BNSH, v_BNSH, attend_BTS)
    mask = None if attend_BTS is None else attend_BTS[:, None]
    return F.scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=mask).transpose(1, 2)


def check(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> None:
    """Raise ShapeError unless these fit each other."""
    fits = q_BNTH.dim() == k_BNSH.dim() == 4 and k_BNSH.shape == v_BNSH.shape
    fits = fits and q_BNTH.shape[:2] == k_BNSH.shape[:2] and q_BNTH.shape[3] == k_BNSH.shape[3]
    fits = fits and q_BNTH.dtype == k_BNSH.dtype == v_BNSH.dtype
    if fits and attend_BTS is not None:
        rows, new, places = len(q_BNTH), q_BNTH.shape[2], k_BNSH.shape[2]
        fits = attend_BTS.element_size() == 1 and attend_BTS.shape in ((1, new, places), (rows, new, places))
    if not fits:
        tensors = (q_BNTH, k_BNSH, v_BNSH, *(() if attend_BTS is None else (attend_BTS,)))
        raise ShapeError(
            ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in tensors),
            where="decode attention",
            expected="(B, N, T, H), two (B, N, S, H) of one dtype, and a mask (B or 1, T, S)",
        )
