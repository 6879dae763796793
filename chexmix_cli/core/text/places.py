"""Says where in the lungs a labelled box lies: the patient's side, and the upper, mid or lower zone.

Zones are thirds of the height that lungs take, sides the film's halves; nothing finer, since a box tells no lobe. Films
are taken to be frontal and upright, with the patient's right at the left of the image.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]

#: Pixels a side of the square films that NIH's and RSNA's boxes are drawn on.
FILM_SIDE = 1024
SIDES: tuple[Side, ...] = ("right", "left")
ZONES: tuple[Zone, ...] = ("upper", "mid", "lower")
#: Where zones meet, as shares of the film's height: thirds of what lies between the tops and the bottoms of the RSNA
#: radiologists' opacity boxes (0.14 to 0.87, 5th and 95th percentiles on our films), since lungs do not fill a film.
ZONE_EDGES = (0.383, 0.626)

#: A box with at least this share of its width in either half belongs to neither side.
_STRADDLING = 0.25


class Place(NamedTuple):
    """A zone of one lung, by the patient's side."""

    side: Side
    zone: Zone


def place_of_box(x: float, y: float, width: float, height: float, film_side: float = FILM_SIDE) -> Place | None:
    """Return the side and zone of a box's centre, or None for a box that lies across the film's midline.

    Args:
        x, y: upper left corner, in pixels from the film's upper left.
        width, height: of the box in pixels, above 0.
        film_side: pixels a side of the film that the box was drawn on.
    """
    middle = film_side / 2
    left_share = min(max(middle - x, 0), width) / width
    if _STRADDLING <= left_share <= 1 - _STRADDLING:
        return None
    zone = ZONES[sum((y + height / 2) / film_side >= edge for edge in ZONE_EDGES)]
    return Place("right" if x + width / 2 < middle else "left", zone)


def placed_noun(noun: str, places: Collection[Place], rng: random.Random) -> str:
    """Return a finding's noun with its places: ``lung opacity in the right lower zone``.

    Args:
        noun: a noun phrase.
        places: at least one.
        rng: draws the wording.
    """
    zones = {side: [zone for zone in ZONES if Place(side, zone) in places] for side in SIDES}
    bilateral = bool(zones["right"] and zones["left"]) and not noun.startswith("a ") and rng.random() < 0.5
    if bilateral:
        noun = f"bilateral {noun}"
    if zones["right"] and zones["right"] == zones["left"]:
        named = join_words(zones["right"])
        if bilateral:
            return f"{noun} in the {named} zones"
        return f"{noun} in {rng.choice((f'both {named} zones', f'the {named} zones of both lungs'))}"
    parts = [f"the {side} {join_words(zones[side])} {_noun(len(zones[side]), rng)}" for side in SIDES if zones[side]]
    return f"{noun} in {' and '.join(parts)}"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list: ``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _noun(zones: int, rng: random.Random) -> str:
    return rng.choice(("zone", "zone", "lung")) if zones == 1 else "zones"
