"""What each objective shows the model, and what it asks of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.attention import AttentionPlan, ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.training import MaskedLoss, MaskingSettings
from chexmix_cli.core.train.objectives import (
    IGNORED,
    Documents,
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


def hide(
    documents: Documents,
    image_ratio: tuple[float, float],
    text_ratio: tuple[float, float],
    *,
    seed: int = 0,
    loss: MaskedLoss = "masked",
) -> tuple[Documents, torch.Tensor]:
    """Return documents with hidden tokens, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    batch = masked_next_token(
        documents,
        VOCABULARY,
        image_ratio=image_ratio,
        text_ratio=text_ratio,
        loss=loss,
        seed_B=torch.randint(2**62, (len(documents.lengths),), generator=generator),
    )
    return batch, batch.input_BT == VOCABULARY.mask


@pytest.fixture
def decoder(trained_model) -> Decoder:
    torch.manual_seed(3)
    settings = dataclasses.replace(
        trained_model.decoder, num_rows=VOCABULARY.num_rows, residual_dropout=0.0, max_positions=80
    )
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
    _, is_masked_BT = hide(batch, (1.0, 1.0), (1.0, 1.0))
    specials = [VOCABULARY.begin_image, VOCABULARY.end_image, VOCABULARY.begin_text, VOCABULARY.pad]
    is_special_BT = torch.isin(batch.input_BT, torch.tensor(specials))
    assert torch.equal(is_masked_BT, ~is_special_BT)


def test_each_document_hides_the_share_it_drew():
    batch = next_token(random_documents(4000), VOCABULARY)
    is_image_BT = VOCABULARY.is_image(batch.input_BT)
    _, is_masked_BT = hide(batch, (0.25, 0.75), (0.0, 0.0), seed=1)
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
    _, is_masked_BT = hide(batch, (0.0, 0.0), (1.0, 1.0))
    is_image_BT = VOCABULARY.is_image(batch.input_BT)
    assert not (is_masked_BT & is_image_BT).any()
    assert is_masked_BT.any()


def test_masked_targets_are_the_original_tokens_at_hidden_positions_and_the_end():
    plain = next_token(random_documents(6), VOCABULARY)
    batch, is_masked_BT = hide(plain, (0.5, 0.5), (0.5, 0.5), seed=0)
    assert (batch.input_BT[is_masked_BT] == VOCABULARY.mask).all()
    assert torch.equal(batch.input_BT[~is_masked_BT], plain.input_BT[~is_masked_BT])
    for row in range(6):
        counted = (batch.target_BT[row] != IGNORED).nonzero().flatten()
        end = int((plain.target_BT[row] != IGNORED).sum()) - 1
        assert counted.tolist() == [*(is_masked_BT[row].nonzero().flatten() - 1).tolist(), end]
        assert torch.equal(batch.target_BT[row, counted[:-1]], plain.input_BT[row, counted[:-1] + 1])
        assert batch.target_BT[row, end] == VOCABULARY.begin_image
    everything, _ = hide(plain, (0.5, 0.5), (0.5, 0.5), loss="all")
    assert torch.equal(everything.input_BT, batch.input_BT)
    assert torch.equal(everything.target_BT, plain.target_BT)


def test_masked_image_counts_hidden_codes_and_the_whole_report():
    plain = next_token(random_documents(6), VOCABULARY)
    batch, is_masked_BT = hide(plain, (0.5, 0.5), (0.5, 0.5), loss="masked-image")
    assert torch.equal(batch.input_BT, hide(plain, (0.5, 0.5), (0.5, 0.5))[0].input_BT)
    for row in range(6):
        ids = plain.input_BT[row].tolist()
        stop = ids.index(VOCABULARY.end_image)
        end = int((plain.target_BT[row] != IGNORED).sum())
        hidden = (is_masked_BT[row, :stop].nonzero().flatten() - 1).tolist()
        counted = (batch.target_BT[row] != IGNORED).nonzero().flatten()
        # Neither I_E nor T_s, then each token of the report and what ends it.
        assert counted.tolist() == [*hidden, *range(stop + 1, end)]
        assert torch.equal(batch.target_BT[row, counted], plain.target_BT[row, counted])


LAYOUTS = [
    pytest.param(
        crosses, bidirectional, id=f"{'across' if crosses else 'inside'}-{'both' if bidirectional else 'causal'}"
    )
    for crosses in (False, True)
    for bidirectional in (False, True)
]


def lay_out(documents: Documents, *, crosses: bool, bidirectional: bool) -> Documents:
    """Return six documents as rows of one, three and two."""
    return dataclasses.replace(documents, rows=(1, 3, 2), crosses_documents=crosses, is_bidirectional=bidirectional)


