"""Drafts change how many passes there are and nothing else: ids, log-probabilities, callbacks, ends are those without.

Drafters here know what will be chosen (``Known``), and say it, or something else, or too much. The last tests break the
rule of acceptance, and the masks of what was taken back, and see that the comparison finds it.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

import chexmix_cli
from chexmix_cli.core.infer.decoding import engine as engine_module
from chexmix_cli.core.infer.decoding.batch import Batch
from chexmix_cli.core.infer.decoding.drafts import OwnText
from chexmix_cli.core.infer.decoding.engine import Finish
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.kernels.quantized.native import uses_native
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights

LOGPROB_TOLERANCE = 2e-4
ASSETS = Path(chexmix_cli.__file__).parent / "assets"


class Known:
    """Drafts what follows each prompt, as generations say, changed by ``say(right, rng)``."""

    def __init__(self, prompts, generations, say=lambda right, rng: right):
        self._after = {tuple(prompt): g.token_ids for prompt, g in zip(prompts, generations, strict=True)}
        self._say, self._rng = say, random.Random(0)
        self.asked = []

    def draft(self, token_ids, count):
        self.asked.append(count)
        for start in range(len(token_ids), 0, -1):
            after = self._after.get(tuple(token_ids[:start]))
            new = list(token_ids[start:])
            if after is not None and after[: len(new)] == new:
                return self._say(after[len(new) :], self._rng)[: max(count, 0)]
        raise AssertionError("asked about a row that is none")


SAYINGS = {
    "right": lambda right, rng: right,
    "wrong": lambda right, rng: [(one + 1) % 1000 for one in right],
    "first right": lambda right, rng: [*right[:1], *[(one + 1) % 1000 for one in right[1:]]],
    "by chance": lambda right, rng: [one if rng.random() < 0.6 else rng.randrange(1000) for one in right],
    "of any length": lambda right, rng: right[: rng.randrange(9)],
    "past the end": lambda right, rng: [*right, *[rng.randrange(1000) for _ in range(9)]],
    "ends": lambda right, rng: [*right[:1], 1021, *right[1:]],
    "no ids at all": lambda right, rng: [*right[:1], rng.choice([-1, 10**9, 1066]), *right[1:]],
    "nothing": lambda right, rng: [],
}


class Greedy(Known):
    """Says more than it was asked for."""

    def draft(self, token_ids, count):
        super().draft(token_ids, count)
        return [*super().draft(token_ids, 10**6), *range(20)]


@pytest.fixture
def engine(decoder, vocabulary, tokenizer):
    return report_engine(decoder, vocabulary, ordinary_ids=[i for i in range(1024) if tokenizer.token_bytes(i)])


def make_prompts(vocabulary, count, seed=0, shortest=1):
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        codes = [rng.randrange(vocabulary.num_codes) for _ in range(vocabulary.tokens_per_image)]
        found.append(vocabulary.report_prompt(codes)[rng.randrange(vocabulary.prompt_length - shortest) :])
    return list({tuple(prompt): prompt for prompt in found}.values())


def generate(engine, prompts, settings, *, drafter=None, size=1, guard=None, seed=0):
    """Return the generations of prompts in batches of a size, and each row's callbacks."""
    found, seen = [], []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        calls = [[] for _ in batch]
        found += engine.generate(
            batch,
            settings,
            seed=seed,
            drafter=drafter,
            guard=guard,
            on_token=lambda row, token_id, calls=calls: calls[row].append(token_id),
        )
        seen += calls
    return found, seen


def require_same(plain, drafted):
    (expected, _), (found, seen) = plain, drafted
    for one, other, calls in zip(expected, found, seen, strict=True):
        assert other.token_ids == one.token_ids
        assert other.finish is one.finish
        assert other.logprobs == pytest.approx(one.logprobs, abs=LOGPROB_TOLERANCE)
        assert calls == one.token_ids, "callbacks in order, nothing behind an end"


