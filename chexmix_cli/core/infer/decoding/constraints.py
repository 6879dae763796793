"""Which ids may be chosen next, and which of them end a report. R head rows that are computed, M choices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.vocab import Vocabulary


@dataclass(frozen=True, slots=True)
class Constraint:
    """A contiguous part of the head and the rows in it that can never be chosen.

    Attributes:
        rows: head rows whose logits are computed; ids outside cannot be chosen.
        denied: ids inside ``rows`` that cannot be chosen either.
        ends: ids that end a report and are held back while it is shorter than the minimum.
    """

    rows: slice
    denied: tuple[int, ...]
    ends: tuple[int, ...]

    def on(self, device: torch.device) -> Mask:
        """Return the constraint as index tensors on the device of the logits."""
        return Mask(
            torch.tensor([token_id - self.rows.start for token_id in self.denied], dtype=torch.int64, device=device),
            torch.tensor([token_id - self.rows.start for token_id in self.ends], dtype=torch.int64, device=device),
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """The columns of restricted logits that a constraint switches off."""

    denied: Tensor
    ends: Tensor

    def apply(self, logits_MR: Tensor, is_early_M: Tensor | None) -> Tensor:
        """Switch off, in place, what cannot be chosen.

        Args:
            logits_MR: logits of the constraint's rows.
            is_early_M: True where the report is still shorter than its minimum; None where none is.
        """
        if len(self.denied):
            logits_MR.index_fill_(1, self.denied, -torch.inf)
        if is_early_M is not None:
            end_ME = logits_MR.index_select(1, self.ends)
            logits_MR.index_copy_(1, self.ends, end_ME.masked_fill(is_early_M[:, None], -torch.inf))
        return logits_MR


def constrain(
    vocabulary: Vocabulary, mode: Literal["text", "all"], ordinary_ids: Iterable[int] | None = None
) -> Constraint:
    """Return the constraint of a decoding mode.

    Args:
        vocabulary: the id table.
        mode: ``all`` leaves every row, and only ``T_s`` ends, as in the released pipeline; ``text`` leaves ordinary
            text ids and the two ends, ``T_s`` and the next document's ``I_s``.
        ordinary_ids: ids that stand for text, from the text tokenizer. Without one they are the ids in front of the
            image markers: both layouts we know (the released one and ``vocab.compact``) have the specials last.

    Raises:
        VocabularyError: if an ordinary id is no text id.
    """
    if mode == "all":
        return Constraint(slice(0, vocabulary.num_rows), (), (vocabulary.begin_text,))
    if ordinary_ids is None:
        ordinary_ids = range(min(vocabulary.begin_image, vocabulary.end_image))
    ends = (vocabulary.begin_text, vocabulary.begin_image)
    allowed = {*ordinary_ids, *ends} - {vocabulary.end_image, vocabulary.mask, vocabulary.pad}
    first, last = min(allowed), max(allowed)
    if first < 0 or last >= vocabulary.num_text:
        raise VocabularyError(
            f"ordinary id {first if first < 0 else last}", expected=f"text ids below {vocabulary.num_text}"
        )
    denied = tuple(token_id for token_id in range(first, last + 1) if token_id not in allowed)
    return Constraint(slice(first, last + 1), denied, ends)
