"""Holds a report against itself and against what a head of findings says of the same film.

All by the rules of ``labeller.py``, so a contradiction is one that the labeller sees. A pneumonia, a consolidation or
an infiltrate is a lung opacity, too; the other way round nothing follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from chexmix_cli.core.text.header import CAUSE_PHRASES, VIEW_PHRASES
from chexmix_cli.core.text.labelling.labeller import NO_FINDING, READABLE, find_normal, label_report
from chexmix_cli.core.text.sections import read_sections
from chexmix_cli.core.text.word_phrases import find_phrases

LUNG_OPACITY = "Lung Opacity"
#: Findings that are an opacity of the lung by what they mean.
CLAIM_OPACITY = ("Pneumonia", "Consolidation", "Infiltration")
#: What "no acute abnormality" leaves no room for; an old finding may stand beside it.
_ACUTE = frozenset({"Pneumonia", "Consolidation", "Infiltration", "Edema", "Pneumothorax", "COVID-19"})
_LIMITED = re.compile(r"acute|active|new|focal|significant|definite")
_FINDINGS = tuple(name for name in READABLE if name != NO_FINDING)


class Agreement(StrEnum):
    """What a report says of a finding, beside another opinion on it; ``SILENT`` also where it is in doubt."""

    AGREES = "agrees"
    CONFLICTS = "conflicts"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two statements of one report that cannot both be right.

    Attributes:
        kind: ``finding`` (stated in one section, denied in the other), ``cause`` (of a pneumonia) or ``view``.
        what: the finding; or the causes, or the views, that are named.
    """

    kind: str
    what: tuple[str, ...]

    def __str__(self) -> str:
        said = " and ".join(self.what)
        return f"{said}: stated and denied" if self.kind == "finding" else f"{self.kind}: {said}"


def find_contradictions(text: str) -> list[Contradiction]:
    """Return what a report says against itself; a report in one section has no contradicting findings.

    A film called normal in one section and a finding stated in the other count as one of ``No Finding``; one called
    free of acute disease, beside an acute finding only.

    Args:
        text: a report, with or without headings.
    """
    sections = read_sections(text)
    found = []
    if sections.findings and sections.impression:
        first, second = (_labels(part, READABLE) for part in (sections.findings, sections.impression))
        found = [Contradiction("finding", (name,)) for name in _FINDINGS if {first[name], second[name]} == {0, 1}]
        if _excludes(sections.findings, first, second) or _excludes(sections.impression, second, first):
            found.append(Contradiction("finding", (NO_FINDING,)))
    causes = _named(text, CAUSE_PHRASES)
    if len(causes) > 1:
        found.append(Contradiction("cause", causes))
    # A lateral view beside one of these is a study's other film.
    frontal = tuple(view for view in _named(text, VIEW_PHRASES) if view in ("PA", "AP"))
    if len(frontal) > 1:
        found.append(Contradiction("view", frontal))
    return found


def compare_findings(text: str, others: Mapping[str, int | None]) -> dict[str, Agreement]:
    """Return what a report says of findings that are judged elsewhere, as by a head.

    Args:
        text: a report, with or without headings.
        others: finding -> 1 present, 0 absent, None or -1 undecided (then the report can only be silent). Findings that
            no report can be read for are not in the result.
    """
    if others.get(LUNG_OPACITY) == 0 and any(others.get(name) == 1 for name in CLAIM_OPACITY):
        # Who sees a pneumonia does not deny the opacity that it is: heads learn the two from different films.
        others = {**others, LUNG_OPACITY: None}
    labels = _labels(text, [name for name in others if name in READABLE])
    causes = _named(text, CAUSE_PHRASES)
    for name in CAUSE_PHRASES:
        if name in others:
            labels[name] = int(name in causes) if causes else None
    return {
        name: Agreement.SILENT
        if label not in (0, 1) or others[name] not in (0, 1)
        else Agreement.AGREES
        if label == others[name]
        else Agreement.CONFLICTS
        for name, label in ((name, labels[name]) for name in others if name in labels)
    }


def _excludes(text: str, own: Mapping[str, int | None], other: Mapping[str, int | None]) -> bool:
    """Return whether a section calls the film normal while the other section states what cannot be."""
    if own[NO_FINDING] != 1:
        return False
    stated = {name for name in _FINDINGS if other[name] == 1} - {"Support Devices"}
    return any(stated & _ACUTE if _LIMITED.search(said) else stated for said in find_normal(text))


def _labels(text: str, names: Iterable[str]) -> dict[str, int | None]:
    """Return the labels of findings, with what an opacity by another name says of opacity."""
    found = label_report(text, names)
    if LUNG_OPACITY in found and found[LUNG_OPACITY] != 1:
        claims = set(label_report(text, CLAIM_OPACITY).values())
        found[LUNG_OPACITY] = 1 if 1 in claims else -1 if -1 in claims else found[LUNG_OPACITY]
    return found


def _named(text: str, phrases: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the keys of which a text has a phrase."""
    return tuple(name for name, spelled in phrases.items() if find_phrases(text, spelled))
