from __future__ import annotations

import itertools
import math

import pytest
import torch

from chexmix_cli.core.errors import VocabularyError, WeightsError
from chexmix_cli.core.infer.decoding import batch
from chexmix_cli.core.infer.decoding.engine import Finish
from chexmix_cli.core.infer.decoding.sampling import row_draws, sample
from chexmix_cli.core.infer.reports.engine import report_engine, report_finish
from chexmix_cli.core.settings.inference import DecodeSettings

#: No end is met by chance in these tests: where one is wanted, its bias is raised.
LONG = DecodeSettings(max_new_tokens=12, min_new_tokens=12)


@pytest.fixture
def engine(decoder, vocabulary, tokenizer):
    return report_engine(decoder, vocabulary, ordinary_ids=[i for i in range(1024) if tokenizer.token_bytes(i)])


@pytest.fixture
def prompts(vocabulary, codes):
    return [vocabulary.report_prompt(image) for image in codes]


def raise_bias(decoder, *token_ids, by=100.0):
    with torch.no_grad():
        decoder.head.bias[list(token_ids)] += by


@torch.inference_mode()
def slow_greedy(decoder, prompt, count, allowed):
    """Decode without cache, mask, batch or restricted head: the definition."""
    token_ids, logprobs = list(prompt), []
    for _ in range(count):
        logits_V = decoder.logits(decoder(torch.tensor([token_ids])))[0, -1]
        kept_V = torch.full_like(logits_V, -math.inf)
        kept_V[allowed] = logits_V[allowed]
        token_ids.append(int(kept_V.argmax()))
        logprobs.append(float(kept_V.log_softmax(0)[token_ids[-1]]))
    return token_ids[len(prompt) :], logprobs


@pytest.mark.parametrize("positions", [None, 1, 50])
def test_greedy_is_the_plain_loop(engine, prompts, tokenizer, vocabulary, monkeypatch, positions):
    """Whether all prompts are read in one pass, each by itself, or in groups that end in one of fewer."""
    if positions is not None:
        monkeypatch.setattr(batch, "_MOST_POSITIONS", positions)
    unequal = [prompts[0], prompts[1][3:], [5], prompts[2][:11], prompts[2]]
    allowed = [i for i in range(vocabulary.num_text) if tokenizer.token_bytes(i)]
    found = engine.generate(unequal, LONG)
    for prompt, generation in zip(unequal, found, strict=True):
        token_ids, logprobs = slow_greedy(engine.decoder, prompt, 12, allowed)
        assert generation.token_ids == token_ids
        assert generation.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert generation.logprob == pytest.approx(sum(logprobs), abs=1e-3)
        assert generation.finish is Finish.LENGTH
    assert len({tuple(generation.token_ids) for generation in found}) > 2, "the prompts make no difference"


def test_text_mode_never_leaves_the_text(engine, prompts, vocabulary):
    specials = [vocabulary.end_image, vocabulary.mask, vocabulary.pad]
    raise_bias(engine.decoder, *specials, *range(vocabulary.image_start, vocabulary.image_stop))
    for settings in (LONG, DecodeSettings(max_new_tokens=12, min_new_tokens=12, temperature=5.0)):
        for generation in engine.generate(prompts, settings):
            assert max(generation.token_ids) < vocabulary.begin_text


def test_text_mode_computes_no_image_row(engine, prompts, vocabulary, monkeypatch):
    computed = []
    logits = engine.decoder.logits
    monkeypatch.setattr(engine.decoder, "logits", lambda state, rows=None: computed.append(rows) or logits(state, rows))
    engine.generate(prompts, LONG)
    assert len(computed) == 12
    assert {(rows.start, rows.stop) for rows in computed} == {(0, vocabulary.end_image)}


def test_without_a_tokenizer_text_ends_at_the_image_markers(decoder, vocabulary, prompts):
    raise_bias(decoder, vocabulary.end_image, *range(vocabulary.image_start, vocabulary.num_rows))
    generations = report_engine(decoder, vocabulary).generate(prompts, LONG)
    assert max(max(generation.token_ids) for generation in generations) < vocabulary.begin_text


def test_all_mode_can_choose_every_row(decoder, vocabulary, prompts):
    raise_bias(decoder, vocabulary.pad)
    settings = DecodeSettings(vocabulary="all", max_new_tokens=6, min_new_tokens=0)
    assert report_engine(decoder, vocabulary).generate(prompts, settings)[0].token_ids == [vocabulary.pad] * 6


