"""Words that claim a comparison with an earlier study: what a report of a single study cannot know."""

from __future__ import annotations

from chexmix_cli.core.text.word_phrases import find_phrases

#: Spelled as ``word_phrases.py`` says.
PHRASES: tuple[str, ...] = (
    "unchang*", "stable", "stabil*", "interval", "previous*", "prior", "priors", "compar*", "earlier", "again",
    "redemonstrat*", "re-demonstrat*", "new", "newly", "worse", "worsen*", "improv*", "resolv*", "resolution",
    "persist*", "progress*", "regress*", "since", "decreas*", "increasing*", "enlarging", "has increased",
    "have increased", "increased from", "increased since", "no longer", "no change", "not changed", "has changed",
    "have changed", "significant change", "recurrent",
)  # fmt: skip


def find_comparisons(text: str) -> list[str]:
    """Return the words of a text that claim a comparison, in lower case and in order."""
    return find_phrases(text, PHRASES)
