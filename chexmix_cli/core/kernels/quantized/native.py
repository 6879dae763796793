"""The compiled products. ``native.c`` says how weights lie in memory, and why.

Without a compiler at installation there is no library, and on other CPUs than x86-64 with AVX2 none that runs; callers
ask :func:`uses_native` and have another way.

Shape letters: R rows, I inputs, O outputs, P panels of 16 outputs, G groups of 32 inputs.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import asked_for
from chexmix_cli.core.kernels.compiled.library import answer, library, torch_threads
from chexmix_cli.core.kernels.quantized.panels import Panels

_LOG = logging.getLogger("chexmix")
#: Levels of ``native.c`` by name.
LEVELS = {"AVX2": 1, "AVX-VNNI": 2, "AVX512-VNNI": 3}


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "scale", "bias", "y")),
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "first", "last")),
        *((name, ctypes.c_int32) for name in ("bits", "level", "threads")),
        ("run", ctypes.c_void_p),
    )


def uses_native() -> bool:
    """Return whether the compiled kernels run here; ``CHEXMIX_KERNELS=torch`` says no."""
    return asked_for() != "torch" and best_level() > 0


@cache
def usable_levels() -> dict[str, int]:
    """Return those of ``LEVELS`` that this CPU has, none if nothing of the kind runs here; the log says why.

    A CPU may lack one between two that it has: many with AVX512-VNNI have no AVX-VNNI.
    """
    has, problem = answer("chexmix_levels")
    usable = {name: level for name, level in LEVELS.items() if has >> level & 1}
    _LOG.info("quantised products: %s", f"torch ({problem})" if problem else f"native, {[*usable][-1]}")
    return usable


def best_level() -> int:
    """Return the best of :func:`usable_levels`, or 0."""
    return max(usable_levels().values(), default=0)


def product(
    x_RI: Tensor, panels: Panels, bias_O: Tensor | None = None, rows: slice | None = None, *, level: int | None = None
) -> Tensor:
    """Return ``x (scale W)^T + b``, (R, O) float32, as ``reference.product``.

    Numerics: bits do not depend on the rows beside a row, on ``rows``, on threads or instructions.

    Args:
        x_RI: float32, whole rows in memory.
        panels: the weights.
        bias_O: float32, of the outputs that are returned.
        rows: only these outputs.
        level: one of :func:`usable_levels`; default: the best.

    Raises:
        ShapeError: if a size, dtype or layout does not fit.
        MemoryError: if there is no memory for the activations as bytes.
    """
    level = best_level() if level is None else level
    assert level in usable_levels().values(), f"this CPU has no level {level}"
    first, last, _ = (slice(None) if rows is None else rows).indices(panels.num_out)
    last = max(first, last)
    _check(x_RI, panels, bias_O, last - first)
    y_RO = torch.empty(len(x_RI), last - first)
    job = _Job(
        x_RI.data_ptr(),
        panels.weight.data_ptr(),
        panels.scale.data_ptr(),
        None if bias_O is None else bias_O.data_ptr(),
        y_RO.data_ptr(),
        len(x_RI),
        panels.num_in,
        first,
        last,
        panels.bits,
        level,
        torch.get_num_threads(),
        torch_threads(),
    )
    compiled = library()
    assert not isinstance(compiled, str), compiled
    if y_RO.numel() and compiled.chexmix_product(ctypes.byref(job)) != 0:
        raise MemoryError(f"no memory for {x_RI.numel()} activations")
    return y_RO


def _check(x_RI: Tensor, panels: Panels, bias_O: Tensor | None, num_out: int) -> None:
    """Raise ShapeError for what the library would read past, or read as something else."""
    fits = x_RI.dtype == torch.float32 and x_RI.dim() == 2 and x_RI.shape[1] == panels.num_in and x_RI.is_contiguous()
    has_bias = bias_O is None or (
        bias_O.dtype == torch.float32 and bias_O.shape == (num_out,) and bias_O.is_contiguous()
    )
    if not (fits and has_bias and panels.is_whole):
        bias = None if bias_O is None else (tuple(bias_O.shape), bias_O.dtype)
        raise ShapeError(
            f"activations {tuple(x_RI.shape)} {x_RI.dtype}, bias {bias}, weights {tuple(panels.weight.shape)}",
            where="quantised product",
            expected=f"float32 (rows, {panels.num_in}) and ({num_out},), contiguous",
        )
