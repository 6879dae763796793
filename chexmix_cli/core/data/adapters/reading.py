"""What all readers do alike: reports to sections, and the words that data sets have for views and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chexmix_cli.core.data.lines import quoted
from chexmix_cli.core.data.manifest import OLDEST
from chexmix_cli.core.data.tables import blank_to_none
from chexmix_cli.core.data.views import View, view_of_code, words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.text.sections import read_sections, split_sections

_SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SEXES: Mapping[str, str] = {
    **dict.fromkeys(("f", "female", "w", "woman"), "F"),
    **dict.fromkeys(("m", "male", "man"), "M"),
    **dict.fromkeys(("o", "other", "diverse"), "O"),
}
#: Of an age in years, months, weeks, days.
_A_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
#: Words of view columns that name how the patient stood or lay, what the film was for, or nothing.
_NO_DIRECTION = frozenset(
    {"ERECT", "SUPINE", "UPRIGHT", "STANDING", "SITTING", "PORTABLE", "HORIZONTAL", "GENERAL", "PICC", "LINE", "UNK"}
)
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_TITLE = re.compile(r"\A\s*FINAL REPORT[^\S\n]*\n", re.IGNORECASE)
#: Sections whose last paragraph is not what the radiologist saw.
_NOT_FINDINGS = frozenset({"recommendation", "notification", "addendum", "wet_read"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The sections of a report that a manifest keeps, and the notes that say where they were found."""

    findings: str | None = None
    impression: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def fields(self, **notes: str) -> dict[str, Any]:
        """Return the report as an entry's fields, its notes joined by others."""
        return {"findings": self.findings, "impression": self.impression, "notes": {**notes, **self.notes}}


def tidy(text: object) -> str | None:
    """Return a text with its hard line breaks undone: a paragraph a line; None if it is blank.

    No word is changed or dropped. Blank are also the words that tables write for nothing (``nan``, ``None``).
    """
    stated = blank_to_none(text)
    if stated is None:
        return None
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(stated.replace("\r\n", "\n")))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph) or None


def named_sections(findings: object, impression: object, *, source: str = "{}") -> Report:
    """Return a report whose sections a data set has apart.

    Args:
        findings, impression: cells or JSON values.
        source: how the notes name them, ``{}`` standing for ``findings`` and ``impression``.
    """
    texts = {"findings": tidy(findings), "impression": tidy(impression)}
    notes = {f"{name}_source": source.format(name) for name, text in texts.items() if text is not None}
    return Report(findings=texts["findings"], impression=texts["impression"], notes=notes)


def read_report(text: object, *, source: str = "report", fallback: str = "none") -> Report:
    """Return the findings and impression of a whole report, by its headings.

    Args:
        text: the report.
        source: how the notes name it.
        fallback: what a report without both gives as its findings: ``last_paragraph``, ``whole``, or ``none``.
    """
    stated = blank_to_none(text)
    if stated is None:
        return Report()
    sections = read_sections(stated)
    report = named_sections(sections.findings, sections.impression, source=source + "/{}")
    if report.findings or report.impression or fallback == "none":
        return report
    if fallback == "whole":
        return Report(findings=tidy(stated), notes={"findings_source": source})
    paragraph = last_paragraph(stated)
    return Report(findings=paragraph, notes={"findings_source": f"{source}/last_paragraph"} if paragraph else {})


def last_paragraph(text: str) -> str | None:
    """Return the paragraph that ends a report without headings for what was seen; None if it ends in something else.

    A paragraph that is all of a section (``COMPARISON: None.``) belongs to it; one that follows it stands free.
    """
    section, body = [(name, part) for name, part in split_sections(_TITLE.sub("", text)) if part or name == "preamble"][
        -1
    ]
    paragraphs = [part for part in _PARAGRAPH.split(body) if part.strip()]
    if section in _NOT_FINDINGS or len(paragraphs) < (1 if section == "preamble" else 2):
        return None
    return tidy(paragraphs[-1])


def read_split(text: str | None) -> str | None:
    """Return ``train``, ``val`` or ``test`` for the words that data sets have for them, None for a blank.

    Raises:
        DataError: ``BAD_RECORD`` on another word.
    """
    stated = blank_to_none(text)
    if stated is None:
        return None
    split = _SPLITS.get(stated.lower())
    if split is None:
        raise DataError(Reason.BAD_RECORD, f"split is {quoted(stated, _SPLITS)}", expected=", ".join(_SPLITS))
    return split


def read_sex(text: str | None) -> str | None:
    """Return ``F``, ``M`` or ``O`` for the words that data sets have for them, None for a blank or another word."""
    return _SEXES.get((blank_to_none(text) or "").lower())


def read_age(text: str | None) -> float | None:
    """Return an age in years: of a number, or of DICOM's form ``058Y``, ``013M`` (PS3.5 6.2, AS); None of all else.

    Some data sets have ages of several hundred years: they are mistakes, and no age.
    """
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)([YMWD]?)", (blank_to_none(text) or "").upper())
    if found is None:
        return None
    years = round(float(found[1]) / _A_YEAR[found[2] or "Y"], 2)
    return years if years <= OLDEST else None


def read_view(text: str | None) -> View:
    """Return the view that a data set's column states; UNKNOWN where it states a posture, or nothing."""
    stated = blank_to_none(text)
    if stated is None or set(words(stated)) <= _NO_DIRECTION:
        return View.UNKNOWN
    return view_of_code(stated)


def first_view(*stated: tuple[str, View]) -> tuple[View, dict[str, str]]:
    """Return the first view that is known, and the note that names its source."""
    for source, view in stated:
        if view is not View.UNKNOWN:
            return view, {"view_source": source}
    return View.UNKNOWN, {}
