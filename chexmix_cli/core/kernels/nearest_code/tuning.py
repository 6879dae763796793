"""Block sizes of the nearest-code kernel. Chosen by what fits: see benchmarks/aot.json for registers and spills.

One configuration a dtype, whatever the shape: the same input gives the same codes on every call, and a new length of
input compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Blocks of latents (M), codes (K) and features (E), the warps and pipeline stages of a program, most shares.

    A share is what of the codebook one program searches: 1024 latents of one image in blocks of 64 are 16 programs, and
    an A100 has 108 multiprocessors.
    """

    block_m: int
    block_k: int
    block_e: int
    num_warps: int
    num_stages: int
    num_shares: int


CONFIGS = {
    torch.float32: Config(block_m=64, block_k=64, block_e=16, num_warps=8, num_stages=3, num_shares=16),
    torch.bfloat16: Config(block_m=64, block_k=128, block_e=64, num_warps=8, num_stages=3, num_shares=16),
    torch.float16: Config(block_m=64, block_k=128, block_e=64, num_warps=8, num_stages=3, num_shares=16),
}
