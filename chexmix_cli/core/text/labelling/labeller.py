"""Reads findings off a chest radiograph report by rules: which are stated, denied, doubted or not spoken of.

Sentence by sentence, of the findings and the impression only (of the whole text where it has no such headings): phrases
that name a finding are found, and ``scopes.py`` says what the words around each make of it. A finding that is a heading
with an answer (``Pneumothorax: none``) has what the answer says. Where the rules are unsure they say uncertain or
nothing rather than present: docs/report-metrics.md has the agreement with people's labels. The phrases are data, in
``finding_patterns.py`` and ``denial_patterns.py``; nothing is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from chexmix_cli.core.text.labelling import finding_patterns as patterns
from chexmix_cli.core.text.labelling.denial_patterns import ABSENT, PRESENT, UNCERTAIN
from chexmix_cli.core.text.labelling.scopes import Scopes
from chexmix_cli.core.text.sections import read_sections

NO_FINDING = "No Finding"
#: Every finding that can be read.
READABLE: tuple[str, ...] = (NO_FINDING, *patterns.FINDINGS)

_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|vs|e\.g|i\.e|approx|st)\.$", re.IGNORECASE)
#: No other character ends a line: a form feed or U+2028 is white space.
_NEW_LINE = r"(?:\r\n|\n|\r(?!\n))"
_SENTENCE_END = re.compile(
    rf"""
      (?:[.!] | (?<!\s)(?<!\A)\?(?!\s*(?i:yes|no|none|nil|negative|absent|present|possibl[ey])\b))+ (?=\s|$)
    | (?<=[a-z)])\.(?=[A-Z][a-z])
    | {_NEW_LINE}\s*{_NEW_LINE}
    | {_NEW_LINE}(?=\s*(?:(?:\d+[.)]|[-*\u2022])[ ]|[A-Za-z][\w ,/()&-]{{0,60}}?(?:[:=|]|[ ][-\u2013\u2014][ ])))
    | (?P<short>{_NEW_LINE})(?=[ \t]*[A-Z])
    | (?<=\s)\d{{1,2}}[.)](?=\s+[A-Z])
    """,
    re.VERBOSE,
)
#: A line that ends before this column, and not in the middle of a phrase, was not wrapped.
_LEAST_WRAPPED = 50
_MID_PHRASE = re.compile(
    r"(?:,|\b(?:an?|the|and|or|nor|of|in|at|on|to|with|without|no|is|are|from|for|by))[ \t]*\Z", re.IGNORECASE
)
#: Marks that are written in several ways, by the one that the patterns know.
_MARKS = str.maketrans({"\u2019": "'", "\u2013": "-", "\u2014": ":"})
_QUESTIONED = re.compile(r"(?<!\S)\?(?=\w)")
#: "Pneumothorax: none", "Lines, tubes = none", "Edema - no edema".
_HEADING = re.compile(r"(?:^|(?<=[.,;|] ))(?P<name>[^.;:=?|]{1,80}?)(?: ?[:=|] ?|\? | (?P<dash>-) )(?=\S)")
_ANSWER = re.compile(r"[^;|]*")


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
    uncertain; 0 if something is, or the film is called abnormal; None if the text says none of these.

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
    """Return what is labelled: findings and impression, or the text before any heading where there is neither.

    Its lines end with ``\n``, whatever they ended with.
    """
    sections = read_sections(text.replace("\r\n", "\n").replace("\r", "\n"))
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
    for match in _SENTENCE_END.finditer(text):
        if match[0].startswith(".") and _ABBREVIATION.search(text, max(0, match.start() - 8), match.start() + 1):
            continue
        if match["short"] and _is_wrapped(text, match.start()):
            continue
        found.append((start, match.end()))
        start = match.end()
    found.append((start, len(text)))
    return [(start, end) for start, end in found if re.search(r"\w", text[start:end])]


def _is_wrapped(text: str, line_end: int) -> bool:
    """Return whether a line goes on behind its end: it is long, or ends in the middle of a phrase."""
    line_start = 1 + max(text.rfind("\n", 0, line_end), text.rfind("\r", 0, line_end))
    return line_end - line_start >= _LEAST_WRAPPED or _MID_PHRASE.search(text, line_start, line_end) is not None


def find_mentions(sentence: str) -> list[Mention]:
    """Return the concepts a sentence names, in order, with what it says of them."""
    text = _QUESTIONED.sub("? ", " ".join(sentence.lower().translate(_MARKS).split()))
    named = sorted(
        (match.start(), match.end(), concept)
        for concept, pattern in _concepts().items()
        for match in pattern.finditer(text)
    )
    scopes = Scopes(text, [(start, end) for start, end, _ in named])
    found = list(_self_contained(text, scopes))
    taken = list(found)
    answers = list(_answers(text, scopes)) if named else []
    for start, end, concept in named:
        if any(concept == one.concept and one.start < end and start < one.end for one in taken):
            continue
        answer = next((one for one in answers if one.name_start < end <= one.name_end), None)
        if answer is None:
            label = scopes.label(start, end)
        elif any(concept == other and answer.start <= low and high <= answer.end for low, high, other in named):
            continue
        elif answer.is_dash:
            label = scopes.label(start, end)
        else:
            label = scopes.answer(answer.start, answer.end)
        if label is not None:
            found.append(Mention(concept, label, start, end))
    return sorted(found, key=lambda mention: (mention.start, mention.end, mention.concept))


@dataclass(frozen=True, slots=True)
class _Answer:
    """A heading within a sentence and where its answer stands."""

    name_start: int
    name_end: int
    start: int
    end: int
    is_dash: bool


def _answers(text: str, scopes: Scopes) -> Iterator[_Answer]:
    """Yield the headings of a sentence that have an answer."""
    headings = list(_HEADING.finditer(text))
    for place, heading in enumerate(headings):
        start, end = heading.span("name")
        if scopes.says(start, end):
            start = 1 + text.rfind(",", start, end)
            if not start or scopes.says(start, end):
                continue
        stop = headings[place + 1].start() if place + 1 < len(headings) else len(text)
        answer = _ANSWER.match(text, heading.end(), stop)
        stop = answer.end() if answer else stop
        yield _Answer(start, end, heading.end(), stop, heading["dash"] is not None)


def _self_contained(text: str, scopes: Scopes) -> Iterator[Mention]:
    """Yield statements whose own words say yes, no or maybe: ``the heart is enlarged``, ``the lungs are clear``."""
    for concept, pattern in _denials().items():
        for match in pattern.finditer(text):
            yield Mention(concept, ABSENT, match.start(), match.end())
    for concept, pattern in _doubts().items():
        for match in pattern.finditer(text):
            label = scopes.label(match.start(), match.end())
            if label is not None:
                yield Mention(concept, ABSENT if label == ABSENT else UNCERTAIN, match.start(), match.end())
    for concept, (big, doubtful) in _sizes().items():
        for match in doubtful.finditer(text):
            yield Mention(concept, UNCERTAIN, match.start(), match.end())
        for match in big.finditer(text):
            between = match["gap"]
            if re.search(r"\b(?:not|no longer|nor)\b", between):
                yield Mention(concept, ABSENT, match.start(), match.end())
            elif re.search(r"\b(?:borderline|may|possibly|probably|likely|might|could|upper)\b", between):
                yield Mention(concept, UNCERTAIN, match.start(), match.end())
            elif not re.search(r"\b(?:normal|unchanged|stable|unremarkable)\b", between):
                yield Mention(concept, PRESENT, match.start(), match.end())


def _no_finding(text: str, stated: Mapping[str, int]) -> int | None:
    others = [label for concept, label in stated.items() if concept != "device"]
    if any(label != ABSENT for label in others) or _film(patterns.ABNORMAL_FILM).search(_one_line(text)):
        return ABSENT
    return PRESENT if others or find_normal(text) else None


def find_normal(text: str) -> list[str]:
    """Return the words in which a report calls the film normal, or free of disease, as a whole; in lower case."""
    return [match[0] for match in _film(patterns.NORMAL_FILM).finditer(_one_line(text))]


def _one_line(text: str) -> str:
    return " ".join(labelled_text(text).lower().split())


def _strongest(labels: Iterable[int]) -> int | None:
    found = set(labels)
    return next((label for label in (PRESENT, UNCERTAIN, ABSENT) if label in found), None)


@cache
def _concepts() -> dict[str, re.Pattern[str]]:
    # A hyphen in front belongs to a phrase ("fluid-overload"), one behind may join another ("mass-like").
    return {
        name: re.compile(rf"(?<!\w)(?:{'|'.join(sorted(words, key=len, reverse=True))})(?!\w)")
        for name, words in patterns.CONCEPTS.items()
    }


@cache
def _film(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})\b")


@cache
def _denials() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rf"\b(?:{'|'.join(words)})\b") for name, words in patterns.DENIALS.items()}


@cache
def _doubts() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(rf"\b(?:{'|'.join(words)})\b") for name, words in patterns.DOUBTS.items()}


@cache
def _sizes() -> dict[str, tuple[re.Pattern[str], re.Pattern[str]]]:
    """Return, for each concept with a size, what says that it is too big, and that it is doubtful."""
    gap = r"(?: ?[:=])?(?: (?!but\b|and the\b|with\b)[\w/-]+[:=]?){0,6}? "
    found = {}
    for name, (subject, big, doubtful) in patterns.SIZES.items():
        found[name] = (
            re.compile(rf"\b(?:{subject})\b(?P<gap>{gap})(?:{big})(?!\w)"),
            re.compile(rf"\b(?:(?:{subject})\b{gap}(?:{doubtful})|(?:{doubtful}) (?:\w+ )?(?:{subject}))\b"),
        )
    return found
