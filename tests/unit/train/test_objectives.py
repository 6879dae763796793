"""What each objective shows the model, and what it asks of it."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import MaskingSettings
from chexmix_cli.core.train.objectives import (
    IGNORED,
    Documents,
    draw_masked,
    image_span_mask,
    masked_next_token,
    next_token,
    token_losses,
)
from chexmix_cli.core.vocab import compact

VOCABULARY = compact(num_text=40, num_codes=16, tokens_per_image=9)


def random_documents(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for _ in range(count):
        codes = torch.randint(16, (9,), generator=generator).tolist()
        length = int(torch.randint(3, 12, (1,), generator=generator))
        documents.append(VOCABULARY.document(codes, torch.randint(37, (length,), generator=generator).tolist()))
    return documents


@pytest.fixture
def decoder(trained_model) -> Decoder:
    import dataclasses

    torch.manual_seed(3)
    settings = dataclasses.replace(trained_model.decoder, num_rows=VOCABULARY.num_rows, residual_dropout=0.0)
    decoder = Decoder(settings)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.3)
    return decoder


def test_targets_are_the_next_tokens_and_the_next_document_ends_a_report():
    documents = random_documents(5)
    batch = next_token(documents, VOCABULARY)
    for row, document in enumerate(documents):
        length = len(document)
        assert batch.input_BT[row, :length].tolist() == document
        assert batch.target_BT[row, : length - 1].tolist() == document[1:]
        assert batch.target_BT[row, length - 1] == VOCABULARY.begin_image
        assert (batch.input_BT[row, length:] == VOCABULARY.pad).all()
        assert (batch.target_BT[row, length:] == IGNORED).all()
    assert batch.num_targets() == sum(len(document) for document in documents)


def test_markers_and_padding_are_never_hidden():
    batch = next_token(random_documents(64), VOCABULARY)
    is_masked_BT = draw_masked(batch.input_BT, VOCABULARY, (1.0, 1.0), (1.0, 1.0), torch.Generator().manual_seed(0))
    specials = [VOCABULARY.begin_image, VOCABULARY.end_image, VOCABULARY.begin_text, VOCABULARY.pad]
    is_special_BT = torch.isin(batch.input_BT, torch.tensor(specials))
    assert torch.equal(is_masked_BT, ~is_special_BT)


def test_each_document_hides_the_share_it_drew():
    generator = torch.Generator().manual_seed(1)
    batch = next_token(random_documents(4000), VOCABULARY)
    is_image_BT = VOCABULARY.is_image(batch.input_BT)
    is_masked_BT = draw_masked(batch.input_BT, VOCABULARY, (0.25, 0.75), (0.0, 0.0), generator)
    assert not (is_masked_BT & ~is_image_BT).any()
    share_B = is_masked_BT.sum(dim=1) / is_image_BT.sum(dim=1)
    # Nine positions: shares of 2/9 (0.25 rounded down) to 7/9; the inner ones are equally likely.
    assert share_B.min() >= 2 / 9 - 1e-6
    assert share_B.max() <= 7 / 9 + 1e-6
    counts = torch.bincount((share_B * 9).round().long(), minlength=10)[3:7].float()
    assert (counts / 4000 - (1 / 9) / 0.5).abs().max() < 0.03
    # Which positions are hidden is uniform too.
    position_share = is_masked_BT[:, 1:10].float().mean(dim=0)
    assert (position_share - 0.5).abs().max() < 0.03


def test_image_and_text_ratios_are_apart():
    batch = next_token(random_documents(500), VOCABULARY)
    is_masked_BT = draw_masked(batch.input_BT, VOCABULARY, (0.0, 0.0), (1.0, 1.0), torch.Generator().manual_seed(0))
    is_image_BT = VOCABULARY.is_image(batch.input_BT)
    assert not (is_masked_BT & is_image_BT).any()
    assert is_masked_BT.any()


def test_masked_targets_are_the_original_tokens_at_hidden_positions_and_the_end():
    plain = next_token(random_documents(6), VOCABULARY)
    is_masked_BT = draw_masked(plain.input_BT, VOCABULARY, (0.5, 0.5), (0.5, 0.5), torch.Generator().manual_seed(0))
    batch = masked_next_token(plain, is_masked_BT, VOCABULARY, masked_targets_only=True, bidirectional=False)
    assert (batch.input_BT[is_masked_BT] == VOCABULARY.mask).all()
    assert torch.equal(batch.input_BT[~is_masked_BT], plain.input_BT[~is_masked_BT])
    for row in range(6):
        counted = (batch.target_BT[row] != IGNORED).nonzero().flatten()
        end = int((plain.target_BT[row] != IGNORED).sum()) - 1
        assert counted.tolist() == [*(is_masked_BT[row].nonzero().flatten() - 1).tolist(), end]
        assert torch.equal(batch.target_BT[row, counted[:-1]], plain.input_BT[row, counted[:-1] + 1])
        assert batch.target_BT[row, end] == VOCABULARY.begin_image
    everything = masked_next_token(plain, is_masked_BT, VOCABULARY, masked_targets_only=False, bidirectional=False)
    assert torch.equal(everything.target_BT, plain.target_BT)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_hidden_token_changes_no_loss_input(decoder, bidirectional):
    """Replace every hidden token by another id: what the decoder computes must stay the same, bit for bit."""
    plain = next_token(random_documents(6), VOCABULARY)
    is_masked_BT = draw_masked(plain.input_BT, VOCABULARY, (0.4, 0.9), (0.4, 0.9), torch.Generator().manual_seed(5))
    other_BT = plain.input_BT.clone()
    is_image_BT = VOCABULARY.is_image(other_BT)
    shifted = VOCABULARY.image_start + (other_BT - VOCABULARY.image_start + 5) % VOCABULARY.num_codes
    other_BT = torch.where(is_masked_BT & is_image_BT, shifted, other_BT)
    other_BT = torch.where(is_masked_BT & ~is_image_BT, (other_BT + 7) % 37, other_BT)
    assert not torch.equal(other_BT, plain.input_BT)
    states = []
    for input_BT in (plain.input_BT, other_BT):
        documents = Documents(input_BT, plain.target_BT, None)
        batch = masked_next_token(
            documents, is_masked_BT, VOCABULARY, masked_targets_only=True, bidirectional=bidirectional
        )
        with torch.no_grad():
            states.append(decoder(batch.input_BT, attend_BTS=batch.attend_1TT))
    assert torch.equal(*states)


def test_gradient_reaches_no_embedding_of_a_hidden_or_later_token(decoder):
    """With causal attention the loss of position t depends on ids up to t only, and never on a hidden one."""
    plain = next_token(random_documents(1, seed=9), VOCABULARY)
    is_masked_BT = torch.zeros_like(plain.input_BT, dtype=torch.bool)
    is_masked_BT[0, 4:7] = True
    batch = masked_next_token(plain, is_masked_BT, VOCABULARY, masked_targets_only=True, bidirectional=False)
    captured = []
    handle = decoder.embedding.register_forward_hook(lambda module, inputs, output: captured.append(output))
    loss_M, _ = token_losses(decoder, batch)
    handle.remove()
    # The last target is the end of the report, which may look at everything.
    (gradient_BTD,) = torch.autograd.grad(loss_M[:-1].sum(), captured)
    strength_T = gradient_BTD[0].abs().sum(dim=1)
    assert (strength_T[:6] > 0).all()
    assert (strength_T[6:] == 0).all()
    # The rows of the hidden ids themselves get no gradient through the input.
    hidden_ids = set(plain.input_BT[0, 4:7].tolist()) - set(batch.input_BT[0].tolist())
    assert hidden_ids


def test_image_span_mask_is_the_documented_one():
    expected = ["10000", "11110", "11110", "11110", "11111"]
    mask = image_span_mask(5, compact(num_text=10, num_codes=4, tokens_per_image=3))[0]
    assert ["".join(str(int(value)) for value in row) for row in mask] == expected


def test_loss_equals_a_plain_computation(decoder):
    batch = next_token(random_documents(3), VOCABULARY)
    loss_M, target_M = token_losses(decoder, batch)
    expected = []
    for row in range(3):
        logits = decoder.logits(decoder(batch.input_BT[row : row + 1]))[0].double().log_softmax(dim=-1)
        for position, target in enumerate(batch.target_BT[row].tolist()):
            if target != IGNORED:
                expected.append(-logits[position, target])
    assert torch.allclose(loss_M.double(), torch.stack(expected), atol=1e-5)
    assert len(target_M) == batch.num_targets()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_ratio": (0.5, 0.2)}, "masking.image_ratio"),
        ({"text_ratio": (0.0, 1.2)}, "masking.text_ratio"),
        ({"image_ratio": (0.0, 0.0), "text_ratio": (0.0, 0.0)}, "a ratio above 0"),
        ({"loss": "all", "attention": "bidirectional"}, "visible targets see themselves"),
    ],
)
def test_impossible_masking_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        MaskingSettings(**values)
