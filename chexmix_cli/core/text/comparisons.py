"""Words that claim a comparison with an earlier study: what a report of a single study cannot know.

Every phrase is one or two words, matched in any case at the beginning of a word; those with a star go on as any word
does (``improv*``: improved, improving, improvement). ``core/infer/reports/comparison_guard.py`` keeps the same
phrases from being written at all.
"""

from __future__ import annotations

import re
from functools import cache

#: In lower case, words one space apart.
PHRASES: tuple[str, ...] = (
    "unchang*", "stable", "stabil*", "interval", "previous*", "prior", "priors", "compar*", "earlier", "again",
    "redemonstrat*", "re-demonstrat*", "new", "newly", "worse", "worsen*", "improv*", "resolv*", "resolution",
    "persist*", "progress*", "regress*", "since", "decreas*", "increasing*", "enlarging", "has increased",
    "have increased", "increased from", "increased since", "no longer", "no change", "not changed", "has changed",
    "have changed", "significant change", "recurrent",
)  # fmt: skip


def find_comparisons(text: str) -> list[str]:
    """Return the words of a text that claim a comparison, in lower case and in order."""
    return [" ".join(match[0].lower().split()) for match in _pattern().finditer(text)]


def split_phrase(phrase: str) -> tuple[str, bool]:
    """Return the letters of a phrase, and whether the word may go on behind them."""
    return phrase.removesuffix("*"), phrase.endswith("*")


@cache
def _pattern() -> re.Pattern[str]:
    parts = []
    for phrase in sorted(PHRASES, key=len, reverse=True):
        letters, goes_on = split_phrase(phrase)
        parts.append(r"\s+".join(map(re.escape, letters.split())) + (r"\w*" if goes_on else r"(?!\w)"))
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})", re.IGNORECASE | re.ASCII)
