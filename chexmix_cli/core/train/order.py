"""Order and randomness of training as pure functions of (seed, step): nothing to save, nothing to replay on resume."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def batch_indices(*, seed: int, step: int, batch_size: int, num_examples: int) -> list[int]:
    """Return the example indices of one step: every epoch is its own permutation, batches run on across epochs."""
    first = step * batch_size
    epochs = range(first // num_examples, (first + batch_size - 1) // num_examples + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(num_examples) for epoch in epochs])
    start = first - epochs[0] * num_examples
    return [int(index) for index in order[start : start + batch_size]]


def step_seed(seed: int, step: int, *part: int) -> int:
    """Return a 63-bit seed for the randomness of one step (masks, augmentation), or of a part of it (dropout)."""
    sequence = np.random.SeedSequence([seed, step], spawn_key=part)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int) -> Generator:
    """Return a fresh CPU generator for one step, independent of every other step's."""
    return torch.Generator().manual_seed(step_seed(seed, step))
