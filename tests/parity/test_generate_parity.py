"""Decoding of every row of the vocabulary (``decode.vocabulary = "all"``) against transformers' own generate."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.infer.decoding.engine import Finish
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import compact

END_BIAS = 1.8
VOCABULARY = compact(num_text=60, num_codes=20, tokens_per_image=4)


@pytest.fixture(scope="module")
def pair(make_pair):
    settings = DecoderSettings(
        num_rows=VOCABULARY.num_rows,
        hidden_size=160,
        num_layers=3,
        num_heads=2,
        mlp_size=320,
        rotary_size=32,
        max_positions=96,
    )
    phi, decoder = make_pair(settings, seed=5)
    # What comes next depends on the token before, not on the biases alone, and the end is met now and then.
    with torch.no_grad():
        for embedding, head in ((phi.model.embed_tokens, phi.lm_head), (decoder.embedding, decoder.head)):
            embedding.weight.mul_(20.0)
            head.bias.mul_(0.2)
            head.bias[VOCABULARY.begin_text] += END_BIAS
    return phi, decoder


def released_generate(phi, prompts, *, new_tokens: int, at_least: int) -> list[list[int]]:
    """Return what the released pipeline's call returns behind the prompt: greedy, the end id included."""
    found = []
    for prompt in prompts:
        output = phi.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=at_least,
            eos_token_id=VOCABULARY.begin_text,
            pad_token_id=VOCABULARY.pad,
        )
        found.append(output[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("at_least", [0, 1, 5, 12])
@pytest.mark.parametrize("lengths", [[7] * 24, [3, 17, 5, 1, 30, 12, 12, 9, 2, 25, 8, 40]], ids=["equal", "unequal"])
def test_greedy_ids_are_those_of_transformers(pair, token_ids, lengths, at_least):
    phi, decoder = pair
    drawn_BT = token_ids(len(lengths), max(lengths), VOCABULARY.num_rows)
    prompts = [row[:length].tolist() for row, length in zip(drawn_BT, lengths, strict=True)]
    expected = released_generate(phi, prompts, new_tokens=16, at_least=at_least)
    settings = DecodeSettings(vocabulary="all", max_new_tokens=16, min_new_tokens=at_least)
    found = report_engine(decoder, VOCABULARY).generate(prompts, settings)
    assert [generation.token_ids for generation in found] == expected
    ended = [generation.finish is Finish.END for generation in found]
    assert ended == [ids[-1] == VOCABULARY.begin_text for ids in expected]
    assert any(ended), "no report met its end: the test shows nothing about it"
    assert not all(ended), "every report met its end: the test shows nothing about the maximum"
    assert all(len(ids) > at_least for ids, has_ended in zip(expected, ended, strict=True) if has_ended)
