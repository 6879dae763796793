"""Keys of ids, for lists of millions: what has an id occurred before?"""

from __future__ import annotations

import hashlib

import numpy as np

#: Keys that are not in order yet; a key of Python's own takes ten times the memory.
_MOST_RECENT = 4096


def id_key(record_id: str) -> int:
    """Return 64 bits that stand for an id; that two ids have the same would take billions of them."""
    digest = hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class SeenIds:
    """Ids that have occurred, at 8 bytes each."""

    def __init__(self) -> None:
        self._sorted_N = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, record_id: str) -> bool:
        """Take note of an id; return whether it is new."""
        key = id_key(record_id)
        place = int(np.searchsorted(self._sorted_N, np.uint64(key)))
        if key in self._recent or (place < len(self._sorted_N) and int(self._sorted_N[place]) == key):
            return False
        self._recent.add(key)
        if len(self._recent) == _MOST_RECENT:
            recent_M = np.fromiter(self._recent, np.uint64, _MOST_RECENT)
            # In two runs, which a stable sort merges.
            recent_M.sort()
            self._sorted_N = np.sort(np.concatenate([self._sorted_N, recent_M]), kind="stable")
            self._recent.clear()
        return True