def ending(decoder, vocabulary, by=2.0):
    with torch.no_grad():
        decoder.head.bias[vocabulary.begin_text] += by


@pytest.mark.parametrize(("size", "temperature"), [(1, 0.0), (2, 0.8), (3, 0.0), (7, 0.0)])
@pytest.mark.parametrize("saying", SAYINGS)
def test_any_drafts_give_what_none_give(engine, vocabulary, saying, size, temperature):
    ending(engine.decoder, vocabulary)
    prompts = make_prompts(vocabulary, 7, seed=size)
    settings = DecodeSettings(max_new_tokens=24, min_new_tokens=3, temperature=temperature, top_p=0.9, draft_rows=8)
    plain = generate(engine, prompts, settings, size=size, seed=5)
    assert {len(one.token_ids) for one in plain[0]} != {24}, "no row ends early"
    drafter = Known(prompts, plain[0], SAYINGS[saying])
    require_same(plain, generate(engine, prompts, settings, drafter=drafter, size=size, seed=5))
    if saying == "right" and size < 7:
        assert engine.stats.acceptance > 0.9
    if saying in ("wrong", "nothing"):
        assert engine.stats.num_accepted == 0


@pytest.mark.parametrize("draft_rows", [0, 1, 2, 3, 8, 9, 64])
def test_drafts_never_ask_for_more_than_fits(engine, vocabulary, draft_rows):
    """64 positions: rows stop at the last of them, whatever the drafts wanted."""
    prompts = [list(range(60)), list(range(44)), list(range(63)), list(range(30)), list(range(64))]
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=30, draft_rows=draft_rows)
    plain = generate(engine, prompts, settings, size=5)
    assert [len(one.token_ids) for one in plain[0]] == [4, 20, 1, 30, 0]
    for size in (1, 5):
        drafter = Greedy(prompts, plain[0])
        require_same(plain, generate(engine, prompts, settings, drafter=drafter, size=size))
        assert max(drafter.asked[::2], default=0) <= max(0, draft_rows - 1)
        assert bool(drafter.asked) is (draft_rows > 1)


@pytest.mark.parametrize(("draft_rows", "length"), [(2, 20), (4, 21), (8, 22), (8, 25), (8, 1)])
def test_right_drafts_take_the_fewest_passes(engine, vocabulary, draft_rows, length):
    prompts = make_prompts(vocabulary, 1, shortest=10)
    settings = DecodeSettings(max_new_tokens=length, min_new_tokens=length, draft_rows=draft_rows)
    plain, _ = generate(engine, prompts, settings)
    before = engine.stats.num_passes
    assert before == length - 1
    generate(engine, prompts, settings, drafter=Known(prompts, plain))
    assert engine.stats.num_passes - before == math.ceil((length - 1) / draft_rows)
    assert engine.stats.num_accepted == engine.stats.num_drafted == length - 1 - (engine.stats.num_passes - before)


def test_rows_share_the_positions_of_a_pass(engine, vocabulary):
    """Two rows read four positions each; when one is done, the other reads eight."""
    prompts = make_prompts(vocabulary, 2, shortest=10)
    widths = []
    engine.decoder.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape)))
    ends = DecodeSettings(max_new_tokens=17, min_new_tokens=17, draft_rows=8)
    plain, _ = generate(engine, prompts, ends, size=2)
    widths.clear()
    generate(engine, prompts, ends, drafter=Known(prompts, plain), size=2)
    assert widths[1:] == [(2, 4)] * 4
    widths.clear()
    short = [prompts[0], [*prompts[1], *[7] * (64 - 6 - len(prompts[1]))]]
    plain, _ = generate(engine, short, ends, size=2)
    assert [len(one.token_ids) for one in plain] == [17, 6]
    widths.clear()
    generate(engine, short, ends, drafter=Known(short, plain), size=2)
    assert widths[1:] == [(2, 4), (2, 4), (1, 8)]


