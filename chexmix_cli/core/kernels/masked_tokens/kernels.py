"""Masked-token corruption, one program a document: ids and targets are read once and written once.

What is hidden are the tokens of a kind with the least noise, exactly so many. Noise and position make keys that are all
different; the largest bound below which at most so many keys lie is found bit by bit, by counting in registers where
torch would sort in memory. Formulas in ``reference.py``.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chexmix_cli.core.kernels.philox.kernels import first_word


@triton.jit
def _key(seed, position_T):
    """Return noise and position as one int64 below 2^45."""
    return (first_word(seed + tl.zeros_like(position_T), position_T).to(tl.int64) << 13) | position_T


@triton.jit
def _share(seed, counter, low, high):
    """Return a share between the bounds, in parts of 2^30."""
    draw = first_word(seed, counter).to(tl.int64) >> 2
    return low + (((high - low) * draw) >> 30)


@triton.jit
def _bound(key_T, is_kind_T, share):
    """Return the key below which the share of a kind lies, of rounded share x number tokens."""
    count = (share * tl.sum(is_kind_T.to(tl.int64), axis=0) + (1 << 29)) >> 30
    bound = tl.zeros_like(count)
    for step in range(46):
        higher = bound | (tl.full([], 1, tl.int64) << (45 - step))
        num_below = tl.sum((is_kind_T & (key_T < higher)).to(tl.int64), axis=0)
        bound = tl.where(num_below <= count, higher, bound)
    return bound


@triton.jit
def _masked_tokens_fwd_kernel(
    input_ptr,  # (B, T) int64, rows without gaps
    target_ptr,  # (B, T) int64, rows without gaps
    length_ptr,  # (B,) int64
    seed_ptr,  # (B,) int64
    hidden_ptr,  # (B, T) int64: ids, some of them the mask id
    counted_ptr,  # (B, T) int64: targets, some of them ignored
    num_positions,
    image_start,
    image_stop,
    special_a,
    special_b,
    special_c,
    special_d,
    mask,
    image_low,
    image_high,
    text_low,
    text_high,
    ignored,
    MASKED_TARGETS_ONLY: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position_T = tl.arange(0, BLOCK_T).to(tl.int64)
    is_in_T = position_T < num_positions
    is_next_in_T = position_T + 1 < num_positions
    at_T = row * num_positions + position_T
    seed = tl.load(seed_ptr + row)
    id_T = tl.load(input_ptr + at_T, mask=is_in_T, other=special_a)
    key_T = _key(seed, position_T)
    is_image_T = (id_T >= image_start) & (id_T < image_stop)
    is_special_T = (id_T == special_a) | (id_T == special_b) | (id_T == special_c) | (id_T == special_d)
    is_text_T = (is_image_T | is_special_T) == 0
    image_bound = _bound(key_T, is_image_T, _share(seed, tl.full([], 0xFFFFFFFF, tl.int64), image_low, image_high))
    text_bound = _bound(key_T, is_text_T, _share(seed, tl.full([], 0xFFFFFFFE, tl.int64), text_low, text_high))
    is_hidden_T = (is_image_T & (key_T < image_bound)) | (is_text_T & (key_T < text_bound))
    tl.store(hidden_ptr + at_T, tl.where(is_hidden_T, mask, id_T), mask=is_in_T)
    target_T = tl.load(target_ptr + at_T, mask=is_in_T, other=0)
    if MASKED_TARGETS_ONLY:
        # Whether the next token is hidden is known to another thread: worked out again, from what is in the cache.
        id_T = tl.load(input_ptr + at_T + 1, mask=is_next_in_T, other=special_a)
        key_T = _key(seed, position_T + 1)
        is_image_T = (id_T >= image_start) & (id_T < image_stop)
        is_special_T = (id_T == special_a) | (id_T == special_b) | (id_T == special_c) | (id_T == special_d)
        bound_T = tl.where(is_image_T, image_bound, text_bound)
        is_counted_T = (is_special_T == 0) & (key_T < bound_T)
        is_counted_T |= position_T == tl.load(length_ptr + row) - 1
        target_T = tl.where(is_counted_T, target_T, ignored)
    tl.store(counted_ptr + at_T, target_T, mask=is_in_T)
