"""Block sizes of the nearest-code kernel. Chosen by what fits: see benchmarks/aot.json for registers and spills.

One configuration a dtype, whatever the shape: the same input gives the same codes on every call, and a new length of
input compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Blocks of latents (M), codes (K) and features (E), and the warps and pipeline stages of a program."""

    block_m: int
    block_k: int
    block_e: int
    num_warps: int
    num_stages: int


CONFIGS = {
    torch.float32: Config(block_m=32, block_k=64, block_e=32, num_warps=4, num_stages=2),
    torch.bfloat16: Config(block_m=64, block_k=64, block_e=64, num_warps=4, num_stages=3),
    torch.float16: Config(block_m=64, block_k=64, block_e=64, num_warps=4, num_stages=3),
}
