"""Nearest code as the rest of the program calls it: checks, choice of backend, ``torch.library`` registration.

M latents, K codes, E code size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks
from chexmix_cli.core.kernels.nearest_code import reference
from chexmix_cli.core.kernels.nearest_code.tuning import CONFIGS


def nearest_code(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    """Return the index of the closest codebook row for each latent, by squared Euclidean distance.

    Args:
        z_ME: latents, (M, E), float32, bfloat16 or float16.
        codebook_KE: codebook, (K, E), same device.

    Returns:
        Codes, (M,), int64, each in [0, K). Ties go to the lowest index.

    Raises:
        ShapeError: if E differs between the two, K is 0, or the dtype is none of these.

    Numerics: products accumulate in float32; equal to ``reference.nearest_code`` but where two distances differ by less
    than float32 rounds them. Where the dtypes differ, both are widened to float32.
    """
    reference.check(z_ME, codebook_KE)
    if not uses_triton(z_ME.device):
        return reference.nearest_code(z_ME, codebook_KE)
    if z_ME.dtype != codebook_KE.dtype:
        z_ME, codebook_KE = z_ME.float(), codebook_KE.float()
    if z_ME.dtype not in CONFIGS:
        raise ShapeError(f"latents of {z_ME.dtype}", where="nearest_code", expected="float32, bfloat16 or float16")
    codes_M: Tensor = torch.ops.chexmix.nearest_code(z_ME, codebook_KE)
    return codes_M


@torch.library.custom_op("chexmix::nearest_code", mutates_args=())
def _triton_nearest_code(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    from chexmix_cli.core.kernels.nearest_code.kernels import _nearest_code_fwd_kernel

    z_ME, codebook_KE = _with_whole_rows(z_ME), _with_whole_rows(codebook_KE)
    codes_M = torch.empty(len(z_ME), dtype=torch.int64, device=z_ME.device)
    if len(z_ME) == 0:
        return codes_M
    config = CONFIGS[z_ME.dtype]
    _nearest_code_fwd_kernel[(blocks(len(z_ME), config.block_m),)](
        z_ME,
        codebook_KE,
        codes_M,
        len(z_ME),
        len(codebook_KE),
        z_ME.shape[1],
        z_ME.stride(0),
        codebook_KE.stride(0),
        BLOCK_M=config.block_m,
        BLOCK_K=config.block_k,
        BLOCK_E=config.block_e,
        UPCAST=is_interpreted(),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return codes_M


@_triton_nearest_code.register_fake
def _(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    return z_ME.new_empty(z_ME.shape[0], dtype=torch.int64)


def _with_whole_rows(x: Tensor) -> Tensor:
    """Return a tensor whose features lie side by side, as the kernel reads them; a copy only where they do not."""
    return x if x.stride(1) == 1 else x.contiguous()