@pytest.mark.parametrize(("marker", "finish"), [("begin_text", "end"), ("begin_image", "next_image")])
@pytest.mark.parametrize("at_least", [0, 1, 5])
def test_either_marker_ends_a_text_report_after_the_minimum(engine, prompts, vocabulary, marker, finish, at_least):
    raise_bias(engine.decoder, getattr(vocabulary, marker))
    settings = DecodeSettings(max_new_tokens=20, min_new_tokens=at_least)
    for generation in engine.generate(prompts, settings):
        assert len(generation.token_ids) == at_least + 1
        assert generation.token_ids[-1] == getattr(vocabulary, marker)
        assert vocabulary.begin_text not in generation.token_ids[:-1]
        assert generation.finish is Finish.END
        assert report_finish(generation, vocabulary).value == finish


def test_all_mode_goes_on_behind_the_next_image_as_released(decoder, vocabulary, prompts):
    raise_bias(decoder, vocabulary.begin_image)
    settings = DecodeSettings(vocabulary="all", max_new_tokens=7, min_new_tokens=5)
    generation = report_engine(decoder, vocabulary).generate(prompts[:1], settings)[0]
    assert generation.token_ids == [vocabulary.begin_image] * 7
    assert generation.finish is Finish.LENGTH


def test_rows_that_end_early_leave_the_others_as_they_are(engine, prompts, vocabulary):
    # Ends come at different times: T_s is likely after some ids only.
    raise_bias(engine.decoder, vocabulary.begin_text, by=2.4)
    settings = DecodeSettings(max_new_tokens=30, min_new_tokens=1)
    variants = [[*prompt[:-1], token_id, prompt[-1]] for prompt in prompts for token_id in range(4)]
    together = engine.generate(variants, settings)
    assert {4, 8, 30} <= {len(generation.token_ids) for generation in together}, "all rows ended together"
    for prompt, generation in zip(variants, together, strict=True):
        assert engine.generate([prompt], settings)[0].token_ids == generation.token_ids


def test_room_is_used_to_the_last_position_and_named(engine, vocabulary):
    # 64 positions: the first prompt leaves 4, the second 20, the third none, the fourth does not even fit.
    prompts = [list(range(60)), list(range(44)), list(range(64)), list(range(70))]
    generations = engine.generate(prompts, DecodeSettings(max_new_tokens=30, min_new_tokens=30))
    assert [len(generation.token_ids) for generation in generations] == [4, 20, 0, 0]
    assert all(generation.finish is Finish.ROOM for generation in generations)
    exact = engine.generate([list(range(44))], DecodeSettings(max_new_tokens=20, min_new_tokens=20))[0]
    assert exact.finish is Finish.LENGTH
    assert exact.token_ids == generations[1].token_ids


@pytest.mark.parametrize("prompt", [[], [-1], [3, 1066], [1, 2, 10**9]], ids=str)
def test_a_prompt_without_rows_is_refused(engine, vocabulary, prompt):
    assert vocabulary.num_rows == 1066
    with pytest.raises(VocabularyError, match=r"prompt 1: .*expected ids 0\.\.1065"):
        engine.generate([[1, 2], prompt], LONG)


def test_no_prompts_give_nothing(engine):
    assert engine.generate([], LONG) == []
    assert engine.stats.first_token_s is None
    assert engine.stats.decode_tokens_per_s == engine.stats.prefill_tokens_per_s == 0


def test_a_sample_depends_on_seed_and_prompt_only(engine, prompts):
    settings = DecodeSettings(max_new_tokens=12, min_new_tokens=12, temperature=1.5, top_p=0.95)
    batch = [*prompts, [7], prompts[0][4:]]
    alone = [engine.generate([prompt], settings, seed=3)[0].token_ids for prompt in batch]
    for order in itertools.islice(itertools.permutations(range(len(batch))), 0, 120, 17):
        together = engine.generate([batch[place] for place in order], settings, seed=3)
        assert [generation.token_ids for generation in together] == [alone[place] for place in order]
    other = engine.generate([batch[0]], settings, seed=4)[0].token_ids
    assert other != alone[0]
    both = engine.generate([batch[0], batch[0]], settings, seed=[4, 3])
    assert [generation.token_ids for generation in both] == [other, alone[0]]


