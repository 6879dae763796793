"""Pools of pairs: drawn by seed and id, or balanced by class (5x200). N pairs, n of a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def draw_order(ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the indices of ids in the order a seed draws them, (N,) int64.

    An id's turn depends on the seed and itself alone, so the first n of the order are the same pool whatever order the
    ids came in, and a pool holds every smaller one of its seed.
    """
    turns = [
        blake2b(item.encode("utf-8", "surrogateescape"), digest_size=16, key=str(seed).encode()).digest()
        for item in ids
    ]
    return np.array(sorted(range(len(ids)), key=lambda place: (turns[place], ids[place])), np.int64)


def exclusive_class(labels: Mapping[str, int | None], classes: Sequence[str]) -> int | None:
    """Return the index of the one class that is present (1) while no other is present or uncertain, or None."""
    present = [number for number, name in enumerate(classes) if labels.get(name) == 1]
    doubtful = any(labels.get(name) == -1 for name in classes)
    return present[0] if len(present) == 1 and not doubtful else None


def class_pool(
    ids: Sequence[str], classes_N: Sequence[int | None], *, per_class: int, seed: int
) -> dict[int, NDArray[np.int64]]:
    """Return the indices drawn of each class, in ascending order; fewer where there are not enough.

    Args:
        ids: of all pairs.
        classes_N: the class of each, from :func:`exclusive_class`.
        per_class: pairs drawn a class.
        seed: of the draw.
    """
    found: dict[int, list[int]] = {}
    for place in draw_order(ids, seed).tolist():
        number = classes_N[place]
        if number is not None and len(found.setdefault(number, [])) < per_class:
            found[number].append(place)
    return {number: np.sort(np.array(places, np.int64)) for number, places in sorted(found.items())}
