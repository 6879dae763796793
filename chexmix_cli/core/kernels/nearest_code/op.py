"""Nearest code as the rest of the program calls it: checks, choice of backend, ``torch.library`` registration.

M latents, K codes, E code size, S shares of the codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks, current_device
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
    than float32 rounds them, whatever autocast says. Where the dtypes differ, both are widened to float32.
    """
    reference.check(z_ME, codebook_KE)
    if not uses_triton(z_ME.device):
        return reference.nearest_code(z_ME, codebook_KE)
    if z_ME.dtype != codebook_KE.dtype:
        z_ME, codebook_KE = z_ME.float(), codebook_KE.float()
    if z_ME.dtype not in CONFIGS:
        raise ShapeError(f"latents of {z_ME.dtype}", where="nearest_code", expected="float32, bfloat16 or float16")
    with current_device(z_ME):
        codes_M: Tensor = torch.ops.chexmix.nearest_code(z_ME, codebook_KE)
    return codes_M


@torch.library.custom_op("chexmix::nearest_code", mutates_args=())
def _triton_nearest_code(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    from chexmix_cli.core.kernels.nearest_code.kernels import _nearest_code_fwd_kernel

    z_ME, codebook_KE = _with_whole_rows(z_ME), _with_whole_rows(codebook_KE)
    config, count, num_codes = CONFIGS[z_ME.dtype], len(z_ME), len(codebook_KE)
    num_shares = min(config.num_shares, blocks(num_codes, config.block_k))
    per_share = blocks(num_codes, num_shares * config.block_k) * config.block_k
    grid = (blocks(count, config.block_m), blocks(num_codes, per_share))
    distance_SM = torch.empty(grid[1], count, device=z_ME.device)
    codes_SM = torch.empty(grid[1], count, dtype=torch.int64, device=z_ME.device)
    if count == 0:
        return codes_SM[0]
    _nearest_code_fwd_kernel[grid](
        z_ME,
        codebook_KE,
        distance_SM,
        codes_SM,
        count,
        num_codes,
        per_share,
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
    # argmin takes the first of equals, and the shares are in order: the lowest code.
    return codes_SM.gather(0, distance_SM.argmin(dim=0, keepdim=True))[0]


@_triton_nearest_code.register_fake
def _(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    return z_ME.new_empty(z_ME.shape[0], dtype=torch.int64)


def _with_whole_rows(x: Tensor) -> Tensor:
    """Return a tensor whose features lie side by side, as the kernel reads them; a copy only where they do not."""
    return x if x.stride(1) == 1 else x.contiguous()
