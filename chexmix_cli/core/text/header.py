"""What is known of a film besides its pixels, and the words of a report that would contradict it.

The view that a file states is right and a report's is a guess; the causes of a pneumonia are labels of children's films
(``templates.py``), so that of an adult's film they are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chexmix_cli.core.text.word_phrases import find_phrases

AgeGroup = Literal["child", "adult"]
#: From this age on a patient counts as an adult.
ADULT_YEARS = 18


def _of_film(word: str) -> tuple[str, ...]:
    """Return a view's adjective before what makes it one: ``lateral chest wall`` names no view."""
    films = ("view*", "radiograph*", "projection*", "film*", "image*", "x-ray*")
    return tuple(f"{word} {between}{film}" for film in films for between in ("", "chest ", "pediatric ", "adult "))


#: Projection -> phrases that name it.
VIEW_PHRASES: Mapping[str, tuple[str, ...]] = {
    "PA": ("PA", "posteroanterior", "postero-anterior"),
    "AP": ("AP", "anteroposterior", "antero-posterior"),
    "FRONTAL": _of_film("frontal"),
    "LATERAL": _of_film("lateral"),
}
#: Projection that is stated -> projections that a report may name.
_ALLOWED: Mapping[str, frozenset[str]] = {
    "PA": frozenset({"PA", "FRONTAL"}),
    "AP": frozenset({"AP", "FRONTAL"}),
    "FRONTAL": frozenset({"PA", "AP", "FRONTAL"}),
    "LATERAL": frozenset({"LATERAL"}),
    "OTHER": frozenset(),
}
#: Words for the causes of a pneumonia.
CAUSE_PHRASES: Mapping[str, tuple[str, ...]] = {"Bacterial": ("bacterial",), "Viral": ("viral",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a film's header, or its line of a manifest, says of it.

    Attributes:
        view: ``PA``, ``AP``, ``FRONTAL``, ``LATERAL`` or ``OTHER``; None, or anything else, is not known.
        age_group: of the patient, or None.
    """

    view: str | None = None
    age_group: AgeGroup | None = None

    @property
    def against(self) -> dict[str, tuple[str, ...]]:
        """Return what may not be said, by the attribute that it would contradict."""
        found = {}
        allowed = None if self.view is None else _ALLOWED.get(self.view)
        if allowed is not None:
            others = (phrases for view, phrases in VIEW_PHRASES.items() if view not in allowed)
            found["view"] = tuple(phrase for phrases in others for phrase in phrases)
        if self.age_group == "adult":
            found["age_group"] = tuple(phrase for phrases in CAUSE_PHRASES.values() for phrase in phrases)
        return found

    @property
    def against_phrases(self) -> tuple[str, ...]:
        """Return all that may not be said."""
        return tuple(phrase for phrases in self.against.values() for phrase in phrases)

    def contradictions(self, text: str) -> list[str]:
        """Return the words of a text that contradict what is known, in order."""
        phrases = self.against_phrases
        return find_phrases(text, phrases) if phrases else []


def age_group_of(years: float | None) -> AgeGroup | None:
    """Return the group of an age in years, or None if it is not known."""
    return None if years is None else "adult" if years >= ADULT_YEARS else "child"
