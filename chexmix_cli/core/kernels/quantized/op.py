"""Products with weights of 8 or 4 bits on a card, as the decoder's layers call them: checks, choice, registration.

Weight-only: activations stay in their dtype, weights are the whole numbers and scales of ``reference.py`` in the panels
that a CPU's kernels read too. Shape letters: R rows, I inputs, O outputs, P panels, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks, current_device
from chexmix_cli.core.kernels.quantized.panels import PANEL, Panels, restored
from chexmix_cli.core.kernels.quantized.tuning import PIECE, RESTORE, config_for


@torch.no_grad()
def product(x_RI: Tensor, panels: Panels, bias_O: Tensor | None = None, rows: slice | None = None) -> Tensor:
    """Return ``x (scale W)^T + b``, (R, O), in the dtype of the activations; for inference.

    Few rows read packed weights once (Triton); else weights are restored a piece at a time, and multiplied by torch.

    Args:
        x_RI: activations, float32, bfloat16 or float16.
        panels: the weights, on their device.
        bias_O: same dtype, of the outputs that are returned.
        rows: only these outputs.

    Raises:
        ShapeError: if a size, dtype or layout does not fit.

    Numerics: on Triton products of activations and whole numbers are exact and added up in float32, and only then
    scaled; a row's bits do not depend on the rows beside it as long as their number takes the same blocks. Restored
    weights are rounded to the dtype of the activations, as unquantised ones would be.
    """
    first, last, _ = (slice(None) if rows is None else rows).indices(panels.num_out)
    last = max(first, last)
    check(x_RI, panels, bias_O, last - first)
    is_triton = uses_triton(x_RI.device)
    if is_triton and config_for(x_RI.dtype, len(x_RI), len(panels.weight)) is not None:
        with current_device(x_RI):
            y_RO: Tensor = torch.ops.chexmix.quantized_product(x_RI, panels.weight, panels.scale, bias_O, first, last)
        return y_RO
    return piecewise(x_RI, panels, bias_O, first, last, is_triton=is_triton)


def piecewise(x_RI: Tensor, panels: Panels, bias_O: Tensor | None, first: int, last: int, *, is_triton: bool) -> Tensor:
    """Return outputs ``first`` to ``last - 1`` by restored weights: of many rows, and on cards without Triton."""
    y_RO = x_RI.new_empty(len(x_RI), last - first)
    size = max(1, PIECE // (PANEL * panels.num_in))
    for start in range(first // PANEL, blocks(last, PANEL), size):
        part = panels.part(start, start + size)
        offset = start * PANEL
        skipped = max(0, first - offset)
        stop = min(part.num_out, last - offset)
        weight_OI = restored_weights(part, x_RI.dtype) if is_triton else restored(part, x_RI.dtype)
        at = slice(offset + skipped - first, offset + stop - first)
        torch.mm(x_RI, weight_OI[skipped:stop].t(), out=y_RO[:, at])
    return y_RO if bias_O is None else y_RO.add_(bias_O)


def restored_weights(panels: Panels, dtype: torch.dtype) -> Tensor:
    """Return what ``panels.restored`` returns, in one pass on Triton."""
    with current_device(panels.weight):
        weight_OI: Tensor = torch.ops.chexmix.restored_weights(
            panels.weight, panels.scale, panels.num_out, panels.num_in, dtype
        )
    return weight_OI


def check(x_RI: Tensor, panels: Panels, bias_O: Tensor | None, num_out: int) -> None:
    """Raise ShapeError unless these fit each other."""
    has_bias = bias_O is None or (bias_O.dtype == x_RI.dtype and bias_O.shape == (num_out,))
    is_float = x_RI.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if not (panels.is_whole and has_bias and is_float and x_RI.dim() == 2 and x_RI.shape[1] == panels.num_in):
        bias = None if bias_O is None else (tuple(bias_O.shape), bias_O.dtype)
        raise ShapeError(
            f"activations {tuple(x_RI.shape)} {x_RI.dtype}, bias {bias}, weights {tuple(panels.weight.shape)}, "
            f"scales {tuple(panels.scale.shape)}",
            where="quantised product",
            expected=f"(rows, {panels.num_in}) and ({num_out},) of one dtype, float32, bfloat16 or float16",
        )


@torch.library.custom_op("chexmix::quantized_product", mutates_args=())
def _triton_product(
    x_RI: Tensor, weight: Tensor, scale: Tensor, bias_O: Tensor | None, first: int, last: int
) -> Tensor:
    from chexmix_cli.core.kernels.quantized.kernels import _quantized_product_fwd_kernel

    x_RI = x_RI if x_RI.stride(1) == 1 else x_RI.contiguous()
    num_rows, num_inputs = x_RI.shape
    y_RO = torch.empty(num_rows, last - first, dtype=x_RI.dtype, device=x_RI.device)
    if y_RO.numel():
        config = config_for(x_RI.dtype, num_rows, len(weight))
        assert config is not None, f"{num_rows} rows of {x_RI.dtype}"
        grid = (blocks(blocks(last, PANEL) - first // PANEL, config.block_p), blocks(num_rows, config.block_r))
        _quantized_product_fwd_kernel[grid](
            x_RI,
            weight,
            scale,
            x_RI if bias_O is None else bias_O.contiguous(),
            y_RO,
            num_rows,
            num_inputs,
            weight.shape[1],
            first,
            last,
            x_RI.stride(0),
            BITS=8 if scale.dim() == 2 else 4,
            HAS_BIAS=bias_O is not None,
            BLOCK_R=config.block_r,
            BLOCK_P=config.block_p,
            BLOCK_G=config.block_g,
            INTERPRETED=is_interpreted(),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return y_RO


@_triton_product.register_fake
def _(x_RI: Tensor, weight: Tensor, scale: Tensor, bias_O: Tensor | None, first: int, last: int) -> Tensor:
    return x_RI.new_empty(len(x_RI), last - first)


@torch.library.custom_op("chexmix::restored_weights", mutates_args=())
def _triton_restored(weight: Tensor, scale: Tensor, num_out: int, num_in: int, dtype: torch.dtype) -> Tensor:
    from chexmix_cli.core.kernels.quantized.kernels import _restored_weights_fwd_kernel

    number_OI = torch.empty(num_out, num_in, dtype=dtype, device=weight.device)
    if number_OI.numel():
        grid = (blocks(blocks(num_out, PANEL), RESTORE.block_p), blocks(weight.shape[1], RESTORE.block_g))
        _restored_weights_fwd_kernel[grid](
            weight,
            scale,
            number_OI,
            num_out,
            num_in,
            weight.shape[1],
            BITS=8 if scale.dim() == 2 else 4,
            BLOCK_P=RESTORE.block_p,
            BLOCK_G=RESTORE.block_g,
            INTERPRETED=is_interpreted(),
            num_warps=RESTORE.num_warps,
            num_stages=RESTORE.num_stages,
        )
    return number_OI


@_triton_restored.register_fake
def _(weight: Tensor, scale: Tensor, num_out: int, num_in: int, dtype: torch.dtype) -> Tensor:
    return weight.new_empty(num_out, num_in, dtype=dtype)
