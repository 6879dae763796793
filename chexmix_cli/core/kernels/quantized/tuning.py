"""Blocks of the products with quantised weights, and how many rows take which way.

Up to 8 rows fill the narrowest block of the matrix unit, up to 16 the next. So many rows cost little beside the packed
weights, which are read once. Of more rows, activations cost more than weights: each program reads all of them. A block
of 64 rows would take 445 MB a layer from the second-level cache, where weights restored a piece at a time for torch's
product take 315.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Blocks of rows (R), panels of 16 outputs (P) and groups of 32 inputs (G), warps and pipeline stages."""

    block_r: int
    block_p: int
    block_g: int
    num_warps: int = 4
    num_stages: int = 4


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """Panels (P) and groups (G) of a program that restores weights, and its warps."""

    block_p: int = 1
    block_g: int = 8
    num_warps: int = 4
    num_stages: int = 1


_HALF = (
    Config(block_r=8, block_p=2, block_g=8),
    Config(block_r=16, block_p=2, block_g=8),
)
#: The same of matrices with few outputs: smaller blocks of them, so that there is a program for each multiprocessor,
#: and of more groups, so that as many bytes are on their way.
_HALF_NARROW = (
    Config(block_r=8, block_p=1, block_g=16),
    Config(block_r=16, block_p=1, block_g=16),
)
_FLOAT = (Config(block_r=16, block_p=1, block_g=2, num_stages=2),)

#: (dtype of activations, whether there are few panels) to blocks, the first of which has room for the rows is taken.
CONFIGS = {
    (torch.bfloat16, False): _HALF,
    (torch.bfloat16, True): _HALF_NARROW,
    (torch.float16, False): _HALF,
    (torch.float16, True): _HALF_NARROW,
    (torch.float32, False): _FLOAT,
    (torch.float32, True): _FLOAT,
}
RESTORE = RestoreConfig()
#: Panels from which on blocks of two leave no multiprocessor idle.
MANY_PANELS = 512
#: Rows up to which there are blocks.
MOST_ROWS = 16
#: Numbers restored at a time: 32 MiB of two bytes each stay in the second-level cache (40 MiB and more).
PIECE = 1 << 24


def config_for(dtype: torch.dtype, num_rows: int, num_panels: int) -> Config | None:
    """Return the blocks of a product, or None where weights are restored first."""
    configs = CONFIGS.get((dtype, num_panels < MANY_PANELS), ())
    return next((config for config in configs if num_rows <= config.block_r), None)
