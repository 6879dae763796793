"""What launching Triton kernels has in common."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def current_device(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the CUDA device of a tensor the current one for a while: Triton launches there, wherever its tensors are."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def blocks(size: int, block: int) -> int:
    """Return how many blocks cover ``size``."""
    return -(-size // block)


def power_of_two(size: int, *, least: int, most: int) -> int:
    """Return the smallest power of two that covers ``size``, within bounds that are powers of two."""
    return min(most, max(least, 1 << (size - 1).bit_length()))
