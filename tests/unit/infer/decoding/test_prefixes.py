"""Prompts that have been read before: nothing is read again, and nothing comes out differently."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from chexmix_cli.core.infer.decoding import batch as batch_module
from chexmix_cli.core.infer.decoding import engine as engine_module
from chexmix_cli.core.infer.decoding.drafts import OwnText
from chexmix_cli.core.infer.decoding.prefixes import Prefix, PrefixStore, read_prefix, states_behind
from chexmix_cli.core.infer.decoding.static_batch import Recordings, StaticBatch
from chexmix_cli.core.infer.embeddings import image_embeddings, image_prompts, read_images
from chexmix_cli.core.infer.likelihood import ReportScorer
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.typicality import codes_statistics
from chexmix_cli.core.models import decoder as decoder_module
from chexmix_cli.core.models.attention import ImageSpan
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.lora import add_adapters
from chexmix_cli.core.runtime import seeded_generator
from chexmix_cli.core.settings.finetuning import LoraSettings
from chexmix_cli.core.settings.inference import DecodeSettings
from tests.unit.infer.conftest import randomise

LONG = DecodeSettings(max_new_tokens=12, min_new_tokens=12, draft_rows=8)
KINDS = ("causal", "whole", "grid", "lora", "bfloat16")


@pytest.fixture
def make(make_decoder, model_settings, vocabulary):
    """Return a function that makes a decoder of a kind, every parameter of it random."""

    def build(kind: str, seed: int = 0) -> Decoder:
        if kind == "grid":
            decoder = Decoder(dataclasses.replace(model_settings.decoder, rope_grid=4))
            randomise(decoder, seed)
            return decoder.eval()
        decoder = make_decoder(seed)
        if kind == "whole":
            decoder.image_span = ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image)
        if kind == "lora":
            add_adapters(decoder, LoraSettings(rank=2), seeded_generator(0), num_blocks=2)
            randomise(decoder, seed)
        return decoder.to(torch.bfloat16) if kind == "bfloat16" else decoder

    return build


class Sees:
    """Keeps the states it is given."""

    def __init__(self, *layers):
        self.layers, self.states = layers, {}

    def read(self, layer, state_BTD):
        self.states[layer] = state_BTD.clone()


def engines(decoder, vocabulary, num_bytes=1 << 24):
    return report_engine(decoder, vocabulary), report_engine(decoder, vocabulary, prefixes=PrefixStore(num_bytes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_known_goes_on_to_the_bit(make, vocabulary, codes, kind):
    plain, keeping = engines(make(kind), vocabulary)
    prompt = vocabulary.report_prompt(codes[0])
    sees, again = Sees(1, 2), Sees(1, 2)
    first = keeping.generate([prompt], LONG, on_prompts=sees)
    assert keeping.generate([prompt], LONG, on_prompts=again) == first == plain.generate([prompt], LONG)
    assert (keeping.stats.num_prompt_tokens, keeping.stats.num_reused_tokens) == (len(prompt), len(prompt))
    assert keeping.stats.num_passes == 22
    for layer, state_BTD in sees.states.items():
        assert torch.equal(again.states[layer], state_BTD)


@pytest.mark.parametrize("is_static", [False, True], ids=["batch", "static"])
@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize(
    "settings", [LONG, dataclasses.replace(LONG, temperature=1.5, top_p=0.9)], ids=["greedy", "sampled"]
)
def test_batches_of_known_new_and_equal_prompts(make, vocabulary, codes, kind, is_static, settings, monkeypatch):
    plain, keeping = engines(make(kind), vocabulary)
    whole = [vocabulary.report_prompt(image) for image in codes]
    short = whole[1][3:] if kind in ("causal", "lora") else [5, 6, 7]
    # New, known, equal to a new one, short and known, equal to a known one, short and new.
    prompts = [whole[0], whole[1], whole[0], short, whole[1], whole[2][:11] if kind == "causal" else [9]]
    seeds = [3, 4, 5, 6, 7, 8]
    expected = [plain.generate([prompt], settings, seed=seed)[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    sees, definition = Sees(0, 2), Sees(0, 2)
    plain.generate(prompts, settings, seed=seeds, on_prompts=definition)
    # The definition reads its prompts in one pass.
    monkeypatch.setattr(batch_module, "_MOST_POSITIONS", 1)
    if is_static:
        batch = partial(StaticBatch, recordings=Recordings(lambda compute: compute))
        monkeypatch.setattr(engine_module, "Batch", batch)
    keeping.generate([whole[1], short], settings, on_prompts=Sees(0, 2))
    before = dataclasses.replace(keeping.stats)
    found = keeping.generate(prompts, settings, seed=seeds, on_prompts=sees, drafter=OwnText())
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    read = len(whole[0]) + len(prompts[5])
    assert keeping.stats.num_prompt_tokens - before.num_prompt_tokens == read
    assert keeping.stats.num_reused_tokens == sum(map(len, prompts)) - read
    for layer, state_BTD in definition.states.items():
        for row, prompt in enumerate(prompts):
            torch.testing.assert_close(
                sees.states[layer][row, -len(prompt) :], state_BTD[row, -len(prompt) :], atol=1e-4, rtol=1e-4
            )
    # All of them are known now.
    assert [one.token_ids for one in keeping.generate(prompts, settings, seed=seeds)] == [
        one.token_ids for one in expected
    ]
    assert keeping.stats.num_prompt_tokens - before.num_prompt_tokens == read


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantised_decoder_has_prompts_of_its_own(debug_weights, quantize):
    from chexmix_cli.core.kernels.quantized.native import uses_native
    from chexmix_cli.core.weights import open_weights

    if quantize == "int4" and not uses_native():
        pytest.skip("the kernels are not compiled, or not for this CPU")
    weights, store = open_weights(debug_weights), PrefixStore(1 << 26)
    vocabulary = weights.settings.vocabulary
    prompt = vocabulary.report_prompt([7] * vocabulary.tokens_per_image)
    for how in (None, quantize):
        decoder = weights.load_decoder("cpu", torch.float32, quantize=how)
        keeping = report_engine(decoder, vocabulary, prefixes=store)
        expected = report_engine(decoder, vocabulary).generate([prompt], LONG)
        assert keeping.generate([prompt], LONG) == keeping.generate([prompt], LONG) == expected
        assert keeping.stats.num_prompt_tokens == len(prompt)
    assert len(store) == 2


def test_a_prompt_without_room_is_not_read(make, vocabulary, codes):
    _, keeping = engines(make("causal"), vocabulary)
    full = [5] * keeping.decoder.settings.max_positions
    found = keeping.generate([full, vocabulary.report_prompt(codes[0])], LONG)
    assert (found[0].token_ids, len(found[1].token_ids), len(keeping.prefixes)) == ([], 12, 1)


# ---- the store ----


def prefix(length, value=0.0, **states):
    shape = (2, 2, length, 4)
    known = {int(layer[1:]): torch.full((length, 8), float(value)) for layer in states}
    return Prefix(*(torch.full(one, float(value)) for one in (shape, shape, (8,))), known)


def test_the_one_not_used_for_longest_goes_first(decoder):
    each = prefix(10).num_bytes
    store = PrefixStore(3 * each)
    for name in (1, 2, 3):
        store.keep(decoder, [name], prefix(10, name))
    assert store.find(decoder, [1]) is not None
    store.keep(decoder, [4], prefix(10, 4))
    assert [store.find(decoder, [name]) is not None for name in (1, 2, 3, 4)] == [True, False, True, True]
    assert store.held_bytes == 3 * each
    # A larger one takes the place of two; one that is too large, of none.
    store.keep(decoder, [5], prefix(15))
    assert [store.find(decoder, [name]) is not None for name in (1, 3, 4, 5)] == [False, False, True, True]
    held = store.held_bytes
    large = prefix(100)
    assert store.keep(decoder, [6], large) is large
    assert (store.find(decoder, [6]), store.held_bytes, len(store)) == (None, held, 2)


def test_what_is_kept_is_a_copy_of_its_own(decoder):
    store, batch = PrefixStore(1 << 20), torch.randn(2, 5, 2, 40, 4)
    view = Prefix(batch[:, 1, :, :10], batch[:, 2, :, :10], batch[0, 0, 0, 0], {})
    kept = store.keep(decoder, [1], view)
    wanted = view.keys_LNSH.clone()
    batch.zero_()
    assert torch.equal(kept.keys_LNSH, wanted)
    assert kept.keys_LNSH.untyped_storage().nbytes() == kept.keys_LNSH.nbytes
    assert store.held_bytes == kept.num_bytes == view.num_bytes


def test_states_add_up_and_a_layer_that_is_missing_is_read(decoder, make_decoder):
    store = PrefixStore(1 << 20)
    store.keep(decoder, [1, 2], prefix(2, s1=None))
    assert store.find(decoder, [1, 2], [1]) is not None
    assert store.find(decoder, [1, 2], [1, 2]) is None
    store.keep(decoder, [1, 2], prefix(2, s2=None))
    assert store.find(decoder, [1, 2], [1, 2]).states.keys() == {1, 2}
    assert (len(store), store.held_bytes) == (1, prefix(2, s1=None, s2=None).num_bytes)
    assert store.find(make_decoder(1), [1, 2]) is None
    assert store.find(decoder, [1]) is None


def test_a_budget_of_nothing_keeps_nothing(decoder, vocabulary, codes):
    store = PrefixStore(0)
    keeping = report_engine(decoder, vocabulary, prefixes=store)
    prompt = vocabulary.report_prompt(codes[0])
    assert keeping.generate([prompt], LONG) == keeping.generate([prompt], LONG)
    assert (keeping.stats.num_prompt_tokens, len(store), store.held_bytes) == (2 * len(prompt), 0, 0)


# ---- who else reads images ----


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_reads_an_image_reads_it_for_all(make, vocabulary, codes, kind, monkeypatch):
    decoder, store = make(kind), PrefixStore(1 << 24)
    keeping = report_engine(decoder, vocabulary, prefixes=store)
    prompts = image_prompts(vocabulary, codes)
    plain = {}
    read_images(decoder, prompts, {1, 2}, plain.__setitem__)
    expected = report_engine(decoder, vocabulary).generate(prompts, LONG)
    statistics_BD = codes_statistics(decoder, vocabulary, codes)
    scores = [
        ReportScorer(decoder, vocabulary, minus="hidden", batch_size=2).score(one, [[5, 6], [7]]) for one in codes
    ]
    widths = []
    states = decoder.layer_states
    monkeypatch.setattr(
        decoder, "layer_states", lambda ids, **named: widths.append(tuple(ids.shape)) or states(ids, **named)
    )
    # Two of three, one of them twice; then one more beside them.
    close = partial(torch.testing.assert_close, atol=2e-2 if kind == "bfloat16" else 1e-5, rtol=1e-4)
    for chosen in ([0, 1, 0], [2, 0, 1]):
        found = {}
        read_images(decoder, [prompts[row] for row in chosen], {1, 2}, found.__setitem__, store)
        for layer, state_BTH in plain.items():
            close(found[layer], state_BTH[chosen])
    assert widths == [(2, 19), (1, 19)]
    widths.clear()
    np.testing.assert_allclose(
        codes_statistics(decoder, vocabulary, codes, prefixes=store),
        statistics_BD,
        atol=0.1 if kind == "bfloat16" else 1e-4,
    )
    close(
        image_embeddings(decoder, vocabulary, codes, layers=[1], grid=2, prefixes=store),
        image_embeddings(decoder, vocabulary, codes, layers=[1], grid=2),
    )
    widths.clear()
    found = keeping.generate(prompts, LONG)
    if kind != "bfloat16":  # there a tie may be broken otherwise
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert widths == [(3, 1)] * 11
    widths.clear()
    scorer = ReportScorer(decoder, vocabulary, minus="hidden", batch_size=2, prefixes=store)
    again = [scorer.score(one, [[5, 6], [7]]) for one in codes]
    np.testing.assert_allclose(again, scores, atol=5e-2 if kind == "bfloat16" else 2e-5)
    # The image of which nothing is seen, once; and of each pair of sentences what is read of the longer.
    assert sorted(widths) == [(1, 19), *[(2, 1)] * 4]


def test_an_image_with_hidden_codes_is_another_one(decoder, vocabulary, codes):
    store = PrefixStore(1 << 24)
    is_masked_BP = np.zeros((3, 16), bool)
    is_masked_BP[:, [0, 5, 15]] = True
    for masks in (None, is_masked_BP, None, is_masked_BP):
        found = image_embeddings(decoder, vocabulary, codes, is_masked_BP=masks, prefixes=store)
        torch.testing.assert_close(found, image_embeddings(decoder, vocabulary, codes, is_masked_BP=masks))
    assert len(store) == 6


def test_blocks_that_nobody_asked_for_are_not_run_to_keep_something(decoder, vocabulary, codes):
    store, ran = PrefixStore(1 << 24), []
    decoder.blocks[1].register_forward_pre_hook(lambda *_: ran.append(1))
    image_embeddings(decoder, vocabulary, codes, layers=[1], prefixes=store)
    assert (ran, len(store)) == ([], 0)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("kind", KINDS[:4])
@torch.inference_mode()
def test_what_follows_a_prefix_follows_a_part_of_it_as_well(make, vocabulary, codes, kind, is_fused, monkeypatch):
    decoder = make(kind)
    # As on a GPU: positions are turned where keys and values are written.
    monkeypatch.setattr(decoder_module, "uses_triton", lambda _: is_fused)
    prompt = vocabulary.report_prompt(codes[0])
    read = read_prefix(decoder, prompt, PrefixStore(0))
    whole = len(prompt) if kind == "whole" else 7
    for length in {whole, len(prompt)}:
        rest_BT = torch.tensor([[*prompt[length:], 5, 6, 7], [*prompt[length:], 8, 9, 10]])
        found_BTD = states_behind(decoder, read, rest_BT, length=length)
        whole_BT = torch.cat((torch.tensor([prompt[:length]] * 2), rest_BT), dim=1)
        wanted_BTD = states_behind(decoder, None, whole_BT)[:, length:]
        torch.testing.assert_close(found_BTD, wanted_BTD, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found_BTD[0], found_BTD[1], atol=1e-2)
