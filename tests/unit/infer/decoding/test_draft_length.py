"""How many draft tokens a pass reads: the best by what passes cost; measured once; and reports are the same for any."""

from __future__ import annotations

import json
import random

import pytest

from chexmix_cli.core.infer.decoding import draft_length
from chexmix_cli.core.infer.decoding.draft_length import DraftLength, PassCosts, measured_seconds, pass_costs
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights.files import home

#: Times of one position, of these numbers (docs/performance.md: products on a CPU with AVX512-VNNI).
SIZES = (1, 2, 3, 4, 6, 8, 16, 32)
INT8 = PassCosts(dict(zip(SIZES, (1.0, 1.06, 1.1, 1.13, 1.26, 1.39, 1.9, 2.8), strict=True)))
FLOAT32 = PassCosts(dict(zip(SIZES, (1.0, 2.3, 2.3, 2.3, 2.3, 2.3, 2.5, 3.3), strict=True)))
FREE = PassCosts({1: 1.0})
STEEP = PassCosts({1: 1.0, 32: 32.0})


def after(costs, rounds, num_drafted, num_accepted):
    length = DraftLength(32, costs)
    for _ in range(rounds):
        length.note(num_drafted, num_accepted)
    return length


def test_the_best_number_weighs_what_is_gained_against_what_it_costs():
    assert [after(costs, 0, 0, 0).best(1) for costs in (INT8, FLOAT32, FREE, STEEP)] == [6, 11, 31, 0]
    # By hand: of tokens that are right half of the time 1.5, 1.75, 1.875 and at most 2 are gained; in float32 a pass
    # costs 2.3 at least, in 8 bits of four positions 1.13 and of five 1.2.
    assert after(FLOAT32, 200, 3, 1).best(1) == 0
    assert after(INT8, 200, 3, 1).best(1) == 3
    assert after(INT8, 200, 7, 0).best(1) == 1
    assert after(INT8, 200, 15, 15).best(1) == 31


def test_rows_share_what_a_pass_may_read():
    assert DraftLength(8).best(1) == 7
    assert DraftLength(8).best(3) == 1
    assert DraftLength(8).best(9) < 1
    length = after(INT8, 200, 15, 15)
    assert [length.best(rows) for rows in (1, 4, 16, 33)] == [31, 7, 1, -1]
    # Four rows read four positions in any case, and in float32 sixteen cost little more.
    assert after(FLOAT32, 200, 3, 1).best(4) == 3


def test_rejected_drafts_are_tried_again_after_a_while():
    length = after(FLOAT32, 20, 7, 0)
    assert length.best(1) == 0
    passes = 0
    while length.best(1) == 0:
        length.note(0, 0)
        passes += 1
    assert 10 < passes < 100


def test_more_positions_never_count_as_cheaper():
    """A slow turn of the machine while 4 were measured says nothing for 8."""
    costs = PassCosts({8: 1.5, 1: 1.0, 4: 2.0})
    assert [costs.of(num) for num in (1, 4, 8, 99)] == [1.0, 2.0, 2.0, 2.0]
    assert costs.of(2) == pytest.approx(1 + 1 / 3)


class ByChance:
    """Proposes what the report says, or something else, by a seed of its own."""

    def __init__(self, said, prompt_length):
        self.said, self.start, self.rng = said, prompt_length, random.Random(0)

    def draft(self, token_ids, count):
        done = list(token_ids[self.start :])
        after = next(ids[len(done) :] for ids in self.said if ids[: len(done)] == done)
        return [one if self.rng.random() < 0.8 else (one + 1) % 1000 for one in after[:count]]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("size", [1, 3])
