"""The two pretraining objectives as plain functions on token ids. B documents, T positions, D hidden, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.vocab import Vocabulary

#: Target of a position that does not count.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents side by side, padded at the end.

    Attributes:
        input_BT: what the decoder reads, int64.
        target_BT: the id each position must predict, the *next* original one; IGNORED where nothing counts.
        attend_1TT: attention mask (True = may attend), or None for causal. Padding needs none: it comes last.
    """

    input_BT: Tensor
    target_BT: Tensor
    attend_1TT: Tensor | None

    def split(self, size: int) -> list[Documents]:
        """Return the documents in groups of ``size``."""
        parts = zip(self.input_BT.split(size), self.target_BT.split(size), strict=True)
        return [Documents(inputs, targets, self.attend_1TT) for inputs, targets in parts]

    def to(self, device: torch.device) -> Documents:
        """Return the documents on a device."""
        attend_1TT = None if self.attend_1TT is None else self.attend_1TT.to(device)
        return Documents(self.input_BT.to(device), self.target_BT.to(device), attend_1TT)

    def num_targets(self) -> int:
        """Return the number of targets that count."""
        return int((self.target_BT != IGNORED).sum())


def next_token(documents: list[list[int]], vocabulary: Vocabulary) -> Documents:
    """Stage 1: predict every next token; behind a report comes the next document's ``I_s``, and that ends it.

    Args:
        documents: ``I_s image I_E T_s report``, each as ``Vocabulary.document`` builds it.
        vocabulary: the id table.
    """
    length = max(len(document) for document in documents)
    input_BT = torch.full((len(documents), length), vocabulary.pad)
    target_BT = torch.full((len(documents), length), IGNORED)
    for row, document in enumerate(documents):
        input_BT[row, : len(document)] = torch.tensor(document)
        target_BT[row, : len(document)] = torch.tensor([*document[1:], vocabulary.begin_image])
    return Documents(input_BT, target_BT, None)


def draw_masked(
    input_BT: Tensor,
    vocabulary: Vocabulary,
    image_ratio: tuple[float, ...],
    text_ratio: tuple[float, ...],
    generator: Generator,
) -> Tensor:
    """Return which input positions are hidden, (B, T) bool.

    Each document draws one ratio for its image and one for its report, uniform between the bounds, and hides exactly
    the rounded share of each. ``I_s``, ``I_E``, ``T_s`` and padding are never hidden.
    """
    specials = torch.tensor([vocabulary.begin_image, vocabulary.end_image, vocabulary.begin_text, vocabulary.pad])
    is_image_BT = vocabulary.is_image(input_BT)
    is_text_BT = ~is_image_BT & ~torch.isin(input_BT, specials)
    noise_BT = torch.rand(input_BT.shape, generator=generator)
    is_masked_BT = torch.zeros_like(is_image_BT)
    for is_kind_BT, (low, high) in ((is_image_BT, image_ratio), (is_text_BT, text_ratio)):
        ratio_B = low + (high - low) * torch.rand(len(input_BT), generator=generator)
        count_B = (ratio_B * is_kind_BT.sum(dim=1)).round()
        rank_BT = noise_BT.masked_fill(~is_kind_BT, 2.0).argsort(dim=1).argsort(dim=1)
        is_masked_BT |= is_kind_BT & (rank_BT < count_B[:, None])
    return is_masked_BT


def masked_next_token(
    documents: Documents,
    is_masked_BT: Tensor,
    vocabulary: Vocabulary,
    *,
    masked_targets_only: bool,
    bidirectional: bool,
) -> Documents:
    """Stage 2: hide input positions behind the mask id and still predict the next original token.

    Args:
        documents: as :func:`next_token` gives them.
        is_masked_BT: positions to hide.
        vocabulary: the id table.
        masked_targets_only: count a target only if the input does not show it.
        bidirectional: let image positions attend to the whole image span (same place in every document).
    """
    input_BT = documents.input_BT.masked_fill(is_masked_BT, vocabulary.mask)
    target_BT = documents.target_BT
    if masked_targets_only:
        # The next document's I_s, which ends a report, is in no input: it always counts, or the model forgets to stop.
        is_hidden_BT = torch.cat((is_masked_BT[:, 1:], torch.ones_like(is_masked_BT[:, :1])), dim=1)
        is_hidden_BT |= target_BT == vocabulary.begin_image
        target_BT = target_BT.masked_fill(~is_hidden_BT, IGNORED)
    attend = image_span_mask(input_BT.shape[1], vocabulary) if bidirectional else None
    return Documents(input_BT, target_BT, attend)


def image_span_mask(length: int, vocabulary: Vocabulary) -> Tensor:
    """Return the (1, T, T) mask that is causal but for image positions, which see their whole image.

    With ``I_s``, three image positions, ``I_E``::

        1 0 0 0 0
        1 1 1 1 0
        1 1 1 1 0
        1 1 1 1 0
        1 1 1 1 1
    """
    attend_TT = torch.ones(length, length, dtype=torch.bool).tril()
    span = slice(1, 1 + vocabulary.tokens_per_image)
    attend_TT[span, span] = True
    return attend_TT[None]


def token_losses(decoder: Decoder, documents: Documents) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy (nats) of each target that counts and the targets, both (M,), in raster order."""
    state_BTD = decoder(documents.input_BT, attend_BTS=documents.attend_1TT)
    counts_BT = documents.target_BT != IGNORED
    target_M = documents.target_BT[counts_BT]
    logits_MV = decoder.logits(state_BTD[counts_BT])
    return F.cross_entropy(logits_MV.float(), target_M, reduction="none"), target_M
