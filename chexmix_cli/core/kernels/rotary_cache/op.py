"""Partial rotary embedding and cache write as the decoder calls it: checks, choice of backend, registration."""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks, current_device
from chexmix_cli.core.kernels.rotary_cache import reference
from chexmix_cli.core.kernels.rotary_cache.tuning import CONFIGS

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def rotate_and_cache(
    fused_BTX: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, keys_BNSH: Tensor, values_BNSH: Tensor, start_B: Tensor
) -> Tensor:
    """Return the rotated queries and write the cache; as ``reference.rotate_and_cache``, which see. For inference.

    Numerics: on Triton a rotated value is rounded once, where torch rounds both products and their sum.
    """
    tensors = (fused_BTX, cos_B1TR, sin_B1TR, keys_BNSH, values_BNSH)
    reference.check(*tensors, start_B)
    if not uses_triton(fused_BTX.device):
        return reference.rotate_and_cache(*tensors, start_B)
    is_whole = all(x.stride(-1) == 1 for x in tensors) and keys_BNSH.stride() == values_BNSH.stride()
    if fused_BTX.dtype not in _DTYPES or keys_BNSH.shape[3] > CONFIGS[-1].block_h or not is_whole:
        raise ShapeError(
            f"heads of {keys_BNSH.shape[3]}, {fused_BTX.dtype}, strides {[x.stride() for x in tensors]}",
            where="rotary cache",
            expected=f"at most {CONFIGS[-1].block_h}, float32, bfloat16 or float16, features side by side",
        )
    with current_device(fused_BTX):
        q_BNTH: Tensor = torch.ops.chexmix.rotate_and_cache(*tensors, start_B)
    return q_BNTH


@torch.library.custom_op("chexmix::rotate_and_cache", mutates_args=("keys_BNSH", "values_BNSH"))
def _triton_rotate_and_cache(
    fused_BTX: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, keys_BNSH: Tensor, values_BNSH: Tensor, start_B: Tensor
) -> Tensor:
    from chexmix_cli.core.kernels.rotary_cache.kernels import _rotary_cache_fwd_kernel

    (num_rows, num_heads, _, head_size), num_new = keys_BNSH.shape, fused_BTX.shape[1]
    q_BNTH = torch.empty(num_rows, num_heads, num_new, head_size, dtype=fused_BTX.dtype, device=fused_BTX.device)
    config = next(config for config in CONFIGS if head_size <= config.block_h)
    if q_BNTH.numel():
        _rotary_cache_fwd_kernel[(num_rows * num_new, blocks(num_heads, config.block_n))](
            fused_BTX,
            cos_B1TR,
            sin_B1TR,
            start_B,
            q_BNTH,
            keys_BNSH,
            values_BNSH,
            num_new,
            num_heads,
            head_size,
            cos_B1TR.shape[3],
            fused_BTX.stride(0),
            fused_BTX.stride(1),
            cos_B1TR.stride(0) if len(cos_B1TR) > 1 else 0,
            cos_B1TR.stride(2),
            *keys_BNSH.stride()[:3],
            BLOCK_N=config.block_n,
            BLOCK_H=config.block_h,
            INTERPRETED=is_interpreted(),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return q_BNTH


@_triton_rotate_and_cache.register_fake
def _(
    fused_BTX: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, keys_BNSH: Tensor, values_BNSH: Tensor, start_B: Tensor
) -> Tensor:
    return fused_BTX.new_empty((keys_BNSH.shape[0], keys_BNSH.shape[1], fused_BTX.shape[1], keys_BNSH.shape[3]))
