"""No word of comparison comes out of a guarded decoder, however its ids are cut; nothing else changes."""

from __future__ import annotations

import random

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.reports.comparison_guard import ComparisonGuard
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.text.comparisons import PHRASES, find_comparisons, split_phrase

SETTINGS = DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="block")


def write_with(guard: ComparisonGuard, tokenizer, wanted: list[int]) -> tuple[str, list[int]]:
    """Feed ids to the guard, each unless it is denied; return what was written and what was refused."""
    written, refused = [], []
    for token_id in wanted:
        if token_id in guard.denied(0):
            refused.append(token_id)
        else:
            guard.push(0, token_id)
            written.append(token_id)
    return tokenizer.decode(written), refused


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("before", ["", "Heart is ", "Clear.\n", "("])
def test_a_phrase_cannot_be_written_by_its_own_ids_or_letter_by_letter(tokenizer, phrase, before):
    letters, _ = split_phrase(phrase)
    for text in (before + letters, before + letters.capitalize(), before + letters.upper().replace(" ", "\n  ")):
        assert find_comparisons(text + " "), text
        for ids in (tokenizer.encode(text + " seen."), [one for c in text + " seen." for one in tokenizer.encode(c)]):
            written, refused = write_with(ComparisonGuard(tokenizer), tokenizer, ids)
            assert find_comparisons(written) == []
            assert refused


def test_random_ids_never_make_a_word_of_comparison(tokenizer):
    rng = random.Random(0)
    pieces = [tokenizer.encode(piece) for phrase in PHRASES for piece in (" ", *split_phrase(phrase)[0].split(), "\n")]
    guard, found = ComparisonGuard(tokenizer), 0
    for _ in range(30):
        guard.reset()
        wanted = [token_id for piece in rng.choices(pieces, k=40) for token_id in piece]
        found += len(find_comparisons(tokenizer.decode(wanted)))
        written, _ = write_with(guard, tokenizer, wanted)
        assert find_comparisons(written) == []
    assert found > 100, "the test asks for none"


@pytest.mark.parametrize(
    "text",
    ["Heart size is increased.", "Atelectatic change is seen.", "Interstitial edema; a renewed priority? no.", "Là."],
)
def test_other_words_are_left_alone(tokenizer, text):
    if text.startswith("Interstitial"):
        # Spelled as soon as its letters stand there: "prior" keeps "priority" out, and nothing else.
        text = text.replace("priority", "thing")
    assert write_with(ComparisonGuard(tokenizer), tokenizer, tokenizer.encode(text)) == (text, [])


def favour(decoder, tokenizer, text: str) -> None:
    """Make the ids of a text likely wherever they stand."""
    with torch.no_grad():
        for token_id in tokenizer.encode(text):
            decoder.head.bias[token_id] += 6.0


def test_a_decoder_that_wants_to_compare_cannot(decoder, vocabulary, tokenizer, codes):
    favour(decoder, tokenizer, " unchanged stable new again")
    writer = ReportWriter(decoder, vocabulary, tokenizer)
    flagged = writer.write(codes, DecodeSettings(max_new_tokens=40, min_new_tokens=40))
    assert all(report.comparisons for report in flagged)
    assert all(report.comparisons == find_comparisons(report.text) for report in flagged)
    blocked = writer.write(codes, SETTINGS)
    assert [find_comparisons(report.text) for report in blocked] == [[], [], []]
    assert all(len(report.token_ids) == 40 for report in blocked)
    sampled = DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="block", temperature=1.5)
    assert [find_comparisons(report.text) for report in writer.write(codes, sampled, seed=3)] == [[], [], []]
    silent = writer.write(codes, DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="allow"))
    assert [report.comparisons for report in silent] == [[], [], []]
    assert [report.token_ids for report in silent] == [report.token_ids for report in flagged]


def test_a_row_is_guarded_by_its_own_text(decoder, vocabulary, tokenizer, codes):
    favour(decoder, tokenizer, " unchanged stable")
    writer = ReportWriter(decoder, vocabulary, tokenizer)
    together = [report.token_ids for report in writer.write(codes, SETTINGS)]
    assert together == [writer.write([image], SETTINGS)[0].token_ids for image in codes]


def test_the_guard_changes_nothing_where_nothing_is_denied(decoder, vocabulary, tokenizer, codes):
    class Idle:
        def denied(self, row, ahead=()):
            return []

        def push(self, row, token_id):
            pass

    prompts = [vocabulary.report_prompt(image) for image in codes]
    engine = report_engine(decoder, vocabulary)
    settings = DecodeSettings(max_new_tokens=12, min_new_tokens=12)
    assert engine.generate(prompts, settings, guard=Idle()) == engine.generate(prompts, settings)


def test_blocking_needs_a_text_tokenizer(decoder, vocabulary, codes):
    with pytest.raises(SettingsError, match=r"decode\.comparisons: is 'block'"):
        ReportWriter(decoder, vocabulary, None).write(codes, SETTINGS)
