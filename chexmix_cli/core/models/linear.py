"""Products of activations with a weight matrix, each in the fastest way the CPU at hand has.

A report is decoded a token a pass, and a pass is bound by reading the weights. What torch's CPU library reads them fast
in depends on the instructions and on the number of rows, so the choice is made here, once, for the whole decoder:

- bfloat16 on a CPU that multiplies in it (AVX512-BF16, AMX): one row alone takes a slow path (8 GB/s against 15 to 17
  for two to eight rows, on an EPYC with AVX512-BF16), so one row is computed as two.
- bfloat16 on a CPU that does not: one row is fine, more cost as many times as much (on an EPYC with AVX2 eight rows
  7 x one), and a prompt ten times as much as in float32. So from three rows on the weights are widened to float32 a
  piece at a time, small enough to stay in the cache, and multiplied there (eight rows 3 to 4 x one). Exact: every
  bfloat16 is a float32, and only the result is rounded.
- float32, a few rows: faster with the weights as the left factor (on an EPYC with AVX2 four rows 2 x one, against 5 x);
  but for two rows where there is AVX512: on a Xeon that took twice as long as torch's own product, on an EPYC 0.85 of
  it. ``python benchmarks/products.py --tried`` measures both; docs/performance.md has the figures of three machines.

Weights of 8 and 4 bits have layers of their own (``quantized.py``).

Shape letters: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.runtime import has_cpu_avx512, has_cpu_bfloat16

#: Rows up to which a product counts as bound by its weights.
FEW_ROWS = 8
#: Rows up to which bfloat16 without instructions for it is fast enough as it is.
_DIRECT_ROWS = 2
#: Numbers of the weights widened at a time: 4 MiB stay in a cache; many rows, read again for each piece, want more.
_PIECE, _LARGE_PIECE = 1 << 20, 1 << 23


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


def product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b`` (..., O) in the dtype of ``x`` (..., I); ``F.linear`` where gradients are recorded."""
    if torch.is_grad_enabled() or weight_OI.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight_OI, bias_O)
    num_rows = x.numel() // x.shape[-1]
    if weight_OI.dtype == torch.bfloat16:
        if num_rows == 1 and has_cpu_bfloat16():
            return F.linear(x.reshape(1, -1).expand(2, -1), weight_OI, bias_O)[0].view(*x.shape[:-1], -1)
        if num_rows > _DIRECT_ROWS and not has_cpu_bfloat16():
            return widened(x, weight_OI, None, bias_O)
    is_left_faster = 1 < num_rows <= FEW_ROWS and not (num_rows == 2 and has_cpu_avx512())
    if weight_OI.dtype == torch.float32 and is_left_faster:
        y_RO = torch.mm(weight_OI, x.reshape(num_rows, -1).t()).t().contiguous()
        return (y_RO if bias_O is None else y_RO.add_(bias_O)).view(*x.shape[:-1], -1)
    return F.linear(x, weight_OI, bias_O)


def widened(x: Tensor, weight_OI: Tensor, scale_O: Tensor | None, bias_O: Tensor | None) -> Tensor:
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
    return finished(y_RO, bias_O, x)


def finished(y_RO: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    """Return a float32 product with its bias, in the shape and dtype that belong to activations ``x``."""
    if bias_O is not None:
        y_RO.add_(bias_O)
    return y_RO.to(x.dtype).view(*x.shape[:-1], -1)
