"""No word of comparison, and none against the header, comes out of a guarded decoder; nothing else changes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.reports.phrase_guard import PhraseGuard
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.text.comparisons import PHRASES, find_comparisons
from chexmix_cli.core.text.header import Header
from chexmix_cli.core.text.word_phrases import find_phrases, is_capital, split_phrase

SETTINGS = DecodeSettings(max_new_tokens=40, min_new_tokens=40, comparisons="block")


@cache
def shared_guard(tokenizer) -> PhraseGuard:
    return PhraseGuard(tokenizer)


def guard_of(tokenizer, phrases=PHRASES) -> PhraseGuard:
    guard = shared_guard(tokenizer)
    guard.reset([phrases])
    return guard


def write_with(guard: PhraseGuard, tokenizer, wanted: list[int]) -> tuple[str, list[int]]:
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
            written, refused = write_with(guard_of(tokenizer), tokenizer, ids)
            assert find_comparisons(written) == []
            assert refused


def test_random_ids_never_make_a_word_of_comparison(tokenizer):
    rng = random.Random(0)
    pieces = [tokenizer.encode(piece) for phrase in PHRASES for piece in (" ", *split_phrase(phrase)[0].split(), "\n")]
    guard, found = guard_of(tokenizer), 0
    for _ in range(30):
        guard.reset([PHRASES])
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
    assert write_with(guard_of(tokenizer), tokenizer, tokenizer.encode(text)) == (text, [])


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


ADULT_PA, CHILD_AP = Header(view="PA", age_group="adult"), Header(view="AP", age_group="child")


@pytest.mark.parametrize("header", [ADULT_PA, Header(view="OTHER")])
@pytest.mark.parametrize("before", ["", "Single ", "Chest,\n"])
def test_what_contradicts_the_header_cannot_be_written(tokenizer, header, before):
    for phrase in header.against_phrases:
        letters = split_phrase(phrase)[0]
        said = letters if is_capital(phrase) else letters.title().replace(" ", "\n  ")
        text = f"{before}{said} seen."
        assert find_phrases(text, (phrase,)), text
        for ids in (tokenizer.encode(text), [one for c in text for one in tokenizer.encode(c)]):
            written, refused = write_with(guard_of(tokenizer, header.against_phrases), tokenizer, ids)
            assert header.contradictions(written) == []
            assert refused


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (
            ADULT_PA,
            "PA view of the chest. Patchy apical opacity; APICAL scarring apart. Lateral chest wall: bilateral.",
        ),
        (CHILD_AP, "AP pediatric chest radiograph. PATIENT rotated, pattern of viral or bacterial pneumonia."),
        (Header(view="FRONTAL"), "Frontal PA view, or AP view."),
        (Header(view="LATERAL"), "Lateral view of the chest. Appearances of pneumonia."),
        (Header(), "PA, AP and lateral views; bacterial pneumonia."),
        (Header(view="strange", age_group="child"), "AP view, viral pneumonia."),
    ],
)
def test_what_the_header_allows_is_left_alone(tokenizer, header, text):
    assert header.contradictions(text) == []
    if "APICAL" in text or "PATIENT" in text:
        # Letter by letter, or in other ids, the first two of a word in capitals look like the view.
        text = text.replace("APICAL", "Apical").replace("PATIENT", "Patient")
    assert write_with(guard_of(tokenizer, header.against_phrases), tokenizer, tokenizer.encode(text)) == (text, [])


def test_the_header_wins_over_what_a_decoder_would_say(decoder, vocabulary, tokenizer, codes):
    favour(decoder, tokenizer, " AP PA bacterial viral")
    writer = ReportWriter(decoder, vocabulary, tokenizer)
    headers = [ADULT_PA, CHILD_AP, Header()]
    settings = DecodeSettings(max_new_tokens=40, min_new_tokens=40, temperature=1.0)
    flagged = writer.write(codes, replace(settings, header="flag"), seed=2, headers=headers)
    assert flagged[0].against_header
    assert flagged[0].against_header == ADULT_PA.contradictions(flagged[0].text)
    assert flagged[2].against_header == flagged[2].held_to == flagged[0].held_to == []
    held = writer.write(codes, settings, seed=2, headers=headers)
    assert [report.held_to for report in held] == [["view", "age_group"], ["view"], []]
    assert [report.against_header for report in held] == [[], [], []]
    assert CHILD_AP.contradictions(held[1].text) == ADULT_PA.contradictions(held[0].text) == []
    # A film of which nothing is known is written as without a guard, beside others or alone.
    assert held[2] == flagged[2]
    assert held[0].token_ids == writer.write(codes[:1], settings, seed=2, headers=headers[:1])[0].token_ids
    allowed = writer.write(codes, replace(settings, header="allow"), seed=2, headers=headers)
    assert [report.token_ids for report in allowed] == [report.token_ids for report in flagged]
    assert [report.against_header for report in allowed] == [[], [], []]
    both = writer.write(codes, replace(settings, comparisons="block"), seed=2, headers=headers)
    assert find_comparisons(both[1].text) == CHILD_AP.contradictions(both[1].text) == []


def test_without_a_text_tokenizer_nothing_is_held(decoder, vocabulary, codes):
    (report, *_) = ReportWriter(decoder, vocabulary, None).write(
        codes, DecodeSettings(max_new_tokens=5), headers=[ADULT_PA] * 3
    )
    assert report.held_to == []
