"""Where two continuations part, and whether rounding explains it."""

from __future__ import annotations

import math

import pytest
import torch

from chexmix_cli.core.infer.decoding.agreement import difference
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.settings.inference import DecodeSettings

PROMPT = [3, 1, 4, 1, 5]


@torch.inference_mode()
def logits_behind(decoder, ids):
    return decoder.logits(decoder(torch.tensor([ids])))[0, -1]


def test_equal_continuations_do_not_part(decoder):
    assert difference(decoder, PROMPT, [9, 2], [9, 2]) is None
    assert difference(decoder, PROMPT, [], []) is None


def test_one_that_goes_on_is_no_tie(decoder):
    for one, other in (([9, 2], [9, 2, 6]), ([9, 2, 6], [9, 2]), ([], [9])):
        found = difference(decoder, PROMPT, one, other)
        assert (found.gap, found.is_tie) == (math.inf, False)
        assert found.place == min(len(one), len(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gap_is_that_of_the_two_ids_where_they_part(decoder, dtype):
    decoder.to(dtype)
    found = difference(decoder, PROMPT, [9, 2, 6, 5], [9, 2, 7, 5])
    logit_V = logits_behind(decoder, [*PROMPT, 9, 2]).float()
    assert found.place == 2
    assert found.gap == pytest.approx(abs(float(logit_V[6] - logit_V[7])))
    size = max(abs(float(logit_V[6])), abs(float(logit_V[7])))
    step = float(
        torch.tensor(size, dtype=dtype).nextafter(torch.tensor(math.inf, dtype=dtype)).float()
        - torch.tensor(size, dtype=dtype).float()
    )
    assert found.steps == pytest.approx(found.gap / step, rel=1e-5)


@pytest.mark.parametrize(("shift", "is_tie"), [(0.0, True), (1.0, False)])
def test_near_logits_are_a_tie_and_others_are_not(decoder, shift, is_tie):
    decoder.bfloat16()
    with torch.no_grad():
        decoder.head.weight[7] = decoder.head.weight[6]
        decoder.head.bias[7] = decoder.head.bias[6] + shift
    assert difference(decoder, PROMPT, [6], [7]).is_tie is is_tie


def test_drafts_in_bfloat16_differ_by_ties_only(make_decoder, vocabulary, codes):
    """Right drafts make every pass one of eight rows: other sums than those of one."""

    class Known:
        def draft(self, token_ids, count):
            new = token_ids[len(prompt) :]
            return plain.token_ids[len(new) : len(new) + count] if plain.token_ids[: len(new)] == new else []

    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=40, draft_rows=8)
    num_ids = 0
    for seed in range(6):
        engine = report_engine(make_decoder(seed).bfloat16(), vocabulary)
        for image in codes:
            prompt = vocabulary.report_prompt(image)
            (plain,) = engine.generate([prompt], settings)
            (found,) = engine.generate([prompt], settings, drafter=Known())
            parted = difference(engine.decoder, prompt, plain.token_ids, found.token_ids)
            assert parted is None or parted.is_tie, parted
            num_ids += len(found.token_ids) if parted is None else parted.place
    assert num_ids > 400
