"""Loss and gradients of both stages against transformers' PhiForCausalLM with the plain cross-entropy, all random."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.kernels.linear_cross_entropy import chunked
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.train.objectives import (
    IGNORED,
    Documents,
    masked_next_token,
    next_token,
    token_losses,
)
from chexmix_cli.core.vocab import compact
from chexmix_cli.core.weights.formats.keys import decoder_slices

VOCABULARY = compact(num_text=120, num_codes=60, tokens_per_image=16)
SETTINGS = DecoderSettings(
    num_rows=VOCABULARY.num_rows,
    hidden_size=160,
    num_layers=3,
    num_heads=2,
    mlp_size=320,
    rotary_size=32,
    max_positions=96,
    residual_dropout=0.0,
)


def documents(stage: str) -> Documents:
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(117, (length,), generator=generator).tolist() for length in (9, 4, 17)]
    codes = [torch.randint(60, (16,), generator=generator).tolist() for _ in texts]
    pairs = zip(codes, texts, strict=True)
    plain = next_token([VOCABULARY.document(image, text) for image, text in pairs], VOCABULARY)
    if stage == "1":
        return plain
    return masked_next_token(
        plain,
        VOCABULARY,
        image_ratio=(0.3, 0.9),
        text_ratio=(0.1, 0.6),
        loss="masked" if stage == "2 masked" else "all",
        seed_B=torch.randint(2**62, (3,), generator=generator),
    )


def phi_loss(phi: torch.nn.Module, batch: Documents) -> Tensor:
    """Return the summed loss of documents side by side, padding masked away: what a plain loop would compute."""
    is_real_BT = torch.arange(batch.input_BT.shape[1]) < torch.tensor(batch.lengths)[:, None]
    logits_BTV = phi(batch.input_BT, attention_mask=is_real_BT.long(), use_cache=False).logits
    return F.cross_entropy(logits_BTV.flatten(0, 1), batch.target_BT.flatten(), ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("rows", [(1, 1, 1), (2, 1)], ids=["a document a row", "packed inside"])
@pytest.mark.parametrize("stage", ["1", "2 masked", "2 all"])
def test_loss_and_every_gradient_are_phis(make_pair, monkeypatch, stage, rows):
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", 4 * VOCABULARY.num_rows * 7)  # seven tokens a chunk
    phi, decoder = make_pair(SETTINGS)
    batch = dataclasses.replace(documents(stage), rows=rows)
    phi.model.embed_tokens.padding_idx = None  # transformers gives the padding id's row, here text id 0, no gradient
    phi.zero_grad()
    expected = phi_loss(phi, batch)
    (expected * 0.7).backward()
    total, loss_M, target_M = token_losses(decoder, batch)
    (total * 0.7).backward()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert len(loss_M) == batch.num_targets()
    for is_kind_M in (VOCABULARY.is_image(target_M), ~VOCABULARY.is_image(target_M)):
        assert 0 < int(is_kind_M.sum()) < len(target_M)
    ours = dict(decoder.named_parameters())
    theirs = dict(phi.named_parameters())
    for item in decoder_slices(SETTINGS):
        found, reference = item.of(ours[item.parameter].grad), theirs[item.key].grad
        difference = float((found - reference).abs().max() / reference.abs().max())
        assert difference < 1e-4, item.key
