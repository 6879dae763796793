"""Reads findings off a chest radiograph report by rules: which are stated, denied, doubted or not spoken of.

Sentence by sentence, of the findings and the impression only (of the whole text where it has no such headings): phrases
that name a finding are found, then words that deny or doubt it, each within its reach: over a list (``no effusion or
pneumothorax``), up to a ``but``, a ``;``, a comma that begins a new statement. What is asked for, remembered or to be
followed up (``history of``, ``to exclude``) counts as not spoken of. Where the rules are unsure they say uncertain or
nothing rather than present: docs/report-metrics.md has the agreement with people's labels. The phrases are data, in
``finding_patterns.py`` and ``denial_patterns.py``; nothing is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from chexmix_cli.core.text import denial_patterns as cues
from chexmix_cli.core.text import finding_patterns as patterns
from chexmix_cli.core.text.sections import read_sections

NO_FINDING = "No Finding"
#: Every finding that can be read.
READABLE: tuple[str, ...] = (NO_FINDING, *patterns.FINDINGS)

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

_ABBREVIATIONS = re.compile(r"\b(?:dr|mr|mrs|ms|vs|e\.g|i\.e|approx|no|st)\.$", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)|\n\s*\n|\n(?=\s*(?:\d+[.)]|[-*•]) )|(?<=\s)\d{1,2}[.)](?=\s+[A-Z])")
_LIST_WORD = re.compile(r"\b(?:or|nor)\b")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|remains?|appears?|shows?|seen|noted)\b")
#: Words between a phrase and the word behind it that denies it.
_MOST_WORDS_BETWEEN = 6


@dataclass(frozen=True, slots=True)
class Mention:
    """A phrase that names a concept.

    Attributes:
        concept: key of ``finding_patterns.CONCEPTS``.
        label: 1 stated, 0 denied, -1 doubted.
        start, end: where the phrase stands in its sentence.
    """

    concept: str
    label: int
    start: int
    end: int


def label_report(text: str, findings: Iterable[str]) -> dict[str, int | None]:
    """Return the label of each finding: 1 present, 0 absent, -1 uncertain, None not spoken of.

    A finding that is stated once is present, whatever is said elsewhere; else one doubted once is uncertain.
    ``No Finding`` is 1 if the film is called normal or something is denied, and nothing but devices is present or
    uncertain; 0 if something is; None if the text says neither.

    Args:
        text: a report, with or without headings. Empty: everything is None.
        findings: of ``READABLE``.

    Raises:
        KeyError: on a finding that is not readable.
    """
    stated = label_concepts(text)
    found: dict[str, int | None] = {}
    for finding in findings:
        if finding == NO_FINDING:
            found[finding] = _no_finding(text, stated)
        else:
            found[finding] = _strongest(stated[name] for name in patterns.FINDINGS[finding] if name in stated)
    return found


def label_concepts(text: str) -> dict[str, int]:
    """Return the label of every concept that the report speaks of."""
    labels: dict[str, list[int]] = {}
    for sentence in sentences(labelled_text(text)):
        for mention in find_mentions(sentence):
            labels.setdefault(mention.concept, []).append(mention.label)
    return {concept: label for concept, all_of in labels.items() if (label := _strongest(all_of)) is not None}


def labelled_text(text: str) -> str:
    """Return what is labelled: findings and impression, or the text before any heading where there is neither."""
    sections = read_sections(text)
    parts = [part for part in (sections.findings, sections.impression) if part]
    if not parts and sections.preamble:
        parts = [sections.preamble]
    return "\n\n".join(parts)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, without white space at their ends; lists and paragraphs end one too."""
    return [text[start:end].strip() for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence starts and ends, white space at its ends included."""
    found, start = [], 0
    for match in _SENTENCE.finditer(text):
        if match[0].startswith(".") and _ABBREVIATIONS.search(text, max(0, match.start() - 8), match.start() + 1):
            continue
        found.append((start, match.end()))
        start = match.end()
    found.append((start, len(text)))
    return [(start, end) for start, end in found if re.search(r"\w", text[start:end])]


def find_mentions(sentence: str) -> list[Mention]:
    """Return the concepts a sentence names, in order, with what it says of them."""
    text = " ".join(sentence.lower().split())
    by_themselves = list(_self_contained(text))
    taken = [(mention.concept, mention.start, mention.end) for mention in by_themselves]
    scopes = _Scopes(text)
    found = list(by_themselves)
    for concept, pattern in _concepts().items():
        for match in pattern.finditer(text):
            if any(concept == name and start < match.end() and match.start() < end for name, start, end in taken):
                continue
            label = scopes.label(match.start(), match.end())
            if label is not None:
                found.append(Mention(concept, label, match.start(), match.end()))
    return sorted(found, key=lambda mention: (mention.start, mention.end, mention.concept))


def _self_contained(text: str) -> Iterator[Mention]:
    """Yield statements whose own words say yes, no or maybe: ``the heart is enlarged``, ``the lungs are clear``."""
    for label, table in ((ABSENT, _denials()), (UNCERTAIN, _doubts())):
        for concept, pattern in table.items():
            for match in pattern.finditer(text):
                denied = _Scopes(text).label(match.start(), match.end()) if label == UNCERTAIN else label
                if denied is not None:
                    yield Mention(concept, ABSENT if denied == ABSENT else label, match.start(), match.end())
    for concept, (big, doubtful) in _sizes().items():
        for match in doubtful.finditer(text):
            yield Mention(concept, UNCERTAIN, match.start(), match.end())
        for match in big.finditer(text):
            between = match["gap"]
            if re.search(r"\b(?:not|no longer|nor)\b", between):
                yield Mention(concept, ABSENT, match.start(), match.end())
            elif re.search(r"\b(?:borderline|may|possibly|probably|might|could|upper)\b", between):
                yield Mention(concept, UNCERTAIN, match.start(), match.end())
            elif not re.search(r"\b(?:normal|unchanged|stable|unremarkable)\b", between):
                yield Mention(concept, PRESENT, match.start(), match.end())


class _Scopes:
    """The words of one sentence that deny and doubt, and how far each reaches."""

    def __init__(self, text: str) -> None:
        self._text = text
        pseudo = [match.span() for match in _any(cues.PSEUDO_DENIALS).finditer(text)]
        doubts = _spans(cues.DOUBTS_AFTER, text)
        doubted_before = _spans(cues.DOUBTED_BEFORE, text)
        # "cannot exclude", "not excluded": the denial in it is none.
        self._denies_after = _outside(_spans(cues.DENIES_AFTER, text), [*pseudo, *doubts, *doubted_before])
        self._doubts_after = doubts
        self._denied_before = _outside(_spans(cues.DENIED_BEFORE, text), [*pseudo, *doubted_before])
        self._doubted_before = doubted_before
        self._spoken = _spans(cues.SPOKEN_OF_ONLY, text)
        self._spoken_before = _spans(cues.SPOKEN_OF_BEFORE, text)
        self._breaks = [match.span() for match in re.finditer("|".join(cues.BREAKS), text)]
        self._breaks += [match.span() for match in _openers().finditer(text) if not self._goes_on(match)]

    def label(self, start: int, end: int) -> int | None:
        """Return what is said of the phrase at a place: 1, 0, -1, or None if it is only spoken of."""
        if self._behind(self._spoken_before, end) or self._text.endswith("?"):
            return None
        if self._reaches(self._spoken, start) and not self._behind(self._denied_before, end):
            return None
        if self._reaches(self._denies_after, start) or self._behind(self._denied_before, end):
            return ABSENT
        if self._reaches(self._doubts_after, start) or self._behind(self._doubted_before, end):
            return UNCERTAIN
        return PRESENT

    def _reaches(self, found: Sequence[tuple[int, int]], start: int) -> bool:
        return any(
            cue_end <= start and not any(cue_end <= low and high <= start for low, high in self._breaks)
            for _, cue_end in found
        )

    def _behind(self, found: Sequence[tuple[int, int]], end: int) -> bool:
        """Return whether a word of denial follows soon, with no other statement in between."""
        for cue_start, _ in found:
            between = self._text[end:cue_start]
            if cue_start < end or len(between.split()) > _MOST_WORDS_BETWEEN or ";" in between:
                continue
            # "Opacity, atelectasis versus pneumonia" leaves the opacity as it is.
            if self._text.startswith("v", cue_start) and "," in between:
                continue
            if not _VERB.search(between) and not any(end <= low and high <= cue_start for low, high in self._breaks):
                return True
        return False

    def _goes_on(self, opener: re.Match[str]) -> bool:
        """Return whether a list goes on behind a comma: an ``or`` later in the clause says so."""
        stop = min((low for low, _ in self._breaks if low > opener.end()), default=len(self._text))
        return _LIST_WORD.search(self._text, opener.end(), stop) is not None


def _no_finding(text: str, stated: Mapping[str, int]) -> int | None:
    others = [label for concept, label in stated.items() if concept != "device"]
    if any(label != ABSENT for label in others):
        return ABSENT
    if others or _any(patterns.NORMAL_FILM).search(" ".join(labelled_text(text).lower().split())):
        return PRESENT
    return None


def _strongest(labels: Iterable[int]) -> int | None:
    found = set(labels)
    return next((label for label in (PRESENT, UNCERTAIN, ABSENT) if label in found), None)


def _spans(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _any(tuple(words)).finditer(text)]


def _outside(spans: list[tuple[int, int]], covers: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(low, high) for low, high in spans if not any(low < end and start < high for start, end in covers)]


@cache
def _any(words: tuple[str, ...]) -> re.Pattern[str]:
    """Compile alternatives, the longest first, between word boundaries."""
    return re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(words, key=len, reverse=True))})(?![\w-])")


@cache
def _concepts() -> dict[str, re.Pattern[str]]:
    # A hyphen in front belongs to a phrase ("fluid-overload"), one behind may join another ("mass-like").
    return {
        name: re.compile(rf"(?<!\w)(?:{'|'.join(sorted(words, key=len, reverse=True))})(?!\w)")
        for name, words in patterns.CONCEPTS.items()
    }


@cache
def _denials() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rf"\b(?:{'|'.join(words)})\b") for name, words in patterns.DENIALS.items()}


@cache
def _doubts() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rf"\b(?:{'|'.join(words)})\b") for name, words in patterns.DOUBTS.items()}


@cache
def _sizes() -> dict[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    """Return, for each concept with a size, what says that it is too big, and that it is doubtful."""
    gap = r"(?: (?!but\b|and the\b|with\b)[\w/-]+){0,6}? "
    found = {}
    for name, (subject, big, doubtful) in patterns.SIZES.items():
        found[name] = (
            re.compile(rf"\b(?:{subject})\b(?P<gap>{gap})(?:{big})(?!\w)"),
            re.compile(rf"\b(?:(?:{subject})\b{gap}(?:{doubtful})|(?:{doubtful}) (?:\w+ )?(?:{subject}))\b"),
        )
    return found


@cache
def _openers() -> re.Pattern[str]:
    return re.compile(rf"(?:,|\band\b)(?: and| with)?(?= (?:a |an |the )?(?:{'|'.join(cues.OPENERS)})\b)")
