"""The sides that ``benchmarks/run.py`` compares: they run, agree, and a difference would be seen."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(scope="module")
def sides(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        import report_sides
        import run

        yield report_sides, run
    finally:
        sys.path.remove(str(repository / "benchmarks"))


@pytest.fixture(scope="module")
def found(sides):
    job = {"kind": "report", "folder": "chexmix-mini", "dtype": "float32", "quantize": None, "drafts": "none"}
    job |= {"prompt_tokens": 40, "new_tokens": 6}
    return {side: sides[0].measure_report({**job, "side": side}) for side in ("transformers", "ours")}


def test_both_sides_write_the_same_report(sides, found):
    assert len(found["ours"]["ids"]) == 6
    assert sides[1].same_ids(found["transformers"], found["ours"]["ids"], "float32")["verdict"] == "equal"
    for one in found.values():
        assert one["load_s"] > one["prefill_s"] > 0
        assert one["decode_s"] > 0


def test_a_difference_is_no_tie(sides, found):
    run, theirs = sides[1], found["transformers"]
    second = theirs["likeliest"][2][0][1]
    other = [*theirs["ids"][:2], second, *theirs["ids"][3:]]
    assert run.same_ids(theirs, other, "float32")["verdict"] == "equal up to a DIFFERENCE at 2"
    near = [list(one) for one in theirs["likeliest"]]
    near[2] = [near[2][0], [near[2][1][0]] * len(near[2][1])]
    assert run.same_ids({**theirs, "likeliest": near}, other, "float32")["verdict"] == "equal up to a tie at 2"


def test_replayed_drafts_are_right_as_often_as_asked(sides):
    said = list(range(100, 160))
    drafter = sides[0].Replay(3, said, accepted=1.5, drafted=3.0)
    ids, right, drafted, passes = [0, 1, 2, *said[:1]], 0, 0, 0
    while len(ids) < 3 + 50:
        draft = drafter.draft(ids, 7)
        done = len(ids) - 3
        agreed = next((n for n, one in enumerate(draft) if one != said[done + n]), len(draft))
        right, drafted, passes = right + agreed, drafted + len(draft), passes + 1
        ids += said[done : done + agreed + 1]
    assert right / passes == pytest.approx(1.5, abs=0.1)
    assert drafted / passes == pytest.approx(3.0, abs=0.1)
