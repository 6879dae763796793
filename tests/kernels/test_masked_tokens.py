"""Masked-token corruption against what it says of itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.masked_tokens import reference
from chexmix_cli.core.kernels.masked_tokens.reference import IGNORED, Hiding

HIDING = Hiding(
    image_start=100,
    image_stop=164,
    specials=(90, 91, 92, 170),
    mask=171,
    image_ratio=(0.3, 0.9),
    text_ratio=(0.1, 0.6),
    masked_targets_only=True,
)


def documents(num_rows: int, num_positions: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return ids with image, text and specials mixed, targets, lengths and seeds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(80, 172, (num_rows, num_positions + 1), generator=generator)
    lengths = torch.randint(1, num_positions + 1, (num_rows,), generator=generator)
    is_real = torch.arange(num_positions) < lengths[:, None]
    inputs = ids[:, :-1].where(is_real, 170)
    targets = ids[:, 1:].where(is_real, IGNORED)
    return inputs, targets, lengths, torch.randint(2**62, (num_rows,), generator=generator)


@pytest.mark.parametrize("ratios", [((0.0, 0.0), (1.0, 1.0)), ((1.0, 1.0), (0.0, 0.0)), ((0.5, 0.5), (0.5, 0.5))])
def test_none_and_all_and_half(ratios):
    given = [x.to() for x in documents(4, 300)]
    hiding = dataclasses.replace(HIDING, image_ratio=ratios[0], text_ratio=ratios[1])
    hidden, counted = reference.hide_tokens(*given, hiding)
    is_image = (given[0] >= 100) & (given[0] < 164)
    is_text = ~is_image & ~torch.isin(given[0], torch.tensor(HIDING.specials))
    for is_kind, (ratio, _) in zip((is_image, is_text), ratios, strict=True):
        changed = ((hidden != given[0]) & is_kind).sum(dim=1)
        # A token that is the mask id already is text, and hiding it changes nothing.
        masks = ((given[0] == HIDING.mask) & is_kind).sum(dim=1)
        expected = (ratio * is_kind.sum(dim=1) + 0.5).floor()
        assert bool(((changed <= expected) & (changed + masks >= expected)).all())
    # What the input shows does not count, but for the last target of a document, which nothing shows.
    is_shown = (hidden == given[0])[:, 1:] & (given[0] != HIDING.mask)[:, 1:]
    is_last = torch.arange(299) == given[2][:, None] - 1
    assert torch.equal(counted[:, :-1][is_shown & ~is_last], torch.full((int((is_shown & ~is_last).sum()),), IGNORED))
    assert torch.equal(counted[:, :-1][is_last], given[1][:, :-1][is_last])


def test_the_definition_hides_by_the_documents_own_seed_alone():
    inputs, targets, lengths, seeds = documents(6, 50)
    together = reference.hide_tokens(inputs, targets, lengths, seeds, HIDING)
    for row in range(6):
        own = slice(row, row + 1), slice(0, int(lengths[row]))
        alone = reference.hide_tokens(inputs[own], targets[own], lengths[own[:1]], seeds[own[:1]], HIDING)
        assert all(torch.equal(mine, all_of[own]) for mine, all_of in zip(alone, together, strict=True))
    other = reference.hide_tokens(inputs, targets, lengths, seeds + 1, HIDING)
    assert not torch.equal(other[0], together[0])


def test_the_check_would_see_another_share():
    """Negative control."""
    given = [x.to() for x in documents(5, 77)]
    right = reference.hide_tokens(*given, HIDING)
    more = dataclasses.replace(HIDING, image_ratio=(0.35, 0.95))
    for mine, other in zip(right, reference.hide_tokens(*given, more), strict=True):
        assert not torch.equal(mine, other)


def test_what_does_not_fit_is_refused_and_an_empty_batch_is_empty():
    inputs, targets, lengths, seeds = (x.to() for x in documents(3, 20))
    with pytest.raises(ShapeError, match=r"expected \(B, T\), \(B, T\), \(B,\) and \(B,\), all int64"):
        reference.hide_tokens(inputs, targets[:2], lengths, seeds, HIDING)
    with pytest.raises(ShapeError, match="all int64"):
        reference.hide_tokens(inputs.int(), targets, lengths, seeds, HIDING)
    assert reference.hide_tokens(inputs[:0], targets[:0], lengths[:0], seeds[:0], HIDING)[0].shape == (0, 20)
