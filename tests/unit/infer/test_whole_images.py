"""Weights trained to see images whole: every way of reading an image reads it so, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.likelihood import ReportScorer
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.models.attention import AttentionPlan, ContextPart, ImageSpan
from chexmix_cli.core.settings.finetuning import ReportFinetuning
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.load import build
from chexmix_cli.core.train.finetune.run import _check_start
from chexmix_cli.core.weights import open_weights, save_model

REPORTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


@pytest.fixture
def whole(make_decoder, vocabulary):
    """Return the random decoder as one that sees images whole."""
    decoder = make_decoder(0)
    decoder.image_span = ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image)
    return decoder


def planned(decoder, vocabulary, token_ids):
    """Return the states (T, D) of one sequence in the way training lays images out."""
    size = vocabulary.tokens_per_image
    parts = (ContextPart(1), ContextPart(size, sees_itself=True), ContextPart(len(token_ids) - 1 - size))
    plan = AttentionPlan([tuple(part for part in parts if part.length)])
    return decoder(torch.tensor([token_ids]), attend_BTS=plan)[0]


@torch.inference_mode()
def test_a_pass_sees_what_training_saw(whole, decoder, vocabulary, codes):
    for image, report in zip(codes, REPORTS, strict=True):
        token_ids = vocabulary.document(image, report)
        state_TD = whole(torch.tensor([token_ids]))[0]
        torch.testing.assert_close(state_TD, planned(whole, vocabulary, token_ids), atol=1e-5, rtol=1e-5)
        causal_TD = decoder(torch.tensor([token_ids]))[0]
        torch.testing.assert_close(state_TD[0], causal_TD[0])
        assert (state_TD[1] - causal_TD[1]).abs().max() > 1e-2


@torch.inference_mode()
def test_text_without_an_image_is_read_as_ever(whole, decoder, vocabulary):
    text_1T = torch.tensor([[vocabulary.begin_text, *range(20, 50)]])
    assert torch.equal(whole(text_1T), decoder(text_1T))


@torch.inference_mode()
def test_embeddings_see_the_image_whole(whole, vocabulary, codes):
    found_BLD = image_embeddings(whole, vocabulary, codes, layers=[2])
    for image, found_LD in zip(codes, found_BLD, strict=True):
        state_TD = planned(whole, vocabulary, vocabulary.image_sequence(image))
        wanted_D = state_TD[1 : 1 + vocabulary.tokens_per_image].mean(dim=0)
        torch.testing.assert_close(found_LD[0], wanted_D, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_reports_follow_from_whole_images_in_batches_of_any_lengths(whole, vocabulary, codes):
    text = [vocabulary.begin_text, *range(20, 43)]
    prompts = [vocabulary.report_prompt(codes[0]), [*vocabulary.report_prompt(codes[1]), 5, 6, 7], text]
    settings = DecodeSettings(max_new_tokens=6, min_new_tokens=6)
    allowed = range(min(vocabulary.begin_image, vocabulary.end_image))
    for prompt, generation in zip(prompts, report_engine(whole, vocabulary).generate(prompts, settings), strict=True):
        token_ids = list(prompt)
        for _ in range(6):
            has_image = token_ids[0] == vocabulary.begin_image
            state_TD = planned(whole, vocabulary, token_ids) if has_image else whole(torch.tensor([token_ids]))[0]
            token_ids.append(int(whole.logits(state_TD[-1])[allowed.start : allowed.stop].argmax()))
        assert generation.token_ids == token_ids[len(prompt) :]


@torch.inference_mode()
def test_likelihoods_are_those_behind_whole_images(whole, vocabulary, codes):
    found = ReportScorer(whole, vocabulary, minus="none", batch_size=2).score(codes[0], REPORTS)
    for report, score in zip(REPORTS, found, strict=True):
        token_ids = vocabulary.report_prompt(codes[0]) + report
        state_TD = planned(whole, vocabulary, token_ids)
        first = len(token_ids) - len(report)
        logprob_TV = whole.logits(state_TD[first - 1 : -1]).log_softmax(dim=-1)
        wanted = logprob_TV.gather(1, torch.tensor(report)[:, None]).mean()
        assert score == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize(("attention", "is_whole"), [("bidirectional", True), ("causal", False)])
def test_weights_say_how_they_read_images(tmp_path, model_settings, decoder, vqgan, attention, is_whole):
    own = replace(model_settings, decoder=replace(model_settings.decoder, attention=attention))
    save_model(tmp_path, own, decoder=decoder, vqgan=vqgan)
    weights = open_weights(tmp_path)
    span = weights.load_decoder("cpu", torch.float32).image_span
    vocabulary = model_settings.vocabulary
    assert span == (ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image) if is_whole else None)
    values = {
        "method": "full",
        "loss": {"targets": "all"},
        "train": {"steps": 1, "batch_size": 1, "micro_batch_size": 1},
        "optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.0},
    }
    settings = build(ReportFinetuning, values)
    if is_whole:
        with pytest.raises(SettingsError, match=r"loss.targets: is 'all'.*would see themselves"):
            _check_start(settings, weights)
    else:
        _check_start(settings, weights)
