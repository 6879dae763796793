"""Block sizes of the expected-code kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Blocks of states (M), codes (K) and features (D), warps and stages of a program, and most shares of the codes.

    A share is what of the codes one program adds up: each share's sum of vectors goes through memory once, so there are
    as few as fill a card.
    """

    block_m: int
    block_k: int
    block_d: int
    num_warps: int
    num_stages: int
    num_shares: int = 8


CONFIGS = {
    torch.float32: Config(block_m=32, block_k=32, block_d=32, num_warps=8, num_stages=2),
    torch.bfloat16: Config(block_m=32, block_k=32, block_d=64, num_warps=8, num_stages=3),
    torch.float16: Config(block_m=32, block_k=32, block_d=64, num_warps=8, num_stages=3),
}
#: Widest code vector: it lies whole in a program's registers.
WIDEST = 256
