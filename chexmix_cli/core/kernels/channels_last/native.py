"""The compiled layers: which tensors they take, and how they are called. ``native.c`` says how they compute.

They have no backward, and compute where no gradient is recorded. B images, C O channels in and out, Y X rows, columns.
"""

from __future__ import annotations

import ctypes
import logging
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import asked_for
from chexmix_cli.core.kernels.compiled.library import answer, library, torch_threads

_LOG = logging.getLogger("chexmix")
#: Channels of a convolution are multiples of this.
PANEL = 16
#: Rows and columns that a tile gives.
_TILE_PX = 4
#: 512 to 512 channels, milliseconds of ours and of oneDNN: 31 and 11 at 16 tiles, 39 and 44 at 64.
_FEWEST_TILES = 32


class _Convolution(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "add", "lines", "y")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "inputs", "outputs")),
        ("stride", ctypes.c_int64 * 4),
        *((name, ctypes.c_int32) for name in ("bits", "threads")),
        ("run", ctypes.c_void_p),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "lines", "y")),
        *((name, ctypes.c_int64) for name in ("images", "pixels", "channels", "groups")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("has_swish", "bits", "threads")),
        ("run", ctypes.c_void_p),
    )


def runs_on(x: Tensor) -> bool:
    """Return whether the compiled layers compute a pass over tensors like this one.

    They do in float32 on an x86-64 CPU with AVX2, without gradients or autocast; ``CHEXMIX_KERNELS=torch`` says no.
    """
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32
    recorded = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return is_plain and not recorded and asked_for() != "torch" and vector_bits() > 0


