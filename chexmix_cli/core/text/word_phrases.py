"""Phrases that are looked for in reports, or kept out of them: how they are spelled, and where a text has them.

A phrase is matched in any case at the beginning of a word, its words with any white space between; with a star the last
word may go on (``improv*``: improved, improvement). One in capitals (``PA``) is matched in capitals only, as a word.
``core/infer/reports/phrase_guard.py`` keeps the same phrases from being written.
"""

from __future__ import annotations

import re
from functools import cache


def find_phrases(text: str, phrases: tuple[str, ...]) -> list[str]:
    """Return the phrases that a text has, as they stand there but in lower case unless in capitals, in order."""
    found = (" ".join(match[0].split()) for match in _pattern(phrases).finditer(text))
    return [phrase if phrase in phrases and is_capital(phrase) else phrase.lower() for phrase in found]


def split_phrase(phrase: str) -> tuple[str, bool]:
    """Return the letters of a phrase, and whether the word may go on behind them."""
    return phrase.removesuffix("*"), phrase.endswith("*")


def is_capital(phrase: str) -> bool:
    """Return whether a phrase is matched in capitals only."""
    return phrase.isupper()


@cache
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    parts = []
    for phrase in sorted(phrases, key=len, reverse=True):
        letters, goes_on = split_phrase(phrase)
        words = r"\s+".join(map(re.escape, letters.split()))
        parts.append((words if is_capital(phrase) else f"(?i:{words})") + (r"\w*" if goes_on else r"(?!\w)"))
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})", re.ASCII)
