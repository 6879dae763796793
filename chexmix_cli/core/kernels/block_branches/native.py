"""The compiled branches of a block: what they take, and how they are called. ``native.c`` says why they are one call.

They have no backward, and compute where no gradient is recorded. Letters as in ``reference.py``.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.compiled.library import library, torch_is_watched, torch_threads
from chexmix_cli.core.kernels.decode_attention import native as attention


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("fused", "cos", "sin", "keys", "values", "attend", "y")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "new", "start", "size", "half", "mlp", "table_stride")),
        ("cache_stride", ctypes.c_int64 * 3),
        ("attend_stride", ctypes.c_int64 * 2),
        ("scale", ctypes.c_float),
        ("threads", ctypes.c_int32),
        ("run", ctypes.c_void_p),
    )


def takes(fused_BTX: Tensor, width: int, size: int) -> bool:
    """Return whether the compiled branches compute such a product here; ``CHEXMIX_KERNELS=torch`` says no.

    In float32, for as many new positions as the compiled attention takes.

    Args:
        fused_BTX: the product.
        width: of all heads together.
        size: of a head.
    """
    has_vectors = (fused_BTX.shape[2] - 3 * width) % attention.LANES == 0
    fits = fused_BTX.dtype == torch.float32 and fused_BTX.is_contiguous() and has_vectors
    return fits and attention.fits(fused_BTX, fused_BTX.shape[1], size) and not torch_is_watched()


def branches(
    fused_BTX: Tensor,
    cos_B1TR: Tensor,
    sin_B1TR: Tensor,
    keys_BNSH: Tensor,
    values_BNSH: Tensor,
    attend_BTS: Tensor | None,
    start: int,
) -> Tensor:
    """Return both branches (B, T, D + F) and write the cache, as ``reference.branches``, of what :func:`takes` took.

    Numerics: keys and values have torch's bits; attention as ``decode_attention.native.attend`` says; gelu is within
    some units in the last place. The bits of a position depend on no position or row beside it, and not on threads.

    Raises:
        ShapeError: if shapes, dtypes or layouts do not fit.
        MemoryError: if there is no memory for queries and scores.
    """
    rows, heads, slots, size = keys_BNSH.shape
    num_new, half, width = fused_BTX.shape[1], cos_B1TR.shape[3], heads * size
    mlp, end = fused_BTX.shape[2] - 3 * width, start + num_new
    tables, caches = (cos_B1TR, sin_B1TR), (keys_BNSH, values_BNSH)
    fits = all(x.shape in ((1, 1, num_new, half), (rows, 1, num_new, half)) and x.is_contiguous() for x in tables)
    fits = fits and cos_B1TR.shape == sin_B1TR.shape and 2 * half <= size and mlp >= 0 and 0 <= start <= end <= slots
    fits = fits and len(fused_BTX) == rows and keys_BNSH.stride() == values_BNSH.stride() and keys_BNSH.stride(3) == 1
    fits = fits and keys_BNSH.shape == values_BNSH.shape and {x.dtype for x in (*tables, *caches)} == {fused_BTX.dtype}
    if attend_BTS is not None:
        fits = fits and attend_BTS.element_size() == 1 and attend_BTS.shape in ((1, num_new, end), (rows, num_new, end))
    if not fits:
        tensors = (fused_BTX, *tables, *caches, *(() if attend_BTS is None else (attend_BTS,)))
        raise ShapeError(
            ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in tensors) + f" from {start} on",
            where="block branches",
            expected="(B, T, X), two whole (B or 1, 1, T, R), two (B, N, S, H), and a mask (B or 1, T, start + T)",
        )
    y_BTX = torch.empty(rows, num_new, width + mlp)
    attend_BTS, attend_strides = attention.mask_layout(attend_BTS)
    job = _Job(
        *(x.data_ptr() for x in (fused_BTX, *tables, *caches)),
        None if attend_BTS is None else attend_BTS.data_ptr(),
        y_BTX.data_ptr(),
        rows,
        heads,
        num_new,
        start,
        size,
        half,
        mlp,
        0 if len(cos_B1TR) == 1 else num_new * half,
        (ctypes.c_int64 * 3)(*keys_BNSH.stride()[:3]),
        attend_strides,
        size**-0.5,
        torch.get_num_threads(),
        torch_threads(),
    )
    compiled = library()
    assert not isinstance(compiled, str), compiled
    if y_BTX.numel() and compiled.chexmix_branches(ctypes.byref(job)) != 0:
        raise MemoryError(f"no memory for queries and the scores of {end} positions")
    return y_BTX
