"""The shared image prefix gives the numbers of whole documents."""

from __future__ import annotations

import pytest

from chexmix_cli.core.errors import ShapeError, VocabularyError
from chexmix_cli.core.infer.likelihood import ReportScorer
from chexmix_cli.core.infer.scoring import token_logprobs

REPORTS = [[5, 6, 7], [9], [400, 3], [5, 6, 7], [11, 12, 13, 14, 15, 16, 17], [8, 8]]


def whole(decoder, vocabulary, prefix, report):
    (logprobs,) = token_logprobs(decoder, [[*prefix, *report]], pad=vocabulary.pad)
    return float(logprobs[len(prefix) - 1 :].double().mean())


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_it_is_the_mean_of_the_reports_tokens_in_the_whole_document(decoder, vocabulary, codes, batch_size):
    scorer = ReportScorer(decoder, vocabulary, minus="none", batch_size=batch_size)
    for image in codes:
        found = scorer.score(image, REPORTS)
        wanted = [whole(decoder, vocabulary, vocabulary.report_prompt(image), report) for report in REPORTS]
        assert found == pytest.approx(wanted, abs=2e-5)
        assert found[0] == found[3]
    assert scorer.score(codes[0], REPORTS) != pytest.approx(scorer.score(codes[1], REPORTS), abs=1e-3)


def test_baselines_are_taken_off(decoder, vocabulary, codes):
    plain = ReportScorer(decoder, vocabulary, minus="none", batch_size=4).score(codes[0], REPORTS)
    hidden = [vocabulary.begin_image, *[vocabulary.mask] * 16, vocabulary.end_image, vocabulary.begin_text]
    for minus, prefix in (("hidden", hidden), ("alone", [vocabulary.begin_text])):
        scorer = ReportScorer(decoder, vocabulary, minus=minus, batch_size=4)
        base = [whole(decoder, vocabulary, prefix, report) for report in REPORTS]
        wanted = [score - baseline for score, baseline in zip(plain, base, strict=True)]
        for _ in range(2):  # the second time from what is remembered
            assert scorer.score(codes[0], REPORTS) == pytest.approx(wanted, abs=2e-5)


def test_the_prefix_is_read_once(decoder, vocabulary, codes, monkeypatch):
    read = []
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda ids, **named: read.append(tuple(ids.shape)) or forward(ids, **named))
    ReportScorer(decoder, vocabulary, minus="none", batch_size=2).score(codes[0], [[5, 6], [7, 8], [9, 10], [9, 11]])
    assert read == [(1, 19), (2, 1), (2, 1)]


def test_what_cannot_be_scored_is_refused(decoder, vocabulary, codes):
    scorer = ReportScorer(decoder, vocabulary, minus="none", batch_size=2)
    for report, message in (([], "no tokens"), ([vocabulary.begin_text], "a special id")):
        with pytest.raises(VocabularyError, match=message):
            scorer.score(codes[0], [[4], report])
    with pytest.raises(VocabularyError, match="text token id 2000"):
        scorer.score(codes[0], [[2000]])
    with pytest.raises(ShapeError, match="a sequence of 66 tokens; expected at most 64"):
        scorer.score(codes[0], [[4] * 48])
    assert scorer.score(codes[0], []) == []
