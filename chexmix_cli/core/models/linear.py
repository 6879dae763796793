"""Products of activations with a weight matrix, each in the fastest way the CPU at hand has.

A report is decoded a token a pass, and a pass is bound by reading the weights. What torch's CPU library reads them fast
in depends on the instructions and on the number of rows, so the choice is made here, once, for the whole decoder:

- bfloat16 on a CPU that multiplies in it (AVX512-BF16, AMX): one row alone takes a slow path (8 GB/s against 15 to 17
  for two to eight rows, on an EPYC with AVX512-BF16), so one row is computed as two.
- bfloat16 on a CPU that does not: one row is fine, more cost as many times as much (on an EPYC with AVX2 eight rows
  7 x one), and a prompt ten times as much as in float32. So from three rows on the weights are widened to float32 a
  piece at a time, small enough to stay in the cache, and multiplied there (eight rows 3 to 4 x one). Exact: every
  bfloat16 is a float32, and only the result is rounded.
- float32, two to eight rows: faster with the weights as the left factor (four rows 2 x one, against 5 x).
- 8-bit weights, up to eight rows: torch's weight-only product, activations in bfloat16 (0.7 of the time of a bfloat16
  row). More rows: 8-bit activations, scaled row by row, where the CPU multiplies 8-bit numbers; else widened as above.

Shape letters: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.runtime import has_cpu_bfloat16, has_cpu_int8

#: Rows up to which a product counts as bound by its weights.
FEW_ROWS = 8
#: Rows up to which bfloat16 without instructions for it is fast enough as it is.
_DIRECT_ROWS = 2
#: Numbers of the weights widened at a time: 4 MiB stay in a cache; many rows, read again for each piece, want more.
_PIECE, _LARGE_PIECE = 1 << 20, 1 << 23
#: torch's weight-only product reads beyond rows whose length is not a multiple of its vectors (16 numbers with AVX512).
_VECTOR = 32
#: Steps of a symmetric 8-bit number on either side of zero.
_STEPS = 127


class Linear(nn.Linear):
    """A linear layer whose products take the fastest way; its parameters are those of ``nn.Linear``."""

    def forward(self, x: Tensor, bias_O: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Return ``x W^T + b`` (..., O) of activations (..., I).

        Args:
            x: activations.
            bias_O: instead of the layer's own.
            rows: only these rows of the weights, with their biases.
        """
        bias_O = self.bias if bias_O is None else bias_O
        if rows is None:
            return product(x, self.weight, bias_O)
        return product(x, self.weight[rows], bias_O if bias_O is None else bias_O[rows])


