"""The sides that ``benchmarks/run.py`` compares: they run, agree, and a difference would be seen."""

from __future__ import annotations

import sys

import pytest
import torch

from chexmix_cli.core.weights import open_weights


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


def test_engines_beside_ours_choose_the_same_for_each_of_several_reports(repository, plain_weights, monkeypatch):
    """What ``peers.py`` compares: ours and transformers in float32 over two prompts, and ids that both are given."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    import peer_sides

    vocabulary = open_weights(plain_weights).settings.vocabulary
    prompts = [
        vocabulary.report_prompt([seed + place for place in range(vocabulary.tokens_per_image)]) for seed in (0, 7)
    ]
    threads = torch.get_num_threads()
    job = {"folder": str(plain_weights), "prompts": prompts, "new_tokens": 4, "threads": threads, "ids": None}
    ours = peer_sides.measure({**job, "engine": "ours float32"})
    assert [len(own) for own in ours["chosen"]] == [4, 4]
    theirs = peer_sides.measure({**job, "ids": ours["chosen"], "engine": "transformers float32"})
    assert theirs["chosen"] == ours["chosen"]
    alone = peer_sides.measure({**job, "prompts": prompts[1:], "ids": ours["chosen"][1:], "engine": "ours float32"})
    assert alone["chosen"] == ours["chosen"][1:]
