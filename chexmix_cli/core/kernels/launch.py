"""What launching Triton kernels has in common."""

from __future__ import annotations


def blocks(size: int, block: int) -> int:
    """Return how many blocks cover ``size``."""
    return -(-size // block)


def power_of_two(size: int, *, least: int, most: int) -> int:
    """Return the smallest power of two that covers ``size``, within bounds that are powers of two."""
    return min(most, max(least, 1 << (size - 1).bit_length()))
