from __future__ import annotations

import pytest

from chexmix_cli.core.infer.decoding.drafts import OwnText, Together


@pytest.mark.parametrize(
    ("ids", "count", "expected"),
    [
        ([1, 2, 3, 9, 1, 2], 3, [3, 9, 1]),  # what followed "1 2"
        ([1, 2, 3, 9, 1, 2], 1, [3]),
        ([1, 2, 3, 1, 2, 4, 1, 2], 2, [4, 1]),  # the latest of equal matches
        ([5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2], 1, [3]),  # the longest before the latest
        ([7, 7, 7], 4, [7, 7, 7, 7]),  # on over its own end
        ([1, 2, 1, 2], 5, [1, 2, 1, 2, 1]),
        ([4, 2, 3, 2], 3, []),  # one id is no match
        ([1, 2, 3], 3, []),
        ([1], 3, []),
        ([1, 2, 3, 9, 1, 2], 0, []),
    ],
)
def test_own_text_goes_on_as_the_last_time(ids, count, expected):
    before = list(ids)
    assert list(OwnText(shortest=2).draft(ids, count)) == expected
    assert ids == before


def test_a_match_is_as_long_as_asked_for():
    ids = [1, 2, 3, 4, 8, 9, 2, 3, 4]
    assert list(OwnText(shortest=3).draft(ids, 1)) == [8]
    assert list(OwnText(shortest=4).draft(ids, 1)) == []
    assert list(OwnText(shortest=1).draft([6, 5, 6], 2)) == [5, 6]
    # Compared up to the longest: the later match of two ids is as good as the earlier of three.
    assert list(OwnText(longest=2).draft([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3], 1)) == [8]
    assert list(OwnText(longest=3).draft([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3], 1)) == [7]


class Said:
    def __init__(self, *ids):
        self.ids, self.asked = ids, []

    def draft(self, token_ids, count):
        self.asked.append((list(token_ids), count))
        return self.ids[:count]


def test_drafters_go_on_behind_each_other():
    first, second, third = Said(1, 2), Said(), Said(3, 4, 5)
    together = Together(first, second, third)
    assert together.draft([9], 4) == [1, 2, 3, 4]
    assert (first.asked, second.asked, third.asked) == ([([9], 4)], [([9, 1, 2], 2)], [([9, 1, 2], 2)])
    assert together.draft([9], 2) == [1, 2]
    assert len(third.asked) == 1, "asked with nothing left to say"