def test_reports_are_the_same_for_any_costs(decoder, vocabulary, size, temperature):
    rng = random.Random(size)
    prompts = [
        vocabulary.report_prompt([rng.randrange(vocabulary.num_codes) for _ in range(vocabulary.tokens_per_image)])
        for _ in range(size)
    ]
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=30, temperature=temperature)
    plain = report_engine(decoder, vocabulary).generate(prompts, settings, seed=5)
    said = [one.token_ids for one in plain]
    passes = set()
    for costs in (INT8, FLOAT32, FREE, STEEP):
        engine = report_engine(decoder, vocabulary)
        engine.costs = costs
        found = engine.generate(prompts, settings, seed=5, drafter=ByChance(said, vocabulary.prompt_length))
        assert [one.token_ids for one in found] == said
        passes.add(engine.stats.num_passes)
        assert (engine.stats.num_drafted > 0) == (costs is not STEEP)
    assert len(passes) > 2, "the costs made no difference: the test shows little"


def test_the_same_call_has_the_same_passes_whatever_came_before(decoder, vocabulary):
    """Sums round by the shape of a pass: what an earlier report accepted must not show in a later one."""
    prompt = vocabulary.report_prompt([3] * vocabulary.tokens_per_image)
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=30)
    engine = report_engine(decoder, vocabulary)
    engine.costs = INT8
    said = [one.token_ids for one in engine.generate([prompt], settings)]
    found, passes = [], []
    for start in (1000, vocabulary.prompt_length, vocabulary.prompt_length):  # the first drafts nonsense only
        before = engine.stats.num_passes
        drafter = ByChance(said if start < 1000 else [[], *said], start)
        found += engine.generate([prompt], settings, drafter=drafter)
        passes.append(engine.stats.num_passes - before)
    assert passes[0] > passes[1] == passes[2]
    assert found[1] == found[2]


def test_passes_are_measured_once_and_remembered(decoder, vocabulary, monkeypatch):
    engine = report_engine(decoder, vocabulary)
    engine.draft_length(DecodeSettings(draft_rows=8))
    assert engine.costs is None
    engine.draft_length(DecodeSettings())
    assert engine.costs is not None
    measured = engine.costs.of(1)
    monkeypatch.setattr(draft_length, "measured_seconds", lambda _: {1: 7.0})
    assert pass_costs(decoder).of(1) == measured
    # Another form of the weights has costs of its own.
    assert pass_costs(decoder.bfloat16()).of(1) == 7.0
    decoder.float()
    for damaged in ("{", "[]", '{"KEY": 3}', '{"KEY": {"2": 1.0}}', '{"KEY": {"1": 0}}', '{"KEY": {"one": 1}}'):
        (home() / "pass_costs.json").write_text(damaged.replace('"KEY"', json.dumps(draft_length._key(decoder))))
        assert pass_costs(decoder).of(1) == 7.0


def test_of_processes_that_measure_together_the_first_counts(decoder, monkeypatch):
    def measured(one):
        draft_length._COSTS.put(draft_length._key(one), {"1": 3.0})  # as another process does meanwhile
        return {1: 7.0}

    monkeypatch.setattr(draft_length, "measured_seconds", measured)
    assert pass_costs(decoder).of(1) == pass_costs(decoder).of(1) == 3.0


def test_a_home_that_cannot_be_written_is_no_error(decoder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHEXMIX_HOME", str(tmp_path / "file" / "below"))
    assert pass_costs(decoder).of(1) > 0


def test_what_is_measured_are_passes_that_fit_the_model(decoder):
    shapes = []
    decoder.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    seconds = measured_seconds(decoder)
    assert decoder.settings.max_positions == 64
    assert list(seconds) == list(SIZES)
    assert {shape[1] for shape in shapes} == set(SIZES)
    assert all(0 < taken < float("inf") for taken in seconds.values())


def test_on_a_gpu_the_number_is_fixed(decoder, vocabulary):
    engine = report_engine(decoder, vocabulary)
    engine.decoder = decoder.to("meta")
    assert engine.draft_length(DecodeSettings()).best(1) == 7
    assert engine.costs is None
