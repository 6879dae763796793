"""Boxes become a side and a zone, by the patient's side."""

from __future__ import annotations

import random

import pytest

from chexmix_cli.core.text.places import Place, place_of_box, placed_noun


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((100, 100, 200, 200), Place("right", "upper")),
        ((700, 700, 200, 200), Place("left", "lower")),
        ((600, 400, 200, 200), Place("left", "mid")),
        # The centre decides, up to a quarter beyond the midline.
        ((492, 400, 100, 600), Place("left", "lower")),
        ((487, 400, 100, 600), None),
        ((437, 400, 100, 600), None),
        ((432, 400, 100, 600), Place("right", "lower")),
        ((200, 0, 650, 100), None),
    ],
)
def test_a_box_lies_where_its_centre_is_unless_across_the_midline(box, place):
    assert place_of_box(*box) == place
    assert place_of_box(*(value / 4 for value in box), film_side=256) == place


def test_places_of_both_lungs_are_one_phrase_where_they_are_alike():
    def said(*places):
        return {placed_noun("opacity", places, random.Random(seed)) for seed in range(60)}

    lower = Place("right", "lower"), Place("left", "lower")
    assert said(*lower) == {
        "bilateral opacity in the lower zones",
        "opacity in both lower zones",
        "opacity in the lower zones of both lungs",
    }
    assert said(Place("left", "upper"), Place("left", "mid"), Place("left", "lower")) == {
        "opacity in the left upper, mid and lower zones"
    }
    assert said(Place("left", "upper"), lower[0]) >= {
        "bilateral opacity in the right lower zone and the left upper zone",
        "opacity in the right lower zone and the left upper lung",
    }
    assert not any("bilateral" in placed_noun("a mass", lower, random.Random(seed)) for seed in range(20))
