"""Nearest code in plain torch: the definition and the CPU path. M latents, K codes, E code size."""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError

#: Latents compared at a time: bounds the (rows x K) distance matrix to 128 MiB at 8192 codes in float32.
_ROWS = 4096


def nearest_code(z_ME: Tensor, codebook_KE: Tensor) -> Tensor:
    """Return the index of the closest codebook row for each latent, by squared Euclidean distance.

    Args:
        z_ME: latents, (M, E), float32 or bfloat16.
        codebook_KE: codebook, (K, E), same device.

    Returns:
        Codes, (M,), int64, each in [0, K). Ties go to the lowest index.

    Raises:
        ShapeError: if E differs between the two, or K is 0.

    Numerics: distances in float32, as ``|z|^2 + |e|^2 - 2 z.e``, the form of taming-transformers' VectorQuantizer2;
    under autocast too, which would round the product to eight bits: a third of the codes would be others.
    """
    check(z_ME, codebook_KE)
    codebook_KE = codebook_KE.float()
    norm_K = codebook_KE.square().sum(dim=1)
    codes = torch.empty(len(z_ME), dtype=torch.int64, device=z_ME.device)
    with torch.autocast(z_ME.device.type, enabled=False):
        for start in range(0, len(z_ME), _ROWS):
            rows_RE = z_ME[start : start + _ROWS].float()
            distance_RK = rows_RE.square().sum(dim=1, keepdim=True) + norm_K - 2 * rows_RE @ codebook_KE.T
            codes[start : start + _ROWS] = distance_RK.argmin(dim=1)
    return codes


def check(z_ME: Tensor, codebook_KE: Tensor) -> None:
    """Raise ShapeError unless these are latents and a codebook of one code size."""
    if z_ME.ndim != 2 or codebook_KE.ndim != 2 or z_ME.shape[1] != codebook_KE.shape[1] or len(codebook_KE) == 0:
        raise ShapeError(
            f"latents {tuple(z_ME.shape)} with a codebook {tuple(codebook_KE.shape)}",
            where="nearest_code",
            expected="(M, E) and (K, E) with K > 0",
        )
