"""Attention over sequences concatenated in one row, each attending to itself only.

Training concatenates all documents of a micro-batch and pads nothing. Everything but attention works token by
token; attention runs over one context after the other, and inside one over its parts: causal ones, and image spans that
see all of themselves. Each part is a plain call of ``scaled_dot_product_attention``, so no mask of all against all
exists, on a CPU and on a GPU alike; contexts here are at least an image long, long enough to fill either.

Shape letters: B batch (1 here), T tokens, S tokens attended to, N heads, H head size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class ContextPart:
    """Some positions of a context, in order.

    Attributes:
        length: number of positions.
        sees_itself: every position sees the whole part (an image span); else a position sees up to itself.
    """

    length: int
    sees_itself: bool = False


#: What attends to itself only: every position sees all parts before its own, and of its own what ``ContextPart`` says.
Context = tuple[ContextPart, ...]


class AttentionPlan:
    """Contexts concatenated in a row.

    Args:
        contexts: in order; together as long as the row.
        device: of the row.

    Attributes:
        lengths: of the contexts.
        position_1T: of each token in its context, counted from 0: its rotary position.
    """

    def __init__(self, contexts: Iterable[Context], device: torch.device | str = "cpu") -> None:
        self.contexts = tuple(contexts)
        self.lengths = [sum(part.length for part in context) for context in self.contexts]
        positions = [torch.arange(length) for length in self.lengths]
        self.position_1T = torch.cat(positions)[None].to(device)
        self._device = device
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, q_BNTH: Tensor, k_BNTH: Tensor, v_BNTH: Tensor) -> Tensor:
        """Return the mixed values (1, T, N, H) of queries, keys and values (1, N, T, H)."""
        parts = (values_BNTH.split(self.lengths, dim=2) for values_BNTH in (q_BNTH, k_BNTH, v_BNTH))
        mixed: list[Tensor] = []
        for context, q, k, v in zip(self.contexts, *parts, strict=True):
            stop = 0
            for part, q_part in zip(context, q.split([part.length for part in context], dim=2), strict=True):
                start, stop = stop, stop + part.length
                mixed.append(self._attend_part(part, q_part, k[:, :, :stop], v[:, :, :stop], start).transpose(1, 2))
        return torch.cat(mixed, dim=1)

    def dense_mask(self) -> Tensor:
        """Return the whole mask (1, T, T), True where a position may attend: the definition, for tests.

        With a context of ``I_s``, an image span of two and ``I_E``, and a causal one of two after it::

            1 0 0 0 0 0
            1 1 1 0 0 0
            1 1 1 0 0 0
            1 1 1 1 0 0
            0 0 0 0 1 0
            0 0 0 0 1 1
        """
        total = sum(self.lengths)
        attend_TT = torch.zeros(total, total, dtype=torch.bool, device=self._device)
        first = 0
        for context in self.contexts:
            start = first
            for part in context:
                stop = start + part.length
                for position in range(start, stop):
                    attend_TT[position, first : stop if part.sees_itself else position + 1] = True
                start = stop
            first = start
        return attend_TT[None]

    def _attend_part(self, part: ContextPart, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        is_causal = start == 0 and not part.sees_itself
        mask = None if part.sees_itself or is_causal else self._causal_mask(part.length, start + part.length)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)

    def _causal_mask(self, num_new: int, num_all: int) -> Tensor:
        # Kept: every layer asks for the same ones.
        key = (num_new, num_all)
        if key not in self._masks:
            self._masks[key] = causal_mask(num_new, num_all, torch.device(self._device))
        return self._masks[key]


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where the image stands in a sequence, for decoders that see it whole: after an opening token at position 0.

    Attributes:
        begin_image: the opening token; a sequence that begins with another one has no image.
        num_tokens: positions of the image, 1 to this.
    """

    begin_image: int
    num_tokens: int

    def attend(self, token_ids_BT: Tensor, positions_BT: Tensor, attend_BTT: Tensor | None) -> Tensor:
        """Return a mask (B, T, T) in which every image position also sees all others of its image.

        Args:
            token_ids_BT: whole images: a pass may hold all of one's positions or none.
            positions_BT: of the tokens, or (1, T) for all rows; padding stands at position 0.
            attend_BTT: what is seen otherwise; default: each position sees up to itself.
        """
        has_image_B = ((token_ids_BT == self.begin_image) & (positions_BT == 0)).any(dim=1)
        is_image_BT = (positions_BT > 0) & (positions_BT <= self.num_tokens) & has_image_B[:, None]
        whole_BTT = is_image_BT[:, :, None] & is_image_BT[:, None]
        if attend_BTT is None:
            num_tokens = token_ids_BT.shape[1]
            attend_BTT = causal_mask(num_tokens, num_tokens, token_ids_BT.device)
        return whole_BTT | attend_BTT


def causal_mask(num_new: int, num_all: int, device: torch.device) -> Tensor:
    """Return the (T, S) mask, True where the last ``num_new`` of ``num_all`` positions may attend.

    With two new positions after two cached ones::

        1 1 1 0
        1 1 1 1
    """
    past = num_all - num_new
    return torch.ones(num_new, num_all, dtype=torch.bool, device=device).tril(past)
