"""Keeps phrases from being written: an id is denied if the text would then hold one of them.

A phrase counts as written once its letters stand at the beginning of a word, so ``new`` also keeps out ``newborn``; one
in capitals (``PA``) once no letter follows it in the same id. The report has no match of ``core/text/word_phrases.py``,
whatever the ids are that its words are made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.text.word_phrases import is_capital, split_phrase

#: Bytes of a row's text that are kept: more than the longest phrase, and what stands in front of it.
_TAIL = 48
_SPACES = re.compile(rb"\s+")


class PhraseGuard:
    """What may not come next, for each row of one batch (``engine.TokenGuard``).

    Args:
        tokenizer: of the model; ids that stand for no text are never denied.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        ids = range(tokenizer.vocabulary.num_text)
        self._text = {token_id: _plain(text) for token_id in ids if (text := tokenizer.token_bytes(token_id))}
        self._sets: dict[tuple[str, ...], _Phrases] = {}
        self._rows: list[_Phrases | None] = []
        self._tails: dict[int, bytes] = {}

    def reset(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Begin another batch.

        Args:
            rows: the phrases that each row's text must not hold; none at all deny nothing.
        """
        for phrases in rows:
            if phrases and phrases not in self._sets:
                self._sets[phrases] = _Phrases(phrases, self._text)
        self._rows = [self._sets[phrases] if phrases else None for phrases in rows]
        self._tails.clear()

    def denied(self, row: int, ahead: Sequence[int] = ()) -> Sequence[int]:
        """Return the ids that would complete a phrase, were these ``ahead`` written first."""
        phrases = self._rows[row]
        if phrases is None:
            return ()
        tail = self._tails.get(row, b"")
        for token_id in ahead:
            tail = self._behind(tail, token_id)
        return phrases.completed_by(tail)

    def push(self, row: int, token_id: int) -> None:
        """Append an id's text to a row."""
        if self._rows[row] is not None:
            self._tails[row] = self._behind(self._tails.get(row, b""), token_id)

    def _behind(self, tail: bytes, token_id: int) -> bytes:
        return _plain(tail + self._text.get(token_id, b""))[-_TAIL:]


class _Phrases:
    """One set of phrases, and the ids that end them."""

    def __init__(self, phrases: tuple[str, ...], text: Mapping[int, bytes]) -> None:
        self._text, self._lower = text, {token_id: piece.lower() for token_id, piece in text.items()}
        letters = {split_phrase(phrase)[0]: is_capital(phrase) for phrase in phrases}
        longest_first = sorted(letters, key=len, reverse=True)
        # White space is one space where this is looked for.
        parts = (
            re.escape(word) + r"(?![A-Za-z])" if letters[word] else f"(?i:{re.escape(word)})" for word in longest_first
        )
        self._written = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})".encode())
        #: How much of a phrase may stand there already, to what would then be left of it.
        self._rests: dict[bytes, list[bytes]] = {}
        for word in (word.lower().encode() for word in longest_first):
            for count in range(len(word)):
                self._rests.setdefault(word[:count], []).append(word[count:])
        self._longest = max(map(len, self._rests))
        # A phrase after something that ends a word is denied wherever it occurs.
        self._always = {token_id for token_id, piece in text.items() if self._holds_phrase(piece)}
        self._starting: dict[bytes, list[int]] = {}
        self._completed: dict[bytes, list[int]] = {}

    def completed_by(self, tail: bytes) -> list[int]:
        """Return the ids behind which a phrase ends, or stands, in what was written."""
        lower = tail.lower()
        starts = range(max(0, len(lower) - self._longest), len(lower) + 1)
        # All that counts is the longest beginning of a phrase at the end, and whether a word goes on in front of it.
        known = tail[max(0, next(start for start in starts if lower[start:] in self._rests) - 1) :]
        if known not in self._completed:
            self._completed[known] = sorted(self._find(known))
        return self._completed[known]

    def _find(self, tail: bytes) -> set[int]:
        found, lower = set(self._always), tail.lower()
        for start in range(len(lower) + 1):
            for rest in self._rests.get(lower[start:], ()):
                found.update(
                    token_id
                    for token_id in self._that_start(rest)
                    if self._written.search(_plain(tail + self._text[token_id]))
                )
        return found

    def _that_start(self, rest: bytes) -> list[int]:
        """Return the ids whose text starts with the rest of a phrase; white space in front may join the row's."""
        if rest not in self._starting:
            wanted = rest.lstrip()
            self._starting[rest] = [
                token_id
                for token_id, text in self._lower.items()
                if text.startswith(rest) or text.lstrip().startswith(wanted)
            ]
        return self._starting[rest]

    def _holds_phrase(self, text: bytes) -> bool:
        return any(match.start() > 0 for match in self._written.finditer(text))


def _plain(text: bytes) -> bytes:
    """Return a text with every run of white space one space."""
    return _SPACES.sub(b" ", text)
