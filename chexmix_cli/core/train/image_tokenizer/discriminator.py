"""A judge of patches: does this part of the picture look like a radiograph, or like a rebuilt one?

Shape letters: B images, C channels, Y X rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

_GROUPS = 8


class PatchDiscriminator(nn.Module):
    """Pixels (B, C, Y, X) to one score a patch of 34 pixels, (B, 1, Y/4 - 2, X/4 - 2).

    Source: Isola et al. 2017 (PatchGAN) with two strided layers, and GroupNorm in place of BatchNorm: an image's score
    depends on that image alone, so neither micro-batches nor the number of processes change it.

    Args:
        image_channels: of the pictures.
        channels: width of the first layer, a multiple of 8.
    """

    #: What the optimiser does differently here: the usual values of adversarial training.
    optimizer_options: ClassVar[Mapping[str, Any]] = {"betas": (0.5, 0.9), "weight_decay": 0.0}

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_channels, channels, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, 2 * channels)
        self.conv3 = nn.Conv2d(2 * channels, 4 * channels, 4, padding=1)
        self.norm3 = nn.GroupNorm(_GROUPS, 4 * channels)
        self.conv4 = nn.Conv2d(4 * channels, 1, 4, padding=1)

    def forward(self, pixels_BCYX: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(pixels_BCYX), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        x = F.leaky_relu(self.norm3(self.conv3(x)), 0.2)
        return cast(Tensor, self.conv4(x))

    def judge(self, pixels_BCYX: Tensor) -> Tensor:
        """Return the scores as a function of the pixels alone: a gradient reaches them, never the judge's weights.

        So one backward pass serves both sides, each with its own loss, whatever wraps the module.
        """
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return cast(Tensor, functional_call(self, frozen, (pixels_BCYX,)))
