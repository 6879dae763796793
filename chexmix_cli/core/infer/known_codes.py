"""Codes of films that were encoded before, known by their pixels. Shape letters: C channels, Y X pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

#: Films kept: at the released size 4 MB of codes.
_MOST = 1024


class KnownCodes:
    """Codes of the films of one image tokenizer; the one least recently asked for goes first.

    Args:
        most: films kept; 0 keeps nothing.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._codes: OrderedDict[bytes, NDArray[np.int32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._codes)

    def find(self, pixels_CYX: NDArray[np.float32]) -> list[int] | None:
        """Return the codes of a film; None: it has to be encoded."""
        if not self._codes:
            return None
        key = _key(pixels_CYX)
        found_P = self._codes.get(key)
        if found_P is None:
            return None
        self._codes.move_to_end(key)
        codes: list[int] = found_P.tolist()
        return codes

    def keep(self, pixels_CYX: NDArray[np.float32], codes: Sequence[int]) -> None:
        """Keep the codes of a film."""
        if not self._most:
            return
        self._codes[_key(pixels_CYX)] = np.array(codes, np.int32)
        while len(self._codes) > self._most:
            self._codes.popitem(last=False)

    def forget(self) -> None:
        """Hold nothing any more: where codes depend on the films beside a film, they would tell what came before."""
        self._codes.clear()


def _key(pixels_CYX: NDArray[np.float32]) -> bytes:
    return blake2b(np.ascontiguousarray(pixels_CYX).data, digest_size=16).digest()
