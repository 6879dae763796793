"""The compiled attention: which tensors it takes, and how it is called. ``native.c`` says how it computes.

It has no backward, and computes where no gradient is recorded. Letters as in ``reference.py``.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.kernels.compiled.library import answer, library, torch_is_watched, torch_threads

_LOG = logging.getLogger("chexmix")
#: Most new positions: with more, torch's products of matrices are as fast (docs/performance.md). In bfloat16 those of
#: CPUs with instructions for it are fast sooner.
MOST_NEW = {torch.float32: 16, torch.bfloat16: 4}
#: Numbers of a vector, and the widest head.
LANES, _MOST_SIZE = 8, 256


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "attend", "y")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "new", "places", "size")),
        *((name, ctypes.c_int64 * 3) for name in ("q_stride", "k_stride", "v_stride")),
        ("attend_stride", ctypes.c_int64 * 2),
        ("y_stride", ctypes.c_int64),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("is_bfloat16", "threads")),
        ("run", ctypes.c_void_p),
    )


@cache
def is_usable() -> bool:
    """Return whether the compiled attention runs on this CPU; the log says why it does not."""
    said, problem = answer("chexmix_attends")
    _LOG.info("attention to a cache: %s", f"torch ({problem})" if problem else "native")
    return bool(said)


def takes(q_BNTH: Tensor) -> bool:
    """Return whether the compiled attention computes such queries here; ``CHEXMIX_KERNELS=torch`` says no."""
    return fits(q_BNTH, *q_BNTH.shape[2:]) and not torch_is_watched()


def fits(x: Tensor, num_new: int, size: int) -> bool:
    """Return whether the compiled attention takes so many new positions of heads of a size, of a tensor's kind."""
    has_size = size % LANES == 0 and 0 < size <= _MOST_SIZE
    return num_new <= MOST_NEW.get(x.dtype, 0) and has_size and x.device.type == "cpu" and is_usable()


def mask_layout(attend_BTS: Tensor | None) -> tuple[Tensor | None, Any]:
    """Return a mask whose last dimension lies without gaps, and its other strides, 0 for one row that serves all."""
    if attend_BTS is None:
        return None, (ctypes.c_int64 * 2)(0, 0)
    attend_BTS = attend_BTS if attend_BTS.stride(2) == 1 else attend_BTS.contiguous()
    return attend_BTS, (ctypes.c_int64 * 2)(0 if len(attend_BTS) == 1 else attend_BTS.stride(0), attend_BTS.stride(1))


def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> Tensor:
    """Return the mixed values (B, T, N, H), as ``reference.attend``, of shapes that :func:`takes` and ``check`` took.

    Numerics: scores, exponentials (within 2 units in the last place) and sums in float32. A query's bits depend neither
    on the queries and rows beside it, nor on positions that it does not attend to behind those it does, nor on threads.

    Raises:
        MemoryError: if there is no memory for the scores.
    """
    q_BNTH, k_BNSH, v_BNSH = (x if x.stride(3) == 1 else x.contiguous() for x in (q_BNTH, k_BNSH, v_BNSH))
    attend_BTS, attend_strides = mask_layout(attend_BTS)
    (num_rows, num_heads, num_new, size), num_places = q_BNTH.shape, k_BNSH.shape[2]
    y_BTNH = torch.empty(num_rows, num_new, num_heads, size, dtype=q_BNTH.dtype)
    job = _Job(
        q_BNTH.data_ptr(),
        k_BNSH.data_ptr(),
        v_BNSH.data_ptr(),
        None if attend_BTS is None else attend_BTS.data_ptr(),
        y_BTNH.data_ptr(),
        num_rows,
        num_heads,
        num_new,
        num_places,
        size,
        *((ctypes.c_int64 * 3)(*x.stride()[:3]) for x in (q_BNTH, k_BNSH, v_BNSH)),
        attend_strides,
        num_heads * size,
        size**-0.5,
        q_BNTH.dtype == torch.bfloat16,
        torch.get_num_threads(),
        torch_threads(),
    )
    compiled = library()
    assert not isinstance(compiled, str), compiled
    if y_BTNH.numel() and compiled.chexmix_attend(ctypes.byref(job)) != 0:
        raise MemoryError(f"no memory for the scores of {num_places} positions")
    return y_BTNH