class Int8Linear(nn.Module):
    """A linear layer of 8-bit weights with a scale a row, for inference on a CPU; call as :class:`Linear`.

    Args:
        like: gives shape and bias; its weights are not taken (see :func:`quantize_rows`).
    """

    def __init__(self, like: Linear) -> None:
        super().__init__()
        device = like.weight.device
        self.register_buffer("weight", torch.empty(like.weight.shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(like.out_features, dtype=torch.float32, device=device))
        self.bias = like.bias

    weight: Tensor
    scale: Tensor

    def forward(self, x: Tensor, bias_O: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Return ``x W^T + b``; arguments as :meth:`Linear.forward`."""
        bias_O = self.bias if bias_O is None else bias_O
        if rows is None:
            return int8_product(x, self.weight, self.scale, bias_O)
        return int8_product(x, self.weight[rows], self.scale[rows], bias_O if bias_O is None else bias_O[rows])


def product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` (..., O) in the dtype of ``x`` (..., I); ``F.linear`` where gradients are recorded."""
    if torch.is_grad_enabled() or weight_OI.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight_OI, bias_O)
    num_rows = x.numel() // x.shape[-1]
    if weight_OI.dtype == torch.bfloat16:
        if num_rows == 1 and has_cpu_bfloat16():
            return F.linear(x.reshape(1, -1).expand(2, -1), weight_OI, bias_O)[0].view(*x.shape[:-1], -1)
        if num_rows > _DIRECT_ROWS and not has_cpu_bfloat16():
            return _widened(x, weight_OI, None, bias_O)
    if weight_OI.dtype == torch.float32 and 1 < num_rows <= FEW_ROWS:
        y_RO = torch.mm(weight_OI, x.reshape(num_rows, -1).t()).t().contiguous()
        return (y_RO if bias_O is None else y_RO.add_(bias_O)).view(*x.shape[:-1], -1)
    return F.linear(x, weight_OI, bias_O)


def int8_product(x: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x (scale W)^T + b`` (..., O) in the dtype of ``x`` (..., I), for weights int8 and scales float32."""
    num_rows = x.numel() // x.shape[-1]
    x_RI = x.reshape(num_rows, -1)
    if num_rows <= FEW_ROWS and x_RI.shape[1] % _VECTOR == 0:
        # Scales of 1: this product takes them in bfloat16 only, and a rounded scale shifts its whole row.
        ones_O = torch.ones(len(scale_O), dtype=torch.bfloat16)
        y_RO = torch.ops.aten._weight_int8pack_mm(x_RI.bfloat16(), weight_OI, ones_O).float().mul_(scale_O)
    elif has_cpu_int8() and x_RI.shape[1] > 1:  # of one column torch's product makes nonsense (2.13, AVX512-VNNI)
        step_R1 = (x_RI.float().abs().amax(dim=1, keepdim=True) / _STEPS).clamp_(min=torch.finfo(torch.float32).tiny)
        steps_RI = (x_RI / step_R1).round_().to(torch.int8)
        y_RO = torch._int_mm(steps_RI, weight_OI.t()).float().mul_(step_R1).mul_(scale_O)
    else:
        return _widened(x, weight_OI, scale_O, bias_O)
    return _finished(y_RO, bias_O, x)


def _widened(x: Tensor, weight_OI: Tensor, scale_O: Tensor | None, bias_O: Tensor | None) -> Tensor:
    """Return the product computed in float32, the weights widened a piece of rows at a time."""
    num_out, num_in = weight_OI.shape
    x_RI = x.reshape(-1, num_in).float()
    size = max(1, (_PIECE if len(x_RI) <= 4 * FEW_ROWS else _LARGE_PIECE) // num_in)
    piece_PI = torch.empty(min(size, num_out), num_in)
    y_RO = torch.empty(len(x_RI), num_out)
    for start in range(0, num_out, size):
        part_PI = weight_OI[start : start + size]
        torch.mm(x_RI, piece_PI[: len(part_PI)].copy_(part_PI).t(), out=y_RO[:, start : start + size])
    if scale_O is not None:
        y_RO.mul_(scale_O)
    return _finished(y_RO, bias_O, x)


def _finished(y_RO: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    """Return a float32 product with its bias, in the shape and dtype that belong to activations ``x``."""
    if bias_O is not None:
        y_RO.add_(bias_O)
    return y_RO.to(x.dtype).view(*x.shape[:-1], -1)


def quantize_rows(weight_OI: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Return 8-bit weights (O, I) and the float32 scale (O,) of each row: symmetric, the largest number is 127 steps.

    Args:
        weight_OI: floating point, any dtype.
        where: the parameter's name, for the message.

    Raises:
        WeightsError: if a weight is not finite; 8 bits cannot express that, and reports would be written nevertheless.
    """
    # Not abs(): of a head that would be a second matrix of its size.
    scale_O = torch.maximum(weight_OI.amax(dim=1), -weight_OI.amin(dim=1)).float() / _STEPS
    if not bool(scale_O.isfinite().all()):
        raise WeightsError("holds numbers that are not finite", where=where, hint="chexmix weights check")
    divisor_O1 = torch.where(scale_O > 0, scale_O, 1.0)[:, None]  # a row of zeros stays one
    weight_8 = torch.empty(weight_OI.shape, dtype=torch.int8)
    size = max(1, _LARGE_PIECE // weight_OI.shape[1])
    for start in range(0, len(weight_OI), size):
        rows = slice(start, start + size)
        weight_8[rows] = (weight_OI[rows].float() / divisor_O1[rows]).round_()
    return weight_8, scale_O