def other_ids(input_BT: torch.Tensor, is_chosen_BT: torch.Tensor) -> torch.Tensor:
    """Return inputs with another id of the same kind wherever one is chosen."""
    is_image_BT = VOCABULARY.is_image(input_BT)
    shifted = VOCABULARY.image_start + (input_BT - VOCABULARY.image_start + 5) % VOCABULARY.num_codes
    other_BT = torch.where(is_chosen_BT & is_image_BT, shifted, input_BT)
    other_BT = torch.where(is_chosen_BT & ~is_image_BT, (input_BT + 7) % 37, other_BT)
    assert torch.equal(other_BT != input_BT, is_chosen_BT)
    return other_BT


@torch.no_grad()
def states(decoder: Decoder, documents: Documents) -> torch.Tensor:
    """Return the final state of every real token, (tokens, D)."""
    input_1T, _ = documents.flat()
    return decoder(input_1T, attend_BTS=AttentionPlan(documents.contexts()))[0]


@pytest.mark.parametrize("loss", ["masked", "masked-image", "all"])
@pytest.mark.parametrize("ratios", [((0.4, 0.9), (0.4, 0.9)), ((1.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (1.0, 1.0))])
@pytest.mark.parametrize(("crosses", "bidirectional"), LAYOUTS)
def test_a_hidden_token_changes_nothing_the_decoder_computes(decoder, crosses, bidirectional, ratios, loss):
    """Replace every hidden token by another id: every state must stay the same, bit for bit."""
    plain = lay_out(next_token(random_documents(6), VOCABULARY), crosses=crosses, bidirectional=bidirectional)
    _, is_masked_BT = hide(plain, *ratios, seed=5)
    other = dataclasses.replace(plain, input_BT=other_ids(plain.input_BT, is_masked_BT))
    first, second = (states(decoder, hide(documents, *ratios, seed=5, loss=loss)[0]) for documents in (plain, other))
    assert torch.equal(first, second)
    # The same change where nothing is hidden is seen, or this test could not fail.
    assert not torch.equal(states(decoder, plain), states(decoder, other))


@pytest.mark.parametrize("loss", ["masked", "masked-image"])
@pytest.mark.parametrize(("crosses", "bidirectional"), LAYOUTS)
def test_a_visible_token_reaches_no_target_that_it_is(decoder, crosses, bidirectional, loss):
    """Where a target counts, the state that predicts it does not depend on the token, though it stands in the input."""
    plain = lay_out(next_token(random_documents(6), VOCABULARY), crosses=crosses, bidirectional=bidirectional)
    batch, is_masked_BT = hide(plain, (0.3, 0.6), (0.3, 0.6), seed=2, loss=loss)
    captured = []
    handle = decoder.embedding.register_forward_hook(lambda module, inputs, output: captured.append(output))
    input_1T, target_1T = batch.flat()
    state_TD = decoder(input_1T, attend_BTS=AttentionPlan(batch.contexts()))[0]
    handle.remove()
    is_mask_T = input_1T[0] == VOCABULARY.mask
    for position in (target_1T[0] != IGNORED).nonzero().flatten().tolist()[::5]:
        (gradient_1TD,) = torch.autograd.grad(state_TD[position].sum(), captured, retain_graph=True)
        strength_T = gradient_1TD[0].abs().sum(dim=1)
        shown = position + 1 < len(strength_T) and not is_mask_T[position + 1]
        assert not shown or strength_T[position + 1] == 0
        assert strength_T[position] > 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_inside_packing_one_document_changes_no_other(decoder, bidirectional):
    plain = lay_out(next_token(random_documents(6), VOCABULARY), crosses=False, bidirectional=bidirectional)
    is_text_BT = plain.input_BT < 37
    for changed in range(6):
        chosen_BT = (is_text_BT | VOCABULARY.is_image(plain.input_BT)) & (torch.arange(6) == changed)[:, None]
        other = dataclasses.replace(plain, input_BT=other_ids(plain.input_BT, chosen_BT))
        pairs = zip(
            states(decoder, plain).split(plain.lengths), states(decoder, other).split(plain.lengths), strict=True
        )
        assert [torch.equal(*pair) for pair in pairs] == [number != changed for number in range(6)]


def test_across_packing_a_row_reads_on_and_rows_stay_apart(decoder):
    plain = lay_out(next_token(random_documents(6), VOCABULARY), crosses=True, bidirectional=False)
    chosen_BT = VOCABULARY.is_image(plain.input_BT) & (torch.arange(6) == 2)[:, None]  # the second of the second row
    other = dataclasses.replace(plain, input_BT=other_ids(plain.input_BT, chosen_BT))
    pairs = zip(states(decoder, plain).split(plain.lengths), states(decoder, other).split(plain.lengths), strict=True)
    assert [torch.equal(*pair) for pair in pairs] == [True, True, False, False, True, True]


def test_gradient_reaches_no_embedding_of_a_hidden_or_later_token(decoder):
    """With causal attention the loss of position t depends on ids up to t only, and never on a hidden one."""
    plain = next_token(random_documents(1, seed=9), VOCABULARY)
    batch = dataclasses.replace(
        plain, input_BT=plain.input_BT.clone(), target_BT=torch.full_like(plain.target_BT, IGNORED)
    )
    batch.input_BT[0, 4:7] = VOCABULARY.mask
    batch.target_BT[0, 3:6] = plain.target_BT[0, 3:6]
    captured = []
    handle = decoder.embedding.register_forward_hook(lambda module, inputs, output: captured.append(output))
    total, _, _ = token_losses(decoder, batch)
    handle.remove()
    (gradient_BTD,) = torch.autograd.grad(total, captured)
    strength_T = gradient_BTD[0].abs().sum(dim=1)
    assert (strength_T[:6] > 0).all()
    assert (strength_T[6:] == 0).all()
    # The rows of the hidden ids themselves get no gradient through the input.
    hidden_ids = set(plain.input_BT[0, 4:7].tolist()) - set(batch.input_BT[0].tolist())
    assert hidden_ids


@pytest.mark.parametrize(("crosses", "bidirectional"), LAYOUTS)
def test_loss_equals_a_plain_computation(decoder, crosses, bidirectional):
    """One row at a time, the whole mask, all logits in float64."""
    plain = lay_out(next_token(random_documents(6), VOCABULARY), crosses=crosses, bidirectional=bidirectional)
    batch, is_masked_BT = hide(plain, (0.3, 0.6), (0.3, 0.6), seed=2)
    total, loss_M, target_M = token_losses(decoder, batch)
    expected = []
    for row in batch.split(1):
        input_1T, target_1T = row.flat()
        plan = AttentionPlan(row.contexts())
        state = decoder(input_1T, positions_BT=plan.position_1T, attend_BTS=plan.dense_mask())
        logprob_TV = decoder.logits(state)[0].double().log_softmax(dim=-1)
        expected += [-logprob_TV[at, to] for at, to in enumerate(target_1T[0].tolist()) if to != IGNORED]
    assert torch.allclose(loss_M.double(), torch.stack(expected), atol=1e-5)
    assert float(total.detach()) == pytest.approx(float(loss_M.sum()), rel=1e-6)
    assert len(target_M) == batch.num_targets() == len(expected)


def test_rows_are_what_is_split():
    documents = lay_out(next_token(random_documents(6), VOCABULARY), crosses=True, bidirectional=False)
    first, second = documents.split(2)
    assert (first.rows, second.rows) == ((1, 3), (2,))
    assert torch.equal(torch.cat([part.flat()[0] for part in (first, second)], dim=1), documents.flat()[0])
    assert first.num_tokens() + second.num_tokens() == documents.num_tokens() == sum(documents.lengths)


def test_contexts_are_documents_or_rows():
    """``I_s``, nine image positions, ``I_E T_s`` and a report of three or more."""
    plain = next_token(random_documents(6), VOCABULARY)
    first = plain.lengths[0]
    inside = lay_out(plain, crosses=False, bidirectional=True).contexts()
    assert len(inside) == 6
    assert inside[0] == (ContextPart(1), ContextPart(9, sees_itself=True), ContextPart(first - 10))
    across = lay_out(plain, crosses=True, bidirectional=True).contexts()
    assert len(across) == 3
    assert across[0] == inside[0]
    assert [part.length for part in across[2]] == [1, 9, plain.lengths[4] - 9, 9, plain.lengths[5] - 10]
    assert lay_out(plain, crosses=True, bidirectional=False).contexts()[0] == (ContextPart(first),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_ratio": (0.5, 0.2)}, "masking.image_ratio"),
        ({"text_ratio": (0.0, 1.2)}, "masking.text_ratio"),
        ({"image_ratio": (0.0, 0.0), "text_ratio": (0.0, 0.0)}, "a ratio above 0"),
        ({"loss": "all", "attention": "bidirectional"}, "visible image targets see themselves"),
    ],
)
def test_impossible_masking_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        MaskingSettings(**values)
