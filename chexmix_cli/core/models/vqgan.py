"""The image tokenizer: a VQGAN whose parameter names are those of taming-transformers' VQModel.

Shape letters: B images, C channels, Y X rows and columns (pixels or grid cells, by context), E code size.
Pixels are in [-1, 1]. A forward pass keeps channels last, the layout convolutions run fastest in, where it costs no
digits (see :func:`layout`). On a CPU, in float32 and without gradients, the compiled layers of
``core/kernels/channels_last`` compute norms and 3 x 3 convolutions.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.kernels.channels_last import native, reference
from chexmix_cli.core.models.quantizer import Quantizer
from chexmix_cli.core.settings.model import VqganSettings
from chexmix_cli.core.vocab import grid_side


def layout(like: Tensor) -> torch.memory_format:
    """Return the memory format for a pass over tensors like this one.

    Channels last, but for float32 on a CPU where torch computes. Its channels-last GroupNorm takes the variance there
    as a difference of two sums in one pass: latents of the reference weights were off by 3e-3 (1e-5 without), enough
    to change codes. The compiled layers do not, and below float32 it drowns in rounding. Apple's GPU, where nothing
    was measured, is left torch's own format.
    """
    device = like.device.type
    is_exact = device == "cpu" and like.dtype == torch.float32 and not torch.is_autocast_enabled(device)
    is_torchs = is_exact and not native.runs_on(like)
    return torch.contiguous_format if is_torchs or device == "mps" else torch.channels_last


class GroupNorm(nn.GroupNorm):
    """GroupNorm; called by itself it has no swish behind it."""

    def __init__(self, settings: VqganSettings, channels: int) -> None:
        super().__init__(settings.num_groups, channels, eps=settings.norm_eps)

    @property
    def weights(self) -> native.NormWeights:
        return native.NormWeights(self.num_groups, self.weight, self.bias, self.eps)

    def forward(self, x_BCYX: Tensor, *, has_swish: bool = False) -> Tensor:
        if native.runs_on(x_BCYX):
            return native.group_norm(_channels_last(x_BCYX), self.weights, has_swish=has_swish)
        return reference.group_norm(x_BCYX, self.weights, has_swish=has_swish)


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution that keeps rows and columns.

    Norm and swish before it and a shortcut that is added to it may be given: one pass over memory computes all of it.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x_BCYX: Tensor, norm: GroupNorm | None = None, add_BCYX: Tensor | None = None) -> Tensor:
        weights = None if norm is None else norm.weights
        if not native.runs_on(x_BCYX):
            return reference.convolution(x_BCYX, self.weight, self.bias, add_BCYX, weights)
        if native.convolves(x_BCYX, self.weight):
            add_BCYX = None if add_BCYX is None else _channels_last(add_BCYX)
            return native.convolution(_channels_last(x_BCYX), self.weight, self.bias, add_BCYX, weights)
        normed = x_BCYX if norm is None else norm(x_BCYX, has_swish=True)
        return reference.convolution(normed, self.weight, self.bias, add_BCYX)


def _channels_last(x_BCYX: Tensor) -> Tensor:
    """Return it in channels-last memory: a copy only of what torch made of a single channel, whose layouts are one."""
    return x_BCYX.contiguous(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with norms before them; a 1 x 1 shortcut where the width changes."""

    def __init__(self, settings: VqganSettings, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(settings, in_channels)
        self.conv1 = Convolution(in_channels, out_channels)
        self.norm2 = GroupNorm(settings, out_channels)
        self.conv2 = Convolution(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        shortcut = self.nin_shortcut(x_BCYX) if hasattr(self, "nin_shortcut") else x_BCYX
        return cast(Tensor, self.conv2(self.conv1(x_BCYX, self.norm1), self.norm2, shortcut))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all grid cells."""

    def __init__(self, settings: VqganSettings, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(settings, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        normed = self.norm(x_BCYX)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        mixed_BPC = F.scaled_dot_product_attention(q, k, v)[:, 0]
        mixed_BCYX = mixed_BPC.transpose(1, 2).view_as(x_BCYX)
        return cast(Tensor, x_BCYX + self.proj_out(mixed_BCYX))


class Downsample(nn.Module):
    """Halve both sides: pad right and bottom by one, then a stride-2 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x_BCYX, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Double both sides by nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x_BCYX, scale_factor=2.0, mode="nearest")))


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    def __init__(self, settings: VqganSettings, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(settings, channels, channels)
        self.attn_1 = AttentionBlock(settings, channels)
        self.block_2 = ResidualBlock(settings, channels, channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return cast(Tensor, self.block_2(self.attn_1(self.block_1(x_BCYX))))


class Level(nn.Module):
    """One resolution: residual blocks, then a change of resolution (absent on the last level)."""

    def __init__(self, settings: VqganSettings, in_channels: int, out_channels: int, num_blocks: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(
            ResidualBlock(settings, before, after) for before, after in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x_BCYX: Tensor) -> Tensor:
        for block in self.block:
            x_BCYX = block(x_BCYX)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x_BCYX = getattr(self, name)(x_BCYX)
        return x_BCYX


class Encoder(nn.Module):
    """Pixels (B, C, Y, X) to latents before the codebook's 1 x 1 convolution, (B, latent_channels, Y/d, X/d)."""

    def __init__(self, settings: VqganSettings) -> None:
        super().__init__()
        widths = [settings.channels * multiplier for multiplier in settings.channel_multipliers]
        self.conv_in = Convolution(settings.image_channels, settings.channels)
        self.down = nn.ModuleList(
            Level(settings, before, after, settings.num_res_blocks)
            for before, after in zip([settings.channels, *widths[:-1]], widths, strict=True)
        )
        for level, width in zip(self.down[:-1], widths[:-1], strict=True):
            level.downsample = Downsample(width)
        self.mid = Middle(settings, widths[-1])
        self.norm_out = GroupNorm(settings, widths[-1])
        self.conv_out = Convolution(widths[-1], settings.latent_channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        x_BCYX = self.conv_in(x_BCYX)
        for level in self.down:
            x_BCYX = level(x_BCYX)
        return cast(Tensor, self.conv_out(self.mid(x_BCYX), self.norm_out))


class PixelDecoder(nn.Module):
    """Latents (B, latent_channels, Y, X) to pixels, one residual block a level more than the encoder."""

    def __init__(self, settings: VqganSettings) -> None:
        super().__init__()
        widths = [settings.channels * multiplier for multiplier in settings.channel_multipliers]
        self.conv_in = Convolution(settings.latent_channels, widths[-1])
        self.mid = Middle(settings, widths[-1])
        # Level i of ``up`` has width i; the pass runs from the last to the first.
        self.up = nn.ModuleList(
            Level(settings, before, after, settings.num_res_blocks + 1)
            for before, after in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.norm_out = GroupNorm(settings, widths[0])
        self.conv_out = Convolution(widths[0], settings.image_channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        x_BCYX = self.mid(self.conv_in(x_BCYX))
        for level in reversed(self.up):
            x_BCYX = level(x_BCYX)
        return cast(Tensor, self.conv_out(x_BCYX, self.norm_out))


class Vqgan(nn.Module):
    """Image tokenizer: pixels to codes and codes to pixels.

    Source: Esser et al. 2021 (VQGAN) with the settings of Chameleon's; nearest code by squared Euclidean distance.
    """

    def __init__(self, settings: VqganSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        self.decoder = PixelDecoder(settings)
        self.quantize = Quantizer(settings.num_codes, settings.code_size)
        self.quant_conv = nn.Conv2d(settings.latent_channels, settings.code_size, 1)
        self.post_quant_conv = nn.Conv2d(settings.code_size, settings.latent_channels, 1)

    def latents(self, pixels_BCYX: Tensor) -> Tensor:
        """Return latents before quantisation, (B, E, Y/d, X/d), of pixels in [-1, 1]."""
        pixels_BCYX = pixels_BCYX.contiguous(memory_format=layout(pixels_BCYX))
        return cast(Tensor, self.quant_conv(self.encoder(pixels_BCYX)))

    def encode(self, pixels_BCYX: Tensor) -> Tensor:
        """Return the codes of images in raster order, (B, P) int64, from pixels (B, C, Y, X) in [-1, 1]."""
        return self.quantize.encode(self.latents(pixels_BCYX)).flatten(1)

    def decode(self, codes_BP: Tensor) -> Tensor:
        """Return pixels (B, C, Y, X), not clamped, of codes (B, P) of square images in raster order.

        Raises:
            ShapeError: if P is not a square number.
        """
        side = grid_side(codes_BP.shape[1])
        return self.decode_latents(self.quantize.decode(codes_BP.view(-1, side, side)))

    def decode_latents(self, latent_BEYX: Tensor) -> Tensor:
        """Return pixels (B, C, Y, X), not clamped, of codebook vectors (B, E, Y/d, X/d)."""
        latent_BEYX = latent_BEYX.contiguous(memory_format=layout(latent_BEYX))
        return cast(Tensor, self.decoder(self.post_quant_conv(latent_BEYX)))
