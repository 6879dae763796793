"""Evidence by hiding: blocks, sentences and their tokens, scores against a pass of one sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.decoding.prefixes import PrefixStore, read_prefix
from chexmix_cli.core.infer.reports.engine import ReportFinish
from chexmix_cli.core.infer.reports.evidence import (
    SentenceEvidence,
    block_positions,
    find_evidence,
    sentence_tokens,
)
from chexmix_cli.core.infer.reports.writer import WrittenReport
from chexmix_cli.core.models.attention import ImageSpan
from chexmix_cli.core.settings.inference import ExplainSettings

TEXT = "FINDINGS: Clear lungs. Heart is normal.\nIMPRESSION: No acute disease."


def make_report(tokenizer, text: str = TEXT) -> WrittenReport:
    ids = tokenizer.encode(text)
    return WrittenReport(
        token_ids=ids, report_ids=ids, text=text, num_not_text=0, finish=ReportFinish.END, logprob=0.0,
        logprobs=[-0.01 * place for place in range(len(ids))], comparisons=[],
    )  # fmt: skip


def test_blocks_cover_every_position_once():
    for blocks in (1, 3, 4, 9):
        found = block_positions(16, blocks)
        assert sorted(position for block in found for position in block) == list(range(16))
        assert len(found) == min(blocks, 4) ** 2
    assert block_positions(16, 2)[1] == [2, 3, 6, 7]


def test_every_token_belongs_to_one_sentence(tokenizer):
    report = make_report(tokenizer)
    found = sentence_tokens(report, tokenizer)
    assert [text for text, _ in found] == [
        "FINDINGS: Clear lungs.",
        "Heart is normal.",
        "IMPRESSION: No acute disease.",
    ]
    assert [place for _, places in found for place in places] == list(range(len(report.report_ids)))
    for text, places in found:
        assert tokenizer.decode([report.report_ids[place] for place in places]).strip() == text


def test_drops_are_differences_of_scores_of_single_sequences(decoder, tokenizer, vocabulary, codes):
    report = make_report(tokenizer, "Clear lungs. No mass.")
    found = find_evidence(decoder, tokenizer, codes[0], report, ExplainSettings(blocks=2, batch_size=4))

    def mean_logprob(hidden: list[int], places: list[int]) -> float:
        prompt = vocabulary.report_prompt(codes[0])
        for position in hidden:
            prompt[1 + position] = vocabulary.mask
        with torch.no_grad():
            logits_TV = decoder.logits(decoder(torch.tensor([[*prompt, *report.report_ids]]))[0]).log_softmax(dim=-1)
        at = [len(prompt) - 1 + place for place in places]
        return float(np.mean([float(logits_TV[t, report.report_ids[p]]) for t, p in zip(at, places, strict=True)]))

    for sentence, (text, places) in zip(found, sentence_tokens(report, tokenizer), strict=True):
        assert sentence.text == text
        base = mean_logprob([], places)
        assert sentence.drop == pytest.approx(base - mean_logprob(list(range(16)), places), abs=1e-4)
        for block, positions in enumerate(block_positions(16, 2)):
            expected = base - mean_logprob(positions, places)
            assert sentence.drop_blocks.flat[block] == pytest.approx(expected, abs=1e-4)
        assert sentence.logprob == pytest.approx(np.mean([report.logprobs[place] for place in places]))
        assert sentence.lowest[1] == min(report.logprobs[place] for place in places)
    assert any(abs(sentence.drop) > 1e-3 for sentence in found), "the image does not matter to this decoder"


@pytest.mark.parametrize("kind", ["causal", "whole"])
def test_what_variants_have_in_common_is_read_once(decoder, tokenizer, vocabulary, codes, kind):
    """Counted in operations: the film has been read for the report, and the hidden image for the film before."""
    if kind == "whole":
        decoder.image_span = ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image)
    report, store = make_report(tokenizer, "Clear lungs. No mass."), PrefixStore(1 << 24)
    settings = ExplainSettings(blocks=2, batch_size=3)
    expected = find_evidence(decoder, tokenizer, codes[0], report, settings)
    find_evidence(decoder, tokenizer, codes[1], report, settings, prefixes=store)
    read_prefix(decoder, vocabulary.report_prompt(codes[0]), store)
    with FlopCounterMode(display=False) as counter:
        found = find_evidence(decoder, tokenizer, codes[0], report, settings, prefixes=store)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.drop_blocks, other.drop_blocks, atol=1e-5)
        assert one.drop == pytest.approx(other.drop, abs=1e-5)
    num_tokens, whole = len(report.report_ids), len(vocabulary.report_prompt(codes[0]))
    # Film and hidden image: the report alone. Two blocks above: all; two below: from the code behind the first half on.
    known = 0 if kind == "whole" else 1 + 8
    positions = 2 * (num_tokens - 1) + 2 * (whole + num_tokens - 1) + 2 * (whole + num_tokens - 1 - known)
    blocks = sum(matrix.numel() for name, matrix in decoder.named_parameters() if "_proj.weight" in name)
    assert counter.get_total_flops() == 2 * (positions * blocks + 6 * num_tokens * decoder.head.weight.numel())


def test_the_batch_size_changes_no_drop(decoder, tokenizer, codes):
    report = make_report(tokenizer)
    one, other = (
        find_evidence(decoder, tokenizer, codes[0], report, ExplainSettings(blocks=2, batch_size=size))
        for size in (1, 6)
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.drop_blocks, b.drop_blocks, atol=1e-5)


def test_a_sentence_that_does_not_need_the_image_is_flagged(decoder, tokenizer, vocabulary, codes):
    with torch.no_grad():  # every image id and the mask look alike: nothing can depend on the image
        decoder.embedding.weight[vocabulary.image_start : vocabulary.image_stop] = decoder.embedding.weight[
            vocabulary.mask
        ]
    found = find_evidence(decoder, tokenizer, codes[0], make_report(tokenizer), ExplainSettings())
    assert all(sentence.is_text_prior_only for sentence in found)
    assert all(abs(sentence.drop) < 1e-5 for sentence in found)
    eager = ExplainSettings(least_drop=0.0)
    record = find_evidence(decoder, tokenizer, codes[0], make_report(tokenizer), eager)[0].to_dict()
    assert set(record) == {"text", "logprob", "lowest", "drop", "drop_blocks", "text_prior_only", "badge", "is_located"}
    assert np.shape(record["drop_blocks"]) == (4, 4)


@pytest.mark.parametrize(
    ("blocks", "shown"),
    [
        ([[0.5, 0.01], [0.0, -0.02]], [[0.5, 0], [0, 0]]),
        ([[0.5, 0.03], [0.0, -0.3]], [[0, 0], [0, 0]]),  # hiding another block gains more than half of what this loses
        ([[0.03, 0.019], [0.01, 0.0]], [[0.03, 0], [0, 0]]),
    ],
)
def test_what_chance_may_have_done_is_not_shown(blocks, shown):
    def sentence(is_text_prior_only):
        return SentenceEvidence(
            text="A mass.",
            logprob=-0.1,
            lowest=("A", -0.2),
            drop=0.3,
            drop_blocks=np.array(blocks),
            is_text_prior_only=is_text_prior_only,
            least_block=0.02,
        )

    assert np.array_equal(sentence(False).evident_blocks, np.array(shown))
    assert sentence(False).to_dict()["is_located"] is bool(np.any(shown))
    assert sentence(False).badge == "rests on the image (0.30 nats a token lost without the image)"
    assert not sentence(True).evident_blocks.any()
    assert sentence(True).badge.startswith("rests on text alone (")


def test_an_empty_report_has_no_evidence(decoder, tokenizer, codes):
    assert find_evidence(decoder, tokenizer, codes[0], make_report(tokenizer, ""), ExplainSettings()) == []
    assert find_evidence(decoder, tokenizer, codes[0], make_report(tokenizer, " .\n"), ExplainSettings()) == []


@pytest.mark.parametrize("values", [{"blocks": 0}, {"least_drop": -1.0}, {"batch_size": 0}], ids=str)
def test_settings_are_checked(values):
    with pytest.raises(SettingsError, match=rf"explain\.{next(iter(values))}"):
        ExplainSettings(**values)
