"""Which way the rays went: one small vocabulary of views, and the many ways files have of saying it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum


class View(StrEnum):
    """Projection of a chest radiograph.

    ``FRONTAL`` is PA or AP, not said which; ``OTHER`` is neither frontal nor lateral.
    """

    PA = "PA"
    AP = "AP"
    FRONTAL = "FRONTAL"
    LATERAL = "LATERAL"
    OTHER = "OTHER"
    UNKNOWN = "UNKNOWN"


#: Best first: which image of a study is taken when one stands for it.
PREFERENCE: tuple[View, ...] = (View.PA, View.AP, View.FRONTAL, View.UNKNOWN, View.OTHER, View.LATERAL)

_TOKENS: dict[str, View] = {
    **dict.fromkeys(("PA", "POSTEROANTERIOR", "POSTERO_ANTERIOR"), View.PA),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR", "ANTERO_POSTERIOR"), View.AP),
    **dict.fromkeys(("FRONTAL", "FRONTALLY"), View.FRONTAL),
    **dict.fromkeys(("LATERAL", "LAT", "LL", "LATERALLY", "SEITLICH", "PROFIL"), View.LATERAL),
    **dict.fromkeys(("RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE", "LORDOTIC", "AXIAL"), View.OTHER),
    **dict.fromkeys(("LLD", "RLD", "DECUBITUS", "DECUB", "SWIMMERS"), View.OTHER),
}
#: Of the coded attribute only: as a word of free text they mean a side, a size, a series or nothing.
_CODES: dict[str, View] = {**dict.fromkeys(("L", "LA", "RL", "R", "LR"), View.LATERAL)}
_JOINED = re.compile(r"\b(POSTERO|ANTERO)[\s_-]*(ANTERIOR|POSTERIOR)\b")

#: ``p.a.``, ``A-P``, ``a/p``.
_LETTERS = re.compile(r"\b([AP])\s?[./-]\s?([AP])\b")


def words(text: str) -> list[str]:
    """Return the upper-case words of a text, accents removed; everything but letters and digits separates."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().upper()
    return re.findall(r"[A-Z0-9]+", _LETTERS.sub(r"\1\2", _JOINED.sub(r"\1\2", plain)))


def view_of_code(text: str | None) -> View:
    """Return the view that a View Position, or a data set's view column, states.

    Absent is UNKNOWN; a value that is not known is OTHER.
    """
    named = _named(text, {**_TOKENS, **_CODES})
    if named or not text or set(words(text)) & {"UNKNOWN", "NONE", "NAN"} or not words(text):
        return _one_of(named)
    return View.OTHER


def view_of_words(texts: Iterable[str | None]) -> View:
    """Return the view that descriptions state, the first that states one deciding."""
    views = (_one_of(_named(text, _TOKENS)) for text in texts)
    return next((view for view in views if view is not View.UNKNOWN), View.UNKNOWN)


def _named(text: str | None, table: Mapping[str, View]) -> set[View]:
    return {table[word] for word in words(text or "") if word in table}


def _one_of(named: set[View]) -> View:
    """Return the one view that the words of a text add up to.

    ``PA LLD`` and ``AP AXIAL`` are PA and AP films, a ``LATERAL DECUBITUS`` is not lateral; ``CHEST PA AND LAT`` is
    the name of an examination and says nothing about one image.
    """
    frontal = named & {View.PA, View.AP, View.FRONTAL}
    if View.LATERAL in named and View.OTHER not in named:
        return View.UNKNOWN if frontal else View.LATERAL
    if View.PA in frontal and View.AP in frontal:
        return View.FRONTAL
    for view in (View.PA, View.AP, View.OTHER, View.FRONTAL):
        if view in named:
            return view
    return View.UNKNOWN


def view_of_orientation(text: str | None) -> View:
    """Return the view that a Patient Orientation (``L F``: rows run to the left, columns to the feet) shows.

    Rows or columns that run to the front or the back are a lateral film's; to a side and along the body, a frontal's.
    """
    directions = {part[0] for part in (text or "").upper().split() if part}
    if directions & {"A", "P"}:
        return View.LATERAL
    has_side, has_length = directions & {"L", "R"}, directions & {"H", "F"}
    return View.FRONTAL if has_side and has_length else View.UNKNOWN
