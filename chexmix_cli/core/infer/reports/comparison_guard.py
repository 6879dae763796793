"""Keeps words of comparison from being written: an id is denied if the text would then hold one of the phrases.

A phrase counts as written once its letters stand at the beginning of a word, so ``new`` also keeps out ``newborn``.
The report has no match of ``core/text/comparisons.py``, whatever the ids are that its words are made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from chexmix_cli.core.text.comparisons import PHRASES, split_phrase
from chexmix_cli.core.text.tokenizer import TextTokenizer

#: Bytes of a row's text that are kept: more than the longest phrase, and what stands in front of it.
_TAIL = 48
_SPACES = re.compile(rb"\s+")
_LETTERS = [split_phrase(phrase)[0].encode() for phrase in PHRASES]
#: White space is one space where this is looked for.
_WRITTEN = re.compile(rb"(?<!\w)(?:" + b"|".join(map(re.escape, sorted(_LETTERS, key=len, reverse=True))) + rb")")


class ComparisonGuard:
    """What may not come next, for each row of one batch (``engine.TokenGuard``).

    Args:
        tokenizer: of the model; ids that stand for no text are never denied.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._num_text = tokenizer.vocabulary.num_text
        self._text = {
            token_id: _plain(text) for token_id in range(self._num_text) if (text := tokenizer.token_bytes(token_id))
        }
        # A phrase after something that ends a word is denied wherever it occurs.
        self._always = [token_id for token_id, text in self._text.items() if _holds_phrase(text)]
        self._starting: dict[bytes, list[int]] = {}
        self._tails: dict[int, bytes] = {}

    def reset(self) -> None:
        """Begin another batch."""
        self._tails.clear()

    def denied(self, row: int, ahead: Sequence[int] = ()) -> Sequence[int]:
        """Return the ids that would complete a phrase, were these ``ahead`` written first."""
        tail = self._tails.get(row, b"")
        for token_id in ahead:
            tail = self._behind(tail, token_id)
        found = set(self._always)
        for letters in _LETTERS:
            for count in range(len(letters)):
                if tail.endswith(letters[:count]):
                    found.update(
                        token_id
                        for token_id in self._that_start(letters[count:])
                        if _WRITTEN.search(_plain(tail + self._text[token_id]))
                    )
        return sorted(found)

    def push(self, row: int, token_id: int) -> None:
        """Append an id's text to a row."""
        self._tails[row] = self._behind(self._tails.get(row, b""), token_id)

    def _behind(self, tail: bytes, token_id: int) -> bytes:
        return _plain(tail + self._text.get(token_id, b""))[-_TAIL:]

    def _that_start(self, rest: bytes) -> list[int]:
        """Return the ids whose text starts with the rest of a phrase; white space in front may join the row's."""
        if rest not in self._starting:
            wanted = rest.lstrip()
            self._starting[rest] = [
                token_id
                for token_id, text in self._text.items()
                if text.startswith(rest) or text.lstrip().startswith(wanted)
            ]
        return self._starting[rest]


def _plain(text: bytes) -> bytes:
    """Return a text in lower case with every run of white space one space."""
    return _SPACES.sub(b" ", text.lower())


def _holds_phrase(text: bytes) -> bool:
    return any(match.start() > 0 for match in _WRITTEN.finditer(text))