def convolves(x_BCYX: Tensor, weight_OCYX: Tensor) -> bool:
    """Return whether :func:`convolution` takes these weights, and images of this size are worth their transformation.

    It takes as long as the products of some tiles. Images are counted one by one: none depends on those beside it.
    """
    tiles = math.prod(-(-extent // _TILE_PX) for extent in x_BCYX.shape[2:])
    return _takes(weight_OCYX) and tiles >= _FEWEST_TILES


def _takes(weight_OCYX: Tensor) -> bool:
    num_out, num_in = weight_OCYX.shape[:2]
    is_multiple = num_out % PANEL == 0 and num_in % PANEL == 0
    return is_multiple and weight_OCYX.shape[2:] == (3, 3) and weight_OCYX.dtype == torch.float32


@cache
def vector_bits() -> int:
    """Return how wide the vectors are that this CPU computes with: 512 (AVX512), 256 (AVX2), or 0 if none runs here."""
    bits, problem = answer("chexmix_vector_bits")
    _LOG.info("image tokenizer's layers: %s", f"torch ({problem})" if problem else f"native, {bits} bits")
    return bits


class NormWeights(NamedTuple):
    """What a GroupNorm is made of: groups, weight and bias (C,) float32, and what is added to the variance."""

    num_groups: int
    weight_C: Tensor
    bias_C: Tensor
    eps: float


def convolution(
    x_BCYX: Tensor,
    weight_OCYX: Tensor,
    bias_O: Tensor,
    add_BOYX: Tensor | None = None,
    norm: NormWeights | None = None,
    *,
    bits: int | None = None,
) -> Tensor:
    """Return what ``reference.convolution`` does, (B, O, Y, X) float32 in channels-last memory.

    Numerics: by Winograd's F(4 x 4, 3 x 3); no digit depends on threads, instructions or the images beside an image.

    Args:
        x_BCYX: float32 in channels-last memory; C and O multiples of ``PANEL``.
        weight_OCYX: float32 (O, C, 3, 3), in any strides.
        bias_O: float32.
        add_BOYX: as the result, or None.
        norm: what comes before, with swish: it is computed where tiles are read, and no memory holds it.
        bits: 256 or 512; default: :func:`vector_bits`.

    Raises:
        ShapeError: if a size, dtype or layout does not fit.
        MemoryError: if there is no memory for transformed weights and tiles.
    """
    num_images, num_in, height, width = x_BCYX.shape
    num_out = len(weight_OCYX)
    shape = (num_images, num_out, height, width)
    fits = _fits(x_BCYX) and _takes(weight_OCYX) and weight_OCYX.shape[1] == num_in and _is_row(bias_O, num_out)
    if not fits or not (add_BOYX is None or (_fits(add_BOYX) and add_BOYX.shape == shape)):
        raise ShapeError(
            f"images {tuple(x_BCYX.shape)} {x_BCYX.dtype}, weights {tuple(weight_OCYX.shape)}",
            where="convolution",
            expected=f"float32, channels last, multiples of {PANEL} channels",
        )
    lines_B2C = None if norm is None else _norm(x_BCYX, norm, None, has_swish=True, bits=bits)
    y_BOYX = torch.empty(shape, memory_format=torch.channels_last)
    job = _Convolution(
        *(_address(tensor) for tensor in (x_BCYX, weight_OCYX, bias_O, add_BOYX, lines_B2C, y_BOYX)),
        *(num_images, height, width, num_in, num_out),
        (ctypes.c_int64 * 4)(*weight_OCYX.stride()),
        *_way(bits),
    )
    if y_BOYX.numel() and _compiled().chexmix_convolution(ctypes.byref(job)) != 0:
        raise MemoryError(f"no memory for a convolution of {tuple(x_BCYX.shape)}")
    return y_BOYX


def group_norm(x_BCYX: Tensor, norm: NormWeights, *, has_swish: bool, bits: int | None = None) -> Tensor:
    """Return what ``reference.group_norm`` does, float32 in channels-last memory.

    Numerics: sums in float64; no digit depends on threads, instructions or the images beside an image.

    Args:
        x_BCYX: float32 in channels-last memory.
        norm: its weights; the number of groups divides C.
        has_swish: whether swish comes after.
        bits: 256 or 512; default: :func:`vector_bits`.

    Raises:
        ShapeError: if a size, dtype or layout does not fit.
        MemoryError: if there is no memory for the sums.
    """
    y_BCYX = torch.empty(x_BCYX.shape, memory_format=torch.channels_last)
    _norm(x_BCYX, norm, y_BCYX, has_swish=has_swish, bits=bits)
    return y_BCYX


def _norm(x_BCYX: Tensor, norm: NormWeights, y_BCYX: Tensor | None, *, has_swish: bool, bits: int | None) -> Tensor:
    """Return what an image's channels are multiplied by and what is added, (B, 2, C); apply both where there is a y."""
    num_images, num_channels, height, width = x_BCYX.shape
    fits = _fits(x_BCYX) and _is_row(norm.weight_C, num_channels) and _is_row(norm.bias_C, num_channels)
    if not fits or norm.num_groups < 1 or num_channels % norm.num_groups:
        raise ShapeError(
            f"images {tuple(x_BCYX.shape)} {x_BCYX.dtype}, {norm.num_groups} groups, {len(norm.weight_C)} weights",
            where="group norm",
            expected="float32, channels last, groups of whole channels",
        )
    lines_B2C = torch.empty(num_images, 2, num_channels)
    job = _Norm(
        *(_address(tensor) for tensor in (x_BCYX, norm.weight_C, norm.bias_C, lines_B2C, y_BCYX)),
        *(num_images, height * width, num_channels, norm.num_groups),
        norm.eps,
        has_swish,
        *_way(bits),
    )
    if x_BCYX.numel() and _compiled().chexmix_group_norm(ctypes.byref(job)) != 0:
        raise MemoryError(f"no memory for the norm of {tuple(x_BCYX.shape)}")
    return lines_B2C


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _fits(x_BCYX: Tensor) -> bool:
    is_last = x_BCYX.dim() == 4 and x_BCYX.is_contiguous(memory_format=torch.channels_last)
    return is_last and x_BCYX.dtype == torch.float32


def _is_row(x: Tensor, count: int) -> bool:
    return x.dtype == torch.float32 and x.shape == (count,) and x.is_contiguous()


def _way(bits: int | None) -> tuple[int, int, int | None]:
    """Return the last fields of a call: width of the vectors, threads, and what runs on them."""
    bits = vector_bits() if bits is None else bits
    assert bits in (256, 512), f"no code for vectors of {bits} bits"
    assert bits <= vector_bits(), f"this CPU has no vectors of {bits} bits"
    return bits, torch.get_num_threads(), torch_threads()


def _compiled() -> ctypes.CDLL:
    found = library()
    assert not isinstance(found, str), found
    return found
