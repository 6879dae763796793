"""Where the program calls kernels: the same results with them as without."""

from __future__ import annotations

import copy

import pytest
import torch

from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.scoring import token_logprobs
from chexmix_cli.core.kernels import backend
from chexmix_cli.core.models import quantized
from chexmix_cli.core.models.decoder import Decoder, narrowed
from chexmix_cli.core.models.quantizer import Quantizer
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.inpainting import FillSettings
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import compact

pytestmark = pytest.mark.usefixtures("triton_backend")
VOCABULARY = compact(num_text=40, num_codes=70, tokens_per_image=16)


@pytest.fixture
def decoder(device) -> Decoder:
    settings = DecoderSettings(
        num_rows=VOCABULARY.num_rows,
        hidden_size=48,
        num_layers=1,
        num_heads=2,
        mlp_size=64,
        rotary_size=8,
        max_positions=40,
        residual_dropout=0.0,
    )
    decoder, generator = Decoder(settings), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return decoder.eval().to(device)


@pytest.fixture
def with_torch(monkeypatch):
    """Return what switches the kernels off, and says that they were on."""

    def switch(device: torch.device) -> None:
        assert backend.uses_triton(device)
        monkeypatch.setenv("CHEXMIX_KERNELS", "torch")

    return switch


@pytest.mark.parametrize("strategy", ["single", "iterative", "autoregressive"])
def test_the_best_codes_are_the_same(decoder, device, with_torch, strategy):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(VOCABULARY.num_codes, (3, 16), generator=generator)
    is_hidden = torch.rand(codes.shape, generator=generator) < 0.6
    filler = CodeFiller(decoder, VOCABULARY, torch.randn(VOCABULARY.num_codes, 4, generator=generator))
    settings = FillSettings(strategy=strategy, choice="best", rounds=3)
    ours = filler.fill(codes, is_hidden, settings)
    with_torch(device)
    theirs = filler.fill(codes, is_hidden, settings)
    assert torch.equal(ours.codes_BP, theirs.codes_BP)
    assert torch.equal(ours.vectors_BPE, theirs.vectors_BPE)
    assert not torch.equal(ours.codes_BP, codes)


def test_the_expected_vectors_are_the_same(decoder, device, with_torch):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(VOCABULARY.num_codes, (2, 16), generator=generator)
    is_hidden = torch.rand(codes.shape, generator=generator) < 0.6
    filler = CodeFiller(decoder, VOCABULARY, torch.randn(VOCABULARY.num_codes, 4, generator=generator))
    settings = FillSettings(choice="expected", temperature=1.5)
    ours = filler.fill(codes, is_hidden, settings)
    with_torch(device)
    theirs = filler.fill(codes, is_hidden, settings)
    assert torch.equal(ours.codes_BP, theirs.codes_BP)
    torch.testing.assert_close(ours.vectors_BPE, theirs.vectors_BPE, rtol=1e-5, atol=1e-5)


def test_the_probabilities_of_sequences_are_the_same(decoder, device, with_torch):
    sequences = [[1, 2, 3, 4], [5, 60, 7], list(range(30))]
    ours = token_logprobs(decoder, sequences, pad=VOCABULARY.pad)
    with_torch(device)
    for mine, plain in zip(ours, token_logprobs(decoder, sequences, pad=VOCABULARY.pad), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("pieces", [[9], [4, 1, 1, 3]])
def test_states_behind_a_cache_are_the_same(decoder, device, with_torch, pieces):
    generator = torch.Generator().manual_seed(4)
    token_ids = torch.randint(40, (2, sum(pieces)), generator=generator).to(device)

    def states():
        cache = decoder.new_cache(3, 12)
        cache.num_rows = 2
        found = [decoder(piece, cache=cache) for piece in token_ids.split(pieces, dim=1)]
        cache.truncate(3)
        return [*found, decoder(token_ids[:, 3:5], cache=cache)]

    ours = states()
    with_torch(device)
    for mine, plain in zip(ours, states(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantised_decoder_is_the_same(decoder, device, with_torch, monkeypatch, quantize):
    """Prompts of more rows than a block has, reports behind them, and the probabilities of a text."""
    monkeypatch.setattr(quantized, "layer_kind", lambda bits, _: quantized._Card8 if bits == 8 else quantized._Card4)
    narrow = narrowed(copy.deepcopy(decoder).cpu(), quantize, device)
    engine = report_engine(narrow, VOCABULARY)
    prompts = [VOCABULARY.report_prompt([code] * 16) for code in (0, 5, 60, 7)]
    settings = DecodeSettings(max_new_tokens=6, min_new_tokens=6)
    ours = engine.generate(prompts, settings), token_logprobs(narrow, prompts, pad=VOCABULARY.pad)
    with_torch(device)
    theirs = engine.generate(prompts, settings), token_logprobs(narrow, prompts, pad=VOCABULARY.pad)
    assert [one.token_ids for one in ours[0]] == [one.token_ids for one in theirs[0]]
    for mine, plain in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours[1], token_logprobs(decoder, prompts, pad=VOCABULARY.pad), strict=True):
        assert not torch.allclose(mine, other, rtol=1e-4, atol=1e-4), "negative control: the decoder as it was"


def test_reports_are_the_same(decoder, device, with_torch):
    engine = report_engine(decoder, VOCABULARY)
    prompts = [VOCABULARY.report_prompt(list(range(16))), VOCABULARY.report_prompt([5] * 16)]
    settings = DecodeSettings(max_new_tokens=12, min_new_tokens=12)
    ours = engine.generate(prompts, settings)
    with_torch(device)
    theirs = engine.generate(prompts, settings)
    assert [one.token_ids for one in ours] == [one.token_ids for one in theirs]
    assert len(ours[0].token_ids) == 12


def test_an_images_codes_are_the_same(device, with_torch):
    torch.manual_seed(0)
    quantizer = Quantizer(70, 12).to(device)
    latents = torch.randn(2, 12, 4, 4, device=device)
    ours = quantizer.encode(latents)
    with_torch(device)
    assert torch.equal(ours, quantizer.encode(latents))