def repeating(make_decoder, vocabulary, seed):
    """Return an engine whose reports repeat themselves, in lines of several ids."""
    decoder = make_decoder(seed)
    with torch.no_grad():
        decoder.embedding.weight.mul_(2.0)
    return report_engine(decoder, vocabulary)


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 3), (2, 1), (3, 2)])
def test_200_prompts_of_random_weights(make_decoder, vocabulary, seed, size):
    prompts = make_prompts(vocabulary, 240)[:200][seed::4]
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=1, draft_rows=8)
    engine = repeating(make_decoder, vocabulary, seed)
    plain = generate(engine, prompts, settings, size=50)
    require_same(plain, generate(engine, prompts, settings, drafter=OwnText(), size=size))
    assert engine.stats.num_accepted > 30, "no report repeats itself: the test shows little"
    assert engine.stats.acceptance < 1


@pytest.fixture(scope="module")
def trained():
    weights = open_weights(None)
    tokenizer = weights.load_text_tokenizer()
    return ReportWriter(weights.load_decoder("cpu", torch.float32), weights.settings.vocabulary, tokenizer)


@pytest.mark.parametrize("size", [2, 3])
def test_200_prompts_of_trained_weights(trained, size):
    """Beginnings of reports, without an image: the model goes on writing as it learned to."""
    from chexmix_cli.core.text.templates import UNIVERSES, write_report

    rng, tokenizer, vocabulary = random.Random(1), trained.tokenizer, trained.vocabulary
    prompts: dict[tuple[int, ...], list[int]] = {}
    while len(prompts) < 200:
        label = rng.choice(["No Finding", "Pneumonia"])
        text, _ = write_report([label], universe=UNIVERSES["kermany"], view="AP", age_group="child", rng=rng)
        ids = tokenizer.encode("FINDINGS: " + text)
        prompt = [vocabulary.begin_text, *ids[: rng.randrange(1, 24)]]
        prompts.setdefault(tuple(prompt), prompt)
    own = list(prompts.values())[: 200 if size == 2 else 45]
    settings = DecodeSettings(max_new_tokens=20, min_new_tokens=12, draft_rows=8)
    engine = report_engine(trained.engine.decoder, vocabulary)
    plain = generate(engine, own, settings, size=50)
    assert {one.finish for one in plain[0]} == {Finish.LENGTH, Finish.END}
    assert len({tuple(one.token_ids) for one in plain[0]}) > 10
    drafter = Known(own, plain[0], SAYINGS["by chance"]) if size == 2 else OwnText(shortest=1)
    require_same(plain, generate(engine, own, settings, drafter=drafter, size=size))
    assert engine.stats.num_accepted > 30


def test_images_of_trained_weights(trained):
    rng, vocabulary = random.Random(2), trained.vocabulary
    codes = [[rng.randrange(vocabulary.num_codes) for _ in range(vocabulary.tokens_per_image)] for _ in range(3)]
    prompts = [vocabulary.report_prompt(image) for image in codes]
    settings = DecodeSettings(max_new_tokens=40, draft_rows=8)
    plain = generate(trained.engine, prompts, settings, size=3)
    drafter = Known(prompts, plain[0], SAYINGS["by chance"])
    for size in (1, 3):
        require_same(plain, generate(trained.engine, prompts, settings, drafter=drafter, size=size))


class Counting:
    """Denies what a row has said twice: what may come depends on every id before, and on the order of pushes."""

    def __init__(self):
        self.said = {}

    def denied(self, row, ahead=()):
        said = [*self.said.get(row, []), *ahead]
        return sorted({one for one in said if said.count(one) >= 2})

    def push(self, row, token_id):
        self.said.setdefault(row, []).append(token_id)


