from __future__ import annotations

import numpy as np

from chexmix_cli.core.infer.known_codes import KnownCodes


def films(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32)


def test_a_film_is_known_by_its_pixels_and_the_least_recently_asked_for_goes_first():
    known, (first, second, third) = KnownCodes(2), films(3)
    assert known.find(first) is None
    known.keep(first, [1, 65535])
    known.keep(second, [3, 4])
    assert known.find(first.copy()) == [1, 65535]
    known.keep(third, [5, 6])
    assert [known.find(one) for one in (first, second, third)] == [[1, 65535], None, [5, 6]]
    nudged = third.copy()
    nudged[0, 3, 3] = np.nextafter(nudged[0, 3, 3], np.float32(2))
    assert known.find(nudged) is None, "one bit of one pixel makes another film"
    known.forget()
    assert (len(known), known.find(first)) == (0, None)


def test_a_store_of_none_keeps_none():
    known, (film,) = KnownCodes(0), films(1)
    known.keep(film, [1])
    assert (len(known), known.find(film)) == (0, None)
