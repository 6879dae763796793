"""Blocks of the rotary kernel: a program takes one position's queries, keys and values of some heads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """Heads (N) of a program, the room for their features (H), and its warps."""

    block_n: int
    block_h: int
    num_warps: int
    num_stages: int = 1


#: In order: a head size takes the first it fits.
CONFIGS = (
    Config(block_n=16, block_h=64, num_warps=4),
    Config(block_n=8, block_h=128, num_warps=4),
    Config(block_n=4, block_h=256, num_warps=4),
)
