"""Keys of ids, for lists of millions: what has an id occurred before?"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

#: Keys that are not in order yet; a key of Python's own takes ten times the memory.
_MOST_RECENT = 4096


def id_key(record_id: str) -> int:
    """Return 64 bits that stand for an id; that two ids have the same would take billions of them."""
    digest = hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class SeenIds:
    """Ids that have occurred, at 8 bytes each."""

    def __init__(self) -> None:
        #: Sorted, each of at least twice the next one's length: few to look into. One array that grew by a step at a
        #: time would leave a hole behind each time that no later one fits into.
        self._runs: list[NDArray[np.uint64]] = []
        self._recent: set[int] = set()

    def add(self, record_id: str) -> bool:
        """Take note of an id; return whether it is new."""
        key = id_key(record_id)
        if key in self._recent or self._is_in_order(np.uint64(key)):
            return False
        self._recent.add(key)
        if len(self._recent) == _MOST_RECENT:
            run_N = np.fromiter(self._recent, np.uint64, _MOST_RECENT)
            run_N.sort()
            while self._runs and len(self._runs[-1]) == len(run_N):
                # In two runs, which a stable sort merges.
                run_N = np.sort(np.concatenate([self._runs.pop(), run_N]), kind="stable")
            self._runs.append(run_N)
            self._recent.clear()
        return True

    def _is_in_order(self, key: np.uint64) -> bool:
        for run_N in self._runs:
            place = run_N.searchsorted(key)
            if place < len(run_N) and run_N[place] == key:
                return True
        return False