@pytest.mark.parametrize("saying", ["right", "wrong", "by chance", "past the end"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_guard_sees_what_it_sees_without_drafts(make_decoder, vocabulary, saying, size):
    engine = repeating(make_decoder, vocabulary, 1)
    prompts = make_prompts(vocabulary, 6, shortest=10)
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=2, draft_rows=8)
    unguarded, _ = generate(engine, prompts, settings)
    guards = [Counting(), Counting()]
    plain, drafted = [], []
    for start in range(0, 6, size):
        batch = prompts[start : start + size]
        guards = [Counting(), Counting()]
        one = generate(engine, batch, settings, size=size, guard=guards[0])
        drafter = Known(batch, one[0], SAYINGS[saying])
        other = generate(engine, batch, settings, size=size, guard=guards[1], drafter=drafter)
        require_same(one, other)
        assert guards[0].said == guards[1].said
        plain += one[0]
        drafted += other[0]
    assert [g.token_ids for g in plain] != [g.token_ids for g in unguarded], "the guard denies nothing"


def test_words_of_comparison_are_kept_out_along_drafts(decoder, vocabulary, tokenizer, codes):
    with torch.no_grad():
        for token_id in tokenizer.encode(" unchanged stable new again"):
            decoder.head.bias[token_id] += 6.0
    writer = ReportWriter(decoder, vocabulary, tokenizer)
    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="block", draft_rows=0)
    plain = writer.write(codes, settings)
    prompts = [vocabulary.report_prompt(image) for image in codes]
    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="block", draft_rows=8)
    found = writer.write(codes, settings, drafter=Known(prompts, plain, SAYINGS["by chance"]))
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert writer.engine.stats.num_drafted > 0


@pytest.mark.parametrize("marker", ["begin_text", "begin_image"])
@pytest.mark.parametrize("at_least", [0, 1, 5, 12])
def test_no_end_comes_before_the_minimum(engine, vocabulary, marker, at_least):
    with torch.no_grad():
        engine.decoder.head.bias[getattr(vocabulary, marker)] += 100.0
    prompts = make_prompts(vocabulary, 3, shortest=10)
    settings = DecodeSettings(max_new_tokens=20, min_new_tokens=at_least, draft_rows=8)
    plain = generate(engine, prompts, settings, size=3)
    assert {len(one.token_ids) for one in plain[0]} == {at_least + 1}
    for saying in ("right", "ends", "past the end"):
        drafter = Known(prompts, plain[0], SAYINGS[saying])
        require_same(plain, generate(engine, prompts, settings, drafter=drafter, size=1))
        require_same(plain, generate(engine, prompts, settings, drafter=drafter, size=3))


def test_released_vocabulary_goes_on_behind_the_next_image(engine, vocabulary):
    with torch.no_grad():
        engine.decoder.head.bias[vocabulary.begin_image] += 100.0
    prompts = make_prompts(vocabulary, 2, shortest=10)
    settings = DecodeSettings(vocabulary="all", max_new_tokens=12, min_new_tokens=0, draft_rows=8)
    plain = generate(engine, prompts, settings, size=2)
    assert plain[0][0].token_ids == [vocabulary.begin_image] * 12
    require_same(plain, generate(engine, prompts, settings, drafter=OwnText(shortest=1), size=2))
    assert engine.stats.num_accepted > 0


def test_without_drafts_a_row_takes_the_plain_path(engine, vocabulary):
    """Bit for bit: the same calls of the decoder, one position each, without masks."""
    seen = []
    prompts = make_prompts(vocabulary, 1, shortest=10)
    engine.decoder.register_forward_pre_hook(lambda _, args, options: seen.append((args, options)), with_kwargs=True)
    generate(engine, prompts, DecodeSettings(max_new_tokens=9, min_new_tokens=9, draft_rows=8))
    assert [args[0].shape[1] for args, _ in seen] == [len(prompts[0]), *[1] * 8]
    assert all(options["attend_BTS"] is None and options["positions_BT"] is None for _, options in seen)


