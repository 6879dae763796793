"""Blocks of the attention of few queries to a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Queries (T), positions of the cache (S) and room for features (H) of a program, and its warps."""

    block_t: int
    block_s: int
    block_h: int
    num_warps: int = 4
    num_stages: int = 1


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """Blocks of positions (J) joined at a time and room for features (H), and the warps of a program."""

    block_j: int
    block_h: int
    num_warps: int = 2
    num_stages: int = 1


_HALF = tuple(Config(block_t=new, block_s=64, block_h=features) for features in (64, 128) for new in (8, 16))
#: By dtype, in order: queries and a head size take the first that has room for both.
CONFIGS = {
    torch.bfloat16: _HALF,
    torch.float16: _HALF,
    torch.float32: (Config(block_t=16, block_s=32, block_h=128),),
}
JOIN_CONFIGS = (JoinConfig(block_j=32, block_h=64), JoinConfig(block_j=32, block_h=128))


def config_for(dtype: torch.dtype, num_new: int, head_size: int) -> Config | None:
    """Return the blocks, or None where there are none: more queries fill a card by themselves."""
    configs = CONFIGS.get(dtype, ())
    return next((one for one in configs if num_new <= one.block_t and head_size <= one.block_h), None)
