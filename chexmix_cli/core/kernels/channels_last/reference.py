"""The layers in plain torch: the definition, and what computes where the compiled ones do not run.

B images, C O channels in and out, Y X rows and columns.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.kernels.channels_last.native import NormWeights


def convolution(
    x_BCYX: Tensor,
    weight_OCYX: Tensor,
    bias_O: Tensor,
    add_BOYX: Tensor | None = None,
    norm: NormWeights | None = None,
) -> Tensor:
    """Return the 3 x 3 convolution of zero-padded images, (B, O, Y, X), plus bias and what is to be added.

    Args:
        x_BCYX: images of any floating dtype.
        weight_OCYX: (O, C, 3, 3).
        bias_O: added to every pixel.
        add_BOYX: added to the result, a shortcut; None for none.
        norm: a GroupNorm that images pass first, and swish; None for none.
    """
    if norm is not None:
        x_BCYX = group_norm(x_BCYX, norm, has_swish=True)
    y_BOYX = F.conv2d(x_BCYX, weight_OCYX, bias_O, padding=1)
    return y_BOYX if add_BOYX is None else add_BOYX + y_BOYX


def group_norm(x_BCYX: Tensor, norm: NormWeights, *, has_swish: bool) -> Tensor:
    """Return ``z = (x - mean) / sqrt(variance + eps) * weight + bias``, or with swish ``z * sigmoid(z)``.

    Mean and variance are those of an image's group of neighbouring channels.
    """
    z_BCYX = F.group_norm(x_BCYX, norm.num_groups, norm.weight_C, norm.bias_C, norm.eps)
    return F.silu(z_BCYX) if has_swish else z_BCYX