def test_one_row_with_drafts_needs_no_mask(engine, vocabulary):
    seen = []
    prompts = make_prompts(vocabulary, 1, shortest=10)
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=30, draft_rows=8)
    plain, _ = generate(engine, prompts, settings)
    engine.decoder.register_forward_pre_hook(lambda _, args, options: seen.append(options), with_kwargs=True)
    generate(engine, prompts, settings, drafter=Known(prompts, plain, SAYINGS["by chance"]))
    assert all(options["attend_BTS"] is None for options in seen)


# Negative controls: what the comparison above must find.


def difference_is_found(engine, vocabulary, size=1, saying="by chance"):
    ending(engine.decoder, vocabulary)
    prompts = make_prompts(vocabulary, 6, seed=3)
    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=3, draft_rows=8)
    plain = generate(engine, prompts, settings, size=size)
    drafter = Known(prompts, plain[0], SAYINGS[saying])
    with pytest.raises(AssertionError):
        require_same(plain, generate(engine, prompts, settings, drafter=drafter, size=size))


WRONG_RULES = {
    "accepts everything": lambda draft, chosen: len(draft),
    "accepts one too many": lambda draft, chosen: min(len(draft), engine_module_agreed(draft, chosen) + 1),
    "counts what agrees anywhere": lambda draft, chosen: sum(a == b for a, b in zip(draft, chosen, strict=False)),
}
engine_module_agreed = engine_module.num_agreed


@pytest.mark.parametrize("rule", WRONG_RULES)
def test_a_wrong_rule_is_found(engine, vocabulary, monkeypatch, rule):
    monkeypatch.setattr(engine_module, "num_agreed", WRONG_RULES[rule])
    difference_is_found(engine, vocabulary)


def test_a_draft_that_stays_in_the_cache_is_found(engine, vocabulary, monkeypatch):
    monkeypatch.setattr(Batch, "take_back", lambda self, num_positions: None)
    difference_is_found(engine, vocabulary)


def test_a_draft_that_one_row_should_not_see_is_found(engine, vocabulary, monkeypatch):
    """Positions that only some rows reject: truncating what all reject is not enough."""

    def truncate_only(self, num_positions):
        self._cache.truncate(self._cache.length - min(num_positions))
        self._length_B = self._length_B - torch.tensor(num_positions)
        if self._counts_BS is not None:
            self._counts_BS = self._counts_BS[:, : self._cache.length]

    monkeypatch.setattr(Batch, "take_back", truncate_only)
    difference_is_found(engine, vocabulary, size=3)


def test_positions_that_are_not_taken_back_are_found(engine, vocabulary, monkeypatch):
    take_back = Batch.take_back

    def keep_lengths(self, num_positions):
        lengths_B = self._length_B
        take_back(self, num_positions)
        self._length_B = lengths_B

    monkeypatch.setattr(Batch, "take_back", keep_lengths)
    difference_is_found(engine, vocabulary, size=3)


@pytest.mark.skipif(not uses_native(), reason="the kernels in C do not run here")
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_with_quantised_weights_drafts_change_no_digit(quantize):
    """Compiled products and attention give a position the same bits whatever stands beside it, and so does all else."""
    weights = open_weights(None)
    vocabulary = weights.settings.vocabulary
    engine = report_engine(weights.load_decoder("cpu", torch.float32, quantize=quantize), vocabulary)
    prompts = [
        vocabulary.report_prompt(
            [(place * step) % vocabulary.num_codes for place in range(vocabulary.tokens_per_image)]
        )
        for step in (7, 11)
    ]
    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=40, draft_rows=8)
    plain, _ = generate(engine, prompts, settings)
    before = engine.stats.num_passes
    drafted, _ = generate(engine, prompts, settings, drafter=Known(prompts, plain, SAYINGS["by chance"]))
    assert engine.stats.num_passes - before < 60, "negative control: passes of several positions"
    assert [one.logprobs for one in drafted] == [one.logprobs for one in plain]
