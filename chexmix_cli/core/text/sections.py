"""Splits a free-text radiology report into its sections, by the headings that reports use.

Nothing is shortened, reworded or dropped: every character that is no heading ends up in one section. A heading counts

- at the start of a line with a colon or dash (``Findings: ...``), or alone on its line (``IMPRESSION``);
- inside a line with a colon, after the end of a sentence (``... normal. Impression: ...``) or in capitals
  (``... chest pain FINDINGS: ...``), as reports look whose line breaks were lost.

Headings that are not in the table, such as ``PA AND LATERAL CHEST:``, stay part of the section they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

#: Section -> the headings that open it. A combined heading opens the findings, which come first in it.
HEADINGS: Mapping[str, tuple[str, ...]] = {
    "findings": (
        "findings", "finding", "report", "chest findings", "findings and impression", "findings/impression",
        "findings / impression", "description", "observations",
    ),
    "impression": (
        "impression", "impressions", "conclusion", "conclusions", "opinion", "interpretation", "summary", "assessment",
        "diagnosis", "impression and recommendation", "impression and recommendations", "impression/recommendation",
        "impression/recommendations", "final impression", "overall impression",
    ),
    "comparison": ("comparison", "comparisons", "comparison study", "comparison studies", "comparison exam",
                   "compared to", "prior studies", "prior study"),
    "indication": (
        "indication", "indications", "clinical indication", "clinical indications", "history", "clinical history",
        "clinical information", "clinical data", "clinical details", "patient history", "indication/history",
        "history/indication", "indication and history", "reason for exam", "reason for examination",
        "reason for the exam", "reason for the examination", "reason for this exam", "reason for this examination",
        "reason for study", "reason for procedure", "reason", "medical condition", "clinical notes",
    ),
    "technique": ("technique", "techniques", "procedure", "procedure comments", "exam", "examination", "study",
                  "examination type", "exam type", "views", "projection", "protocol"),
    "recommendation": ("recommendation", "recommendations"),
    "notification": ("notification", "notifications", "communication"),
    "addendum": ("addendum", "final addendum"),
    "wet_read": ("wet read", "preliminary report", "preliminary read"),
}  # fmt: skip

#: The parts of a report that have a field of their own; the rest go to ``Sections.others``.
_FIELDS = ("findings", "impression", "comparison", "indication", "technique")

_SECTION_OF = {heading: section for section, headings in HEADINGS.items() for heading in headings}
_NAMES = "|".join(heading.replace(" ", r"[ \t]+") for heading in sorted(_SECTION_OF, key=len, reverse=True))
_HEADING = re.compile(
    rf"""
      ^[ \t]*(?:\*\*|__|\#+[ \t]*|\d+[.)][ \t]+)?        # Markdown or numbering before a heading
       (?P<line>{_NAMES})
       (?:[ \t]*:(?:\*\*|__)? | (?:\*\*|__)[ \t]*:? | [ \t]+[-\u2013\u2014](?=\s) | [ \t]*$)
    | (?<=[ \t])(?P<inside>{_NAMES})[ \t]*:
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.!?:;][\"')\]]*\s*\Z")
#: Characters before a heading among which a sentence ends: where line breaks were lost, their indents are still there.
_LOOK_BACK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """A report's sections, each stripped of white space at its ends; None where there is none, or no text in it.

    Attributes:
        preamble: what stands before the first heading: the whole text where there is no heading at all.
        others: recommendation, notification, addendum and wet read, by these names.
    """

    findings: str | None = None
    impression: str | None = None
    comparison: str | None = None
    indication: str | None = None
    technique: str | None = None
    preamble: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


def read_sections(text: str) -> Sections:
    """Return the sections of a report; a section that occurs twice is joined with a line break."""
    parts: dict[str, list[str]] = {}
    for section, body in split_sections(text):
        if body:
            parts.setdefault(section, []).append(body)
    joined = {section: "\n".join(bodies) for section, bodies in parts.items()}
    fields = {name: joined.pop(name, None) for name in (*_FIELDS, "preamble")}
    return Sections(**fields, others=joined)


def split_sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield section and stripped text in the order of the report, from the ``preamble`` on, empty ones included."""
    section, start = "preamble", 0
    for match in _HEADING.finditer(text):
        name = match["line"] or match["inside"]
        if not _is_heading(text, match, name):
            continue
        yield section, text[start : match.start()].strip()
        section, start = _SECTION_OF[" ".join(name.lower().split())], match.end()
    yield section, text[start:].strip()


def _is_heading(text: str, match: re.Match[str], name: str) -> bool:
    """Return whether a name in heading position is one: written with a capital, and not the middle of a sentence."""
    if not name[0].isupper():
        return False
    if match["line"]:
        return True
    return name.isupper() or _SENTENCE_END.search(text, max(0, match.start() - _LOOK_BACK), match.start()) is not None
