"""Blocks of the masked-token kernel: a whole document lies in one program's registers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """Positions of a document (T), and the warps of its program."""

    block_t: int
    num_warps: int
    num_stages: int = 1


#: In order: a document takes the first it fits.
CONFIGS = (
    Config(block_t=512, num_warps=4),
    Config(block_t=2048, num_warps=8),
    Config(block_t=4096, num_warps=16),
)
