"""Products of activations with weights of 8 or 4 bits in plain torch: the definition of what ``native.c`` computes.

Weights are whole numbers times a scale: of 8 bits, from -127 to 127, with a scale for each output; of 4 bits, from -8
to 7, with a scale for each group of 32 inputs of each output. Activations become whole numbers from -127 to 127 with a
scale for each group of 32 inputs of each row (as llama.cpp's Q8_0 has them), so one large activation costs its
neighbours precision, not the whole row, and what else is computed beside a row has no influence on it. A group's
product is a sum of whole numbers, so exact; the groups are added up in float32, in their order.

Shape letters: R rows, I inputs, O outputs, G groups, K inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import WeightsError

#: Inputs that share a scale.
GROUP = 32
#: Numbers of the weights that are computed with at a time: they stay in a cache.
PIECE = 1 << 20
#: Activations that are smaller than this in a whole group count as 0: their scale's inverse would not be finite.
_LEAST = 1e-35
#: Scales of 4 bits that are tried: the one that reaches the largest number, and some that cut it off.
_SHRINKS = (1.0, 0.92, 0.85)


def quantize_8(weight_OI: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Return 8-bit weights (O, I) int8 and the float32 scale (O,) of each row: the largest number is 127 steps.

    Args:
        weight_OI: floating point, any dtype.
        where: the parameter's name, for the message.

    Raises:
        WeightsError: if a weight is not finite; 8 bits cannot express that, and reports would be written nevertheless.
    """
    # Not abs(): of a head that would be a second matrix of its size.
    scale_O = torch.maximum(weight_OI.amax(dim=1), -weight_OI.amin(dim=1)).float() / 127
    _require_finite(scale_O, where)
    divisor_O1 = torch.where(scale_O > 0, scale_O, 1.0)[:, None]  # a row of zeros stays one
    steps_OI = torch.empty(weight_OI.shape, dtype=torch.int8)
    for rows in _pieces(weight_OI):
        # Of the smallest floats a scale is rounded so far that its largest number is beyond 127 steps.
        steps_OI[rows] = (weight_OI[rows].float() / divisor_O1[rows]).round_().clamp_(-127, 127)
    return steps_OI, scale_O


def quantize_4(weight_OI: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Return 4-bit weights (O, I) as int8 from -8 to 7, and the bfloat16 scale (O, G) of each group.

    The scale is negative where the number of the largest amount is positive: that number is -8 steps, and there are
    only 7 on the other side. Of three scales the one with the smallest sum of squared errors is taken.

    Arguments and errors as :func:`quantize_8`.
    """
    num_out, num_in = weight_OI.shape
    num_groups = -(-num_in // GROUP)
    steps_OI = torch.empty(num_out, num_in, dtype=torch.int8)
    scale_OG = torch.empty(num_out, num_groups, dtype=torch.bfloat16)
    for rows in _pieces(weight_OI):
        part_OGK = F.pad(weight_OI[rows].float(), (0, -num_in % GROUP)).view(-1, num_groups, GROUP)
        most_OG1 = part_OGK.gather(2, part_OGK.abs().argmax(dim=2, keepdim=True))
        _require_finite(most_OG1, where)
        # In units of the largest number, whose square may not be a float.
        unit_OG1 = torch.where(most_OG1 == 0, 1.0, most_OG1)
        part_OGK = part_OGK / unit_OG1
        least_OG1 = torch.full_like(most_OG1, float("inf"))
        best_OGK, best_OG1 = torch.zeros_like(part_OGK), torch.zeros_like(most_OG1)
        for shrink in _SHRINKS:
            scale_OG1 = (most_OG1 * (shrink / -8)).bfloat16().float()
            step_OG1 = scale_OG1 / unit_OG1
            numbers_OGK = (part_OGK / torch.where(step_OG1 == 0, 1.0, step_OG1)).round_().clamp_(-8, 7)
            error_OG1 = torch.addcmul(part_OGK, numbers_OGK, step_OG1, value=-1).square_().sum(dim=2, keepdim=True)
            is_better_OG1 = error_OG1 < least_OG1
            best_OGK = torch.where(is_better_OG1, numbers_OGK, best_OGK)
            best_OG1 = torch.where(is_better_OG1, scale_OG1, best_OG1)
            least_OG1 = torch.minimum(error_OG1, least_OG1)
        steps_OI[rows] = best_OGK.flatten(1)[:, :num_in].to(torch.int8)
        scale_OG[rows] = best_OG1[..., 0].bfloat16()
    return steps_OI, scale_OG


def quantize_activations(x_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 activations as whole numbers (R, G, K) int8, the last group filled up with 0, and scales (R, G).

    A group that holds a number that is not finite has the scale NaN, so that its row's products are NaN.
    """
    num_rows, num_in = x_RI.shape
    x_RGK = F.pad(x_RI, (0, -num_in % GROUP)).view(num_rows, -1, GROUP)
    most_RG = x_RGK.abs().amax(dim=2)
    is_used_RG = most_RG.isfinite() & (most_RG >= _LEAST)
    inverse_RG = torch.where(is_used_RG, 127 / most_RG, 0.0)
    steps_RGK = torch.where(is_used_RG[..., None], x_RGK * inverse_RG[..., None], 0.0).round().to(torch.int8)
    step_RG = torch.where(most_RG.isfinite(), most_RG / 127, float("nan"))
    return steps_RGK, torch.where(most_RG < _LEAST, 0.0, step_RG)


def product(x_RI: Tensor, steps_OI: Tensor, scale: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x (scale W)^T + b``, (R, O) float32, of activations (R, I) float32.

    Args:
        x_RI: activations, float32; they are rounded as :func:`quantize_activations` does.
        steps_OI: whole numbers, int8.
        scale: (O,) float32, or (O, G) bfloat16.
        bias_O: float32.
    """
    steps_RGK, step_RG = quantize_activations(x_RI)
    num_out, num_in = steps_OI.shape
    weight_OGK = F.pad(steps_OI, (0, -num_in % GROUP)).view(num_out, -1, GROUP)
    # Whole numbers below 2^53, so exact whatever the order.
    dot_GRO = torch.einsum("rgk,ogk->gro", steps_RGK.double(), weight_OGK.double()).float()
    sum_RO = torch.zeros(len(x_RI), num_out)
    for group, dot_RO in enumerate(dot_GRO):
        part_RO = dot_RO if scale.dim() == 1 else dot_RO * scale[:, group].float()
        # A fused multiply-add: the product is not rounded by itself.
        sum_RO = torch.addcmul(sum_RO.double(), part_RO.double(), step_RG[:, group, None].double()).float()
    if scale.dim() == 1:
        sum_RO *= scale
    return sum_RO if bias_O is None else sum_RO + bias_O


def restore(steps_OI: Tensor, scale: Tensor) -> Tensor:
    """Return quantised weights as the float32 numbers (O, I) that they stand for; arguments as :func:`product`."""
    if scale.dim() == 1:
        return steps_OI.float() * scale[:, None]
    return steps_OI.float() * scale.float().repeat_interleave(GROUP, dim=1)[:, : steps_OI.shape[1]]


def _pieces(weight_OI: Tensor) -> list[slice]:
    size = max(1, PIECE // max(1, weight_OI.shape[1]))
    return [slice(start, start + size) for start in range(0, len(weight_OI), size)]


def _require_finite(values: Tensor, where: str) -> None:
    if not bool(values.isfinite().all()):
        raise WeightsError("holds numbers that are not finite", where=where, hint="chexmix weights check")
