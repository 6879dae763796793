"""Which ids may be chosen next, and which of them end a row. R head rows that are computed, M choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Constraint:
    """A contiguous part of the head and the rows in it that can never be chosen.

    Attributes:
        rows: head rows whose logits are computed; ids outside cannot be chosen.
        denied: ids inside ``rows`` that cannot be chosen either.
        ends: ids that end a row and are held back while it is shorter than the minimum.
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

    def apply(self, logits_MR: Tensor, is_early: Sequence[bool]) -> Tensor:
        """Switch off, in place, what cannot be chosen.

        Args:
            logits_MR: logits of the constraint's rows.
            is_early: for each of them, whether the row is still shorter than its minimum.
        """
        if len(self.denied):
            logits_MR.index_fill_(1, self.denied, -torch.inf)
        if all(is_early):
            logits_MR.index_fill_(1, self.ends, -torch.inf)
        elif any(is_early):
            is_early_M = torch.tensor(is_early, device=logits_MR.device)
            end_ME = logits_MR.index_select(1, self.ends)
            logits_MR.index_copy_(1, self.ends, end_ME.masked_fill(is_early_M[:, None], -torch.inf))
        return logits_MR
