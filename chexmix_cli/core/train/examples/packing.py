"""Which documents lie in which row: a pure function of seed, epoch and lengths, for any number of processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.settings.training import PackingSettings


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens ``start`` to ``stop`` of a document; all of them unless a row's end cuts it."""

    document: int
    start: int
    stop: int


class RowPlan:
    """Rows, numbered on across epochs. Every epoch is a permutation of the documents, laid into rows in its order.

    With attention inside documents a row takes the next whole documents as long as they fit. With attention across
    them the epoch is one stream, cut every ``row_tokens``; its last row is shorter.

    Args:
        lengths: tokens of each document.
        settings: size and kind of the rows.
        seed: of the permutations.

    Raises:
        TrainingError: if a document fits no row.
    """

    def __init__(self, lengths: Sequence[int], settings: PackingSettings, seed: int) -> None:
        self._length_N = np.asarray(lengths, dtype=np.int64)
        self._settings, self._seed = settings, seed
        longest = int(self._length_N.max())
        if settings.attention == "inside" and 0 < settings.row_tokens < longest:
            raise TrainingError(
                f"a document has {longest} tokens",
                where="packing.row_tokens",
                expected=f"at least so many, not {settings.row_tokens}; or packing.attention = 'paper', which cuts",
            )
        self._starts = [0]  # of each epoch seen so far, in rows; then of the one after it
        self._epoch = lru_cache(maxsize=2)(self._lay_out)

    def __reduce__(self) -> tuple[type[RowPlan], tuple[Sequence[int], PackingSettings, int]]:
        """Pickle what rows follow from, for processes that prepare batches."""
        return RowPlan, (self._length_N.tolist(), self._settings, self._seed)

    def row(self, number: int) -> list[Piece]:
        """Return the contents of a row, in order."""
        while number >= self._starts[-1]:
            self._starts.append(self._starts[-1] + self._num_rows(len(self._starts) - 1))
        epoch = bisect_right(self._starts, number) - 1
        order_N, end_N, row_ends = self._epoch(epoch)
        place = number - self._starts[epoch]
        first, last = (int(row_ends[place - 1]) if place else 0), int(row_ends[place])
        return [
            self._piece(int(order_N[at]), int(end_N[at]), first, last)
            for at in range(
                int(np.searchsorted(end_N, first, side="right")), int(np.searchsorted(end_N, last, side="left")) + 1
            )
        ]

    def _piece(self, document: int, end: int, first: int, last: int) -> Piece:
        begin = end - int(self._length_N[document])
        return Piece(document, max(first, begin) - begin, min(last, end) - begin)

    def _num_rows(self, epoch: int) -> int:
        if self._settings.row_tokens == 0:
            return len(self._length_N)
        return len(self._epoch(epoch)[2])

    def _lay_out(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's documents in order, and where in its stream of tokens each of them, and each row, ends."""
        order_N = np.random.default_rng([self._seed, epoch]).permutation(len(self._length_N))
        end_N = np.cumsum(self._length_N[order_N])
        size = self._settings.row_tokens
        if size == 0:
            return order_N, end_N, end_N
        if self._settings.attention == "paper":
            ends = np.arange(size, end_N[-1] + size, size)
            return order_N, end_N, np.minimum(ends, end_N[-1])
        found = [0]
        while found[-1] < end_N[-1]:
            found.append(int(end_N[np.searchsorted(end_N, found[-1] + size, side="right") - 1]))
        return order_N, end_N, np.array(found[1:], dtype=np.int64)