def test_a_sampled_id_is_the_one_its_draw_points_to(engine, prompts, vocabulary):
    settings = DecodeSettings(max_new_tokens=8, min_new_tokens=8, temperature=0.7, top_p=0.9)
    found = engine.generate(prompts[:1], settings, seed=11)[0].token_ids
    draws = row_draws(11, prompts[0], 8)
    for place, draw in enumerate(draws):
        with torch.inference_mode():
            state = engine.decoder(torch.tensor([[*prompts[0], *found[:place]]]))
            logits_V = engine.decoder.logits(state)[0, -1]
        # The embedded tokenizer knows every id in front of the specials, so columns are ids.
        ordinary_1R = logits_V[None, : vocabulary.begin_text]
        expected = sample(ordinary_1R, torch.tensor([draw]).double(), temperature=0.7, top_p=0.9)
        assert found[place] == int(expected)


@pytest.mark.parametrize("settings", [{"temperature": 1e-9}, {"temperature": 1.0, "top_p": 1e-9}], ids=str)
def test_sampling_at_its_limit_is_greedy(engine, prompts, settings):
    sampled = DecodeSettings(max_new_tokens=12, min_new_tokens=12, **settings)
    assert [g.token_ids for g in engine.generate(prompts, sampled)] == [
        g.token_ids for g in engine.generate(prompts, LONG)
    ]


def test_tokens_are_given_out_as_they_come(engine, prompts):
    seen = []
    generations = engine.generate(prompts, LONG, on_token=lambda row, token_id: seen.append((row, token_id)))
    assert [row for row, _ in seen] == [0, 1, 2] * 12
    for row, generation in enumerate(generations):
        assert [token_id for at, token_id in seen if at == row] == generation.token_ids


def test_padding_has_no_influence(engine, prompts, vocabulary):
    unequal = [prompts[0], prompts[1][5:], [9, 8]]
    before = [g.token_ids for g in engine.generate(unequal, LONG)]
    with torch.no_grad():
        engine.decoder.embedding.weight[vocabulary.pad] = 1e4
    assert [g.token_ids for g in engine.generate(unequal, LONG)] == before


def test_every_position_of_a_padded_batch_has_a_place_and_something_to_attend_to(engine, prompts):
    """A softmax over nothing is NaN on some devices, and a table of rotations has no row -1."""
    seen = []
    engine.decoder.register_forward_pre_hook(lambda _, args, options: seen.append(options), with_kwargs=True)
    engine.generate([prompts[0], [4], prompts[1][9:]], LONG)
    assert len(seen) == 12
    for options in seen:
        assert options["attend_BTS"].any(dim=-1).all()
        assert options["positions_BT"].min() >= 0
    starts = [19, 1, 10]
    assert [options["positions_BT"][:, -1].tolist() for options in seen[:3]] == [
        [start - 1 + place for start in starts] for place in range(3)
    ]


def test_bfloat16_decodes_padded_rows_without_nan(make_decoder, vocabulary, prompts):
    engine = report_engine(make_decoder(2).bfloat16(), vocabulary)
    generations = engine.generate([prompts[0], [4], prompts[1][9:]], LONG)
    assert all(len(generation.token_ids) == 12 for generation in generations)
    assert all(math.isfinite(generation.logprob) for generation in generations)


def test_weights_without_finite_output_are_an_error(engine, prompts):
    with torch.no_grad():
        engine.decoder.head.bias[17] = math.nan
    with pytest.raises(WeightsError, match="output is nan"):
        engine.generate(prompts, LONG)


def test_dropout_is_off(make_decoder, vocabulary, prompts):
    training = make_decoder(0).train()
    expected = report_engine(make_decoder(0), vocabulary).generate(prompts, LONG)
    assert report_engine(training, vocabulary).generate(prompts, LONG) == expected


def test_stats_count_what_was_done(engine, prompts):
    engine.generate(prompts, LONG)
    engine.generate([[1, 2, 3]], DecodeSettings(max_new_tokens=1, min_new_tokens=1))
    stats = engine.stats
    assert stats.num_reports == 4
    assert stats.num_prompt_tokens == sum(map(len, prompts)) + 3
    assert stats.num_decoded_tokens == 3 * 11
    assert stats.num_passes == 11
    assert 0 < stats.first_token_s < stats.prefill_s
    assert stats.decode_tokens_per_s == pytest.approx(3 * stats.decode_passes_per_s)
