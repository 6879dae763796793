"""The two pretraining objectives as plain functions on token ids. B documents, T positions, D hidden, V vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Generator, Tensor

from chexmix_cli.core.kernels.linear_cross_entropy.chunked import linear_cross_entropy
from chexmix_cli.core.kernels.masked_tokens import reference
from chexmix_cli.core.kernels.masked_tokens.reference import Hiding, hide_tokens
from chexmix_cli.core.models.attention import AttentionPlan, Context, ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.runtime import sent
from chexmix_cli.core.settings.training import MaskedLoss
from chexmix_cli.core.train.flop import decoder_flop, seen_pairs
from chexmix_cli.core.train.task import Work
from chexmix_cli.core.vocab import Vocabulary

#: Target of a position that does not count.
IGNORED = reference.IGNORED


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents, or pieces that a row's end cut them into, side by side; padded at the end, which no model ever sees.

    On the CPU: how many positions count, and which, is asked of them, and a GPU would have to be waited for.

    Attributes:
        input_BT: what the decoder reads, int64.
        target_BT: the id each position must predict, the *next* original one; IGNORED where nothing counts.
        lengths: of the documents, padding apart.
        images: each one's image positions, from the first to one past the last.
        rows: how many documents, in order, each row holds. A row is what the loop counts and splits by.
        is_bidirectional: image positions see their whole image; else attention is causal.
        crosses_documents: a row is one sequence to attention and to positions; else each of its documents is one.
    """

    input_BT: Tensor
    target_BT: Tensor
    lengths: tuple[int, ...]
    images: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    is_bidirectional: bool = False
    crosses_documents: bool = False

    def split(self, size: int) -> list[Documents]:
        """Return the documents in groups of ``size`` rows."""
        ends = [0, *accumulate(self.rows)]
        groups = [*range(0, len(self.rows), size), len(self.rows)]
        return [self._slice(slice(ends[start], ends[stop]), self.rows[start:stop]) for start, stop in pairwise(groups)]

    def num_targets(self) -> int:
        """Return the number of targets that count."""
        return int((self.target_BT != IGNORED).sum())

    def num_tokens(self) -> int:
        """Return the number of tokens the decoder reads."""
        return sum(self.lengths)

    def contexts(self) -> list[Context]:
        """Return what attends to itself only: each document, or each row."""
        found = [self._parts(length, image) for length, image in zip(self.lengths, self.images, strict=True)]
        if self.crosses_documents:
            ends = [0, *accumulate(self.rows)]
            found = [[part for parts in found[start:stop] for part in parts] for start, stop in pairwise(ends)]
        return [_join_causal(parts) for parts in found]

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each (1, tokens), documents concatenated without padding."""
        position_T = torch.arange(self.input_BT.shape[1], device=self.input_BT.device)
        is_real_BT = position_T < torch.tensor(self.lengths, device=self.input_BT.device)[:, None]
        return self.input_BT[is_real_BT][None], self.target_BT[is_real_BT][None]

    def _parts(self, length: int, image: tuple[int, int]) -> list[ContextPart]:
        if not self.is_bidirectional:
            return [ContextPart(length)]
        start, stop = image
        return [ContextPart(start), ContextPart(stop - start, sees_itself=True), ContextPart(length - stop)]

    def _slice(self, chosen: slice, rows: tuple[int, ...]) -> Documents:
        return dataclasses.replace(
            self,
            input_BT=self.input_BT[chosen],
            target_BT=self.target_BT[chosen],
            lengths=self.lengths[chosen],
            images=self.images[chosen],
            rows=rows,
        )


def _join_causal(parts: Sequence[ContextPart]) -> Context:
    """Return the same context in the fewest parts."""
    joined: list[ContextPart] = []
    for part in parts:
        if joined and not (part.sees_itself or joined[-1].sees_itself):
            joined[-1] = ContextPart(joined[-1].length + part.length)
        elif part.length:
            joined.append(part)
    return tuple(joined)


def next_token(documents: Sequence[Sequence[int]], vocabulary: Vocabulary) -> Documents:
    """Stage 1: predict every next token; after a report comes the next document's ``I_s``, which ends it.

    Args:
        documents: ``I_s image I_E T_s report``, each as ``Vocabulary.document`` builds it; each is a row of its own.
        vocabulary: the id table.
    """
    return shifted([[*document, vocabulary.begin_image] for document in documents], vocabulary)


def shifted(sequences: Sequence[Sequence[int]], vocabulary: Vocabulary) -> Documents:
    """Return documents that predict, at each position of a sequence but the last, the token after it."""
    lengths = tuple(len(sequence) - 1 for sequence in sequences)
    input_BT = torch.full((len(sequences), max(lengths)), vocabulary.pad)
    target_BT = torch.full_like(input_BT, IGNORED)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence)
        input_BT[row, : lengths[row]] = tokens[:-1]
        target_BT[row, : lengths[row]] = tokens[1:]
    is_image_BT = vocabulary.is_image(input_BT)
    # Image positions lie in one run: from the first on, as many as there are.
    first_B = is_image_BT.int().argmax(dim=1)
    span_B2 = torch.stack((first_B, first_B + is_image_BT.sum(dim=1)), dim=1)
    images = tuple((start, stop) for start, stop in span_B2.tolist())
    return Documents(input_BT, target_BT, lengths, images, (1,) * len(sequences))


def masked_next_token(
    documents: Documents,
    vocabulary: Vocabulary,
    *,
    image_ratio: tuple[float, ...],
    text_ratio: tuple[float, ...],
    loss: MaskedLoss,
    seed_B: Tensor,
) -> Documents:
    """Stage 2: replace input positions by the mask id and still predict the next original token.

    Each document draws one ratio for its image and one for its report, uniform between the bounds, and hides exactly
    the rounded share of each. ``I_s``, ``I_E``, ``T_s`` and padding are never hidden.

    Args:
        documents: as :func:`next_token` gives them.
        vocabulary: the id table.
        image_ratio, text_ratio: bounds.
        loss: which targets count. ``masked``: those that the input does not show; what follows the last token is one
            of them, or the model forgets to end a report. ``masked-image``: of the image those, of the report all:
            its positions are causal whatever the image's are, so that none sees its target. ``all``: every one.
        seed_B: of each document, int64, non-negative: what it hides depends on that and on no other document.
    """
    hiding = token_hiding(vocabulary, image_ratio, text_ratio, masked_targets_only=loss != "all")
    length_B = torch.tensor(documents.lengths, device=documents.input_BT.device)
    input_BT, target_BT = hide_tokens(documents.input_BT, documents.target_BT, length_B, seed_B, hiding)
    if loss == "masked-image":
        original_BT = documents.target_BT
        is_marker_BT = (original_BT == vocabulary.end_image) | (original_BT == vocabulary.begin_text)
        is_report_BT = ~(vocabulary.is_image(original_BT) | is_marker_BT)
        target_BT = torch.where(is_report_BT, original_BT, target_BT)
    return dataclasses.replace(documents, input_BT=input_BT, target_BT=target_BT)


def token_hiding(
    vocabulary: Vocabulary,
    image_ratio: tuple[float, ...],
    text_ratio: tuple[float, ...] = (0.0, 0.0),
    *,
    masked_targets_only: bool = False,
) -> Hiding:
    """Return what is hidden of sequences of a vocabulary: shares between these bounds, never a special."""
    return Hiding(
        vocabulary.image_start,
        vocabulary.image_stop,
        (vocabulary.begin_image, vocabulary.end_image, vocabulary.begin_text, vocabulary.pad),
        vocabulary.mask,
        (image_ratio[0], image_ratio[1]),
        (text_ratio[0], text_ratio[1]),
        masked_targets_only,
    )


def hiding_seeds(count: int, generator: Generator) -> Tensor:
    """Return a seed for what each of ``count`` documents or images hides, (count,) int64."""
    return torch.randint(1 << 62, (count,), generator=generator)


def token_losses(decoder: Decoder, documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropy (nats) of the targets that count, in raster order: summed, each, and the targets.

    Only the sum, a scalar, has a gradient; losses and targets are (M,), the losses on the decoder's device and the
    targets on the CPU. Neither padding nor a target that does not count costs anything in the decoder or in the head.
    """
    input_1T, target_1T = documents.flat()
    place_M = (target_1T[0] != IGNORED).nonzero()[:, 0]
    target_M = target_1T[0, place_M]
    device = decoder.embedding.weight.device
    packed = sent(torch.cat((input_1T[0], place_M, target_M)), device)
    input_T, there_M, goal_M = packed.split((input_1T.shape[1], len(place_M), len(target_M)))
    state_1TD = decoder(input_T[None], attend_BTS=AttentionPlan(documents.contexts(), device))
    head = decoder.head
    total, loss_M = linear_cross_entropy(state_1TD[0].index_select(0, there_M), head.weight, head.bias, goal_M)
    return total, loss_M, target_M


def documents_work(decoder: Decoder, documents: Documents) -> Work:
    """Return what learning documents asks of a decoder: see :func:`token_losses` for what is computed."""
    flop, tokens = decoder_flop(decoder), documents.num_tokens()
    total = flop.per_token * tokens + flop.per_pair * seen_pairs(documents.contexts())
    return Work(tokens, total + flop.per_target * documents.num_targets())


def sums_by_kind(loss_M: Tensor, target_M: Tensor, vocabulary: Vocabulary) -> dict[str, tuple[Tensor, int]]:
    """Return ``loss_image`` and ``loss_text``: the summed losses of each kind of target, and how many it has.

    Args:
        loss_M, target_M: as :func:`token_losses` gives them.
        vocabulary: the id table.
    """
    sums = {}
    is_image_M = vocabulary.is_image(target_M)
    for name, is_kind_M in (("loss_image", is_image_M), ("loss_text", ~is_image_M)):
        place_K = is_kind_M.nonzero()[:, 0]
        sums[name] = (loss_M.index_select(0, sent(place_K, loss_M.device)).sum(), len(place_K))
    return sums
