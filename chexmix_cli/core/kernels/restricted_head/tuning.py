"""Block sizes of the restricted head: rows are what there are many of, states few (one a sequence in decoding)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Blocks of states (M), head rows (R) and features (D), and the warps and pipeline stages of a program."""

    block_m: int
    block_r: int
    block_d: int
    num_warps: int
    num_stages: int


#: (dtype, many states) to blocks: few is up to 16, one block of the matrix unit.
CONFIGS = {
    (torch.float32, False): Config(block_m=16, block_r=64, block_d=32, num_warps=4, num_stages=3),
    (torch.float32, True): Config(block_m=64, block_r=64, block_d=32, num_warps=8, num_stages=3),
    (torch.bfloat16, False): Config(block_m=16, block_r=64, block_d=128, num_warps=4, num_stages=4),
    (torch.bfloat16, True): Config(block_m=64, block_r=128, block_d=64, num_warps=8, num_stages=3),
    (torch.float16, False): Config(block_m=16, block_r=64, block_d=128, num_warps=4, num_stages=4),
    (torch.float16, True): Config(block_m=64, block_r=128, block_d=64, num_warps=8, num_stages=3),
}
FEW = 16
