"""Filling hidden codes: what each strategy sees, that none sees what is hidden, that the fast way is the plain one."""

from __future__ import annotations

import copy

import pytest
import torch

from chexmix_cli.core.errors import SettingsError, ShapeError, VocabularyError
from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
from chexmix_cli.core.models.attention import ImageSpan
from chexmix_cli.core.settings.inpainting import STRATEGIES, FillSettings, RegionSettings

CHOICES = ("best", "expected", "sample")


@pytest.fixture
def codebook(vocabulary):
    return torch.randn(vocabulary.num_codes, 4, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_filler(decoder, vocabulary, codebook):
    def make(bidirectional=False):
        own = copy.deepcopy(decoder)
        own.image_span = ImageSpan(vocabulary.begin_image, vocabulary.tokens_per_image) if bidirectional else None
        return CodeFiller(own, vocabulary, codebook)

    return make


@pytest.fixture
def image_codes(codes):
    return torch.tensor(codes)


@pytest.fixture
def is_hidden(image_codes):
    """Return a different mask for each image: some, none, all."""
    some = torch.rand(image_codes.shape[1], generator=torch.Generator().manual_seed(3)) < 0.5
    return torch.stack([some, torch.zeros_like(some), torch.ones_like(some)])


def states(decoder, vocabulary, row, is_hidden_P):
    """Return the states that predict each code of one masked image, causally: written out."""
    ids = [vocabulary.begin_image]
    ids += [
        vocabulary.mask if hidden else vocabulary.image_start + int(code)
        for code, hidden in zip(row, is_hidden_P, strict=True)
    ]
    return decoder(torch.tensor([ids]))[0, :-1]


def image_logits(decoder, vocabulary, state):
    return decoder.logits(state)[..., vocabulary.image_start : vocabulary.image_stop]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_is_hidden_changes_nothing_bit_for_bit(
    make_filler, image_codes, is_hidden, vocabulary, strategy, choice, bidirectional
):
    filler, settings = make_filler(bidirectional), FillSettings(strategy=strategy, choice=choice, rounds=3)
    first = filler.fill(image_codes, is_hidden, settings, seed=5)
    other = torch.where(is_hidden, (image_codes + 7) % vocabulary.num_codes, image_codes)
    second = filler.fill(other, is_hidden, settings, seed=5)
    assert torch.equal(first.codes_BP, second.codes_BP)
    assert torch.equal(first.vectors_BPE, second.vectors_BPE)
    assert torch.equal(first.codes_BP[~is_hidden], image_codes[~is_hidden])
    visible = image_codes.clone()
    visible[0, int((~is_hidden[0]).nonzero()[0])] += 1
    assert not torch.equal(filler.fill(visible, is_hidden, settings, seed=5).vectors_BPE, first.vectors_BPE)


def test_one_pass_takes_each_code_from_the_state_before_it(
    make_filler, decoder, vocabulary, codebook, image_codes, is_hidden
):
    found = make_filler().fill(image_codes, is_hidden, FillSettings(choice="expected", temperature=0.7))
    with torch.no_grad():
        for row in range(len(image_codes)):
            logits = image_logits(
                decoder, vocabulary, states(decoder, vocabulary, image_codes[row], is_hidden[row])
            ).double()
            for position in is_hidden[row].nonzero()[:, 0].tolist():
                assert int(found.codes_BP[row, position]) == int(logits[position].argmax())
                vector = (logits[position] / 0.7).softmax(dim=0) @ codebook.double()
                assert torch.allclose(found.vectors_BPE[row, position].double(), vector, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_cached_way_is_the_plain_one(make_filler, monkeypatch, image_codes, is_hidden, choice):
    filler, settings = make_filler(), FillSettings(strategy="autoregressive", choice=choice)
    cached = filler.fill(image_codes, is_hidden, settings, seed=1)
    from chexmix_cli.core.infer.inpainting import code_filler as inpaint

    monkeypatch.setattr(inpaint._Run, "autoregressive", inpaint._Run.one_by_one)
    plain = filler.fill(image_codes, is_hidden, settings, seed=1)
    assert torch.equal(cached.codes_BP, plain.codes_BP)
    assert torch.allclose(cached.vectors_BPE, plain.vectors_BPE, atol=1e-5)
    # It does differ from one pass, where earlier fills are not seen.
    assert not torch.equal(
        cached.codes_BP, filler.fill(image_codes, is_hidden, FillSettings(choice=choice), seed=1).codes_BP
    )


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_hidden_code_is_filled_the_same_by_every_strategy(make_filler, image_codes, choice, bidirectional):
    is_hidden = torch.zeros_like(image_codes, dtype=torch.bool)
    is_hidden[:, 6] = True
    filler = make_filler(bidirectional)
    found = [
        filler.fill(image_codes, is_hidden, FillSettings(strategy=strategy, choice=choice), seed=2)
        for strategy in ("single", "iterative", "autoregressive")
    ]
    assert all(torch.equal(found[0].codes_BP, one.codes_BP) for one in found)
    assert all(torch.allclose(found[0].vectors_BPE, one.vectors_BPE, atol=1e-5) for one in found)


def test_rounds_keep_what_is_most_certain(make_filler, decoder, vocabulary, image_codes, is_hidden):
    """The same, written out for one image, on the linear schedule."""
    rounds = 4
    settings = FillSettings(strategy="iterative", choice="best", rounds=rounds, schedule="linear")
    found = make_filler().fill(image_codes[2:], is_hidden[2:], settings).codes_BP[0]
    row, is_open = image_codes[2].tolist(), [True] * 16
    with torch.no_grad():
        for number in range(1, rounds + 1):
            prob = image_logits(decoder, vocabulary, states(decoder, vocabulary, row, is_open)).softmax(dim=-1)
            best, code = prob.max(dim=-1)
            ranked = sorted((p for p in range(16) if is_open[p]), key=lambda position: -float(best[position]))
            for position in ranked[: sum(is_open) - int(16 * (1 - number / rounds))]:
                row[position], is_open[position] = int(code[position]), False
    assert found.tolist() == row


def test_one_round_is_one_pass_and_every_round_fills_something(make_filler, monkeypatch, image_codes, is_hidden):
    filler = make_filler()
    one = filler.fill(image_codes, is_hidden, FillSettings(strategy="iterative", rounds=1))
    assert torch.equal(one.codes_BP, filler.fill(image_codes, is_hidden, FillSettings()).codes_BP)
    passes = []
    plain = filler.states
    monkeypatch.setattr(filler, "states", lambda ids: passes.append(1) or plain(ids))
    filler.fill(image_codes, is_hidden, FillSettings(strategy="iterative", rounds=500))
    assert len(passes) == 16


def test_only_a_bidirectional_model_uses_what_is_visible_behind(make_filler, vocabulary, image_codes):
    is_hidden = torch.zeros_like(image_codes, dtype=torch.bool)
    is_hidden[:, 4] = True
    changed = image_codes.clone()
    changed[:, 9] = (changed[:, 9] + 1) % vocabulary.num_codes
    for bidirectional in (False, True):
        filler = make_filler(bidirectional)
        first, second = (
            filler.fill(codes, is_hidden, FillSettings()).vectors_BPE[:, 4] for codes in (image_codes, changed)
        )
        assert torch.equal(first, second) == (not bidirectional)


def test_a_bidirectional_model_reads_the_image_as_in_training(
    make_filler, decoder, vocabulary, codebook, image_codes, is_hidden
):
    found = make_filler(True).fill(image_codes, is_hidden, FillSettings(choice="best"))
    masked = vocabulary.codes_to_ids(image_codes).masked_fill(is_hidden, vocabulary.mask)
    ids = torch.cat((torch.full((3, 1), vocabulary.begin_image), masked), dim=1)
    attend = torch.ones(17, 17, dtype=torch.bool).tril()
    attend[1:, 1:] = True
    with torch.no_grad():
        logits = image_logits(decoder, vocabulary, decoder(ids, attend_BTS=attend[None].expand(3, -1, -1))[:, :-1])
    assert torch.equal(found.codes_BP[is_hidden], logits.argmax(dim=-1)[is_hidden])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_hangs_on_seed_image_and_number_only(make_filler, image_codes, is_hidden, strategy):
    filler, settings = make_filler(), FillSettings(strategy=strategy, choice="sample", rounds=3)
    together = filler.fill(image_codes, is_hidden, settings, seed=4).codes_BP
    alone = filler.fill(image_codes[2:], is_hidden[2:], settings, seed=4).codes_BP
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together, filler.fill(image_codes, is_hidden, settings, seed=5).codes_BP)
    assert not torch.equal(together, filler.fill(image_codes, is_hidden, settings, seed=4, sample_number=1).codes_BP)


def test_wrong_input_is_refused(make_filler, image_codes, is_hidden):
    filler = make_filler()
    with pytest.raises(ShapeError, match=r"codes \(3, 15\)"):
        filler.fill(image_codes[:, 1:], is_hidden[:, 1:], FillSettings())
    with pytest.raises(ShapeError, match=r"hidden \(2, 16\)"):
        filler.fill(image_codes, is_hidden[:2], FillSettings())
    bad = image_codes.clone()
    bad[1] = 40
    with pytest.raises(VocabularyError, match="image code 40"):
        filler.fill(bad, is_hidden, FillSettings())


def test_settings_are_checked():
    with pytest.raises(SettingsError, match=r"fill.samples.*fill.choice"):
        FillSettings(samples=3)
    with pytest.raises(SettingsError, match=r"fill.top_p"):
        FillSettings(top_p=0)
    with pytest.raises(SettingsError, match=r"fill.temperature"):
        FillSettings(temperature=0)
    with pytest.raises(SettingsError, match=r"fill.rounds"):
        FillSettings(rounds=0)
    with pytest.raises(SettingsError, match=r"region.ring"):
        RegionSettings(ring=-1)
