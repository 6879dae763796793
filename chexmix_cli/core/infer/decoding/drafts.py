"""Drafters propose the next tokens of a report, for the engine to verify several positions in one pass.

A rejected draft token costs a position of a pass, never a wrong id (``engine.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol


class Drafter(Protocol):
    """Proposes what follows."""

    def draft(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Return up to ``count`` proposed ids after a row's prompt and new ids, nearest first."""


class OwnText:
    """What followed the last time a row said the same: its latest longest match, prompt included.

    Args:
        longest: most ids that are compared.
        shortest: a shorter match proposes nothing.
    """

    def __init__(self, *, longest: int = 8, shortest: int = 2) -> None:
        self._longest, self._shortest = longest, shortest

    def draft(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Return what followed the match; past the row's end it continues from its own proposal."""
        ids = list(token_ids)
        best, behind = self._shortest - 1, 0
        for place in _earlier(ids):
            if best >= self._longest:
                break
            length = 1
            while length < self._longest and length <= place and ids[place - length] == ids[-1 - length]:
                length += 1
            if length > best:
                best, behind = length, place + 1
        if not behind:
            return []
        for _ in range(count):
            ids.append(ids[behind])
            behind += 1
        return ids[len(token_ids) :]


class Together:
    """Several drafters: each continues where those before it propose nothing more."""

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters

    def draft(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Return up to ``count`` ids."""
        found: list[int] = []
        for drafter in self._drafters:
            if len(found) < count:
                found += drafter.draft([*token_ids, *found], count - len(found))
        return found


def _earlier(ids: list[int]) -> Iterator[int]:
    """Yield the earlier indices of the last id, latest first."""
    backwards, place = ids[::-1], 0
    with suppress(ValueError):
        while True:
            place = backwards.index(ids[-1], place + 1)
            yield len(ids) - 1 - place
