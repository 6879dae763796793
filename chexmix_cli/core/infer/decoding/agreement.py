"""Whether two ways of decoding agree, but for ties: where ids part, how near the two logits were.

Greedy decoding with drafts, in another batch or by other matrix products is the same up to the order of sums. In
float32 ids are equal; in bfloat16 two ids whose logits differ by less than rounding may swap ranks, and what follows
is another text. Such a difference is a tie; any other is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from chexmix_cli.core.models.decoder import Decoder

#: Steps of the dtype, at the size of the logits, that rounding on the way to them may add up to.
_TIE_STEPS = 4.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two continuations of one prompt part.

    Attributes:
        place: index of the first ids that differ.
        gap: between their two logits, in one plain pass.
        steps: the same in steps of the decoder's dtype at the larger of the two.
    """

    place: int
    gap: float
    steps: float

    @property
    def is_tie(self) -> bool:
        """Return whether rounding can have decided."""
        return self.steps <= _TIE_STEPS


@torch.inference_mode()
def difference(decoder: Decoder, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]) -> Difference | None:
    """Return where two greedy continuations of a prompt part, or None if they are equal.

    Args:
        decoder: in eval mode, in the dtype that chose them.
        prompt: token ids.
        one, other: what followed. Where one is the beginning of the other, they do not part, and the gap is infinite:
            no rounding ends a report.
    """
    if list(one) == list(other):
        return None
    pairs = zip(one, other, strict=False)
    place = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if place == min(len(one), len(other)):
        return Difference(place, math.inf, math.inf)
    ids_1T = torch.tensor([[*prompt, *one[:place]]], device=decoder.embedding.weight.device)
    logit_V = decoder.logits(decoder(ids_1T)[0, -1])
    pair = logit_V[[one[place], other[place]]].float()
    gap, size = float((pair[0] - pair[1]).abs()), float(pair.abs().max())
    step = torch.finfo(logit_V.dtype).eps * 2.0 ** math.floor(math.log2(size)) if size else 0.0
    return Difference(place, gap, gap / step if step else math.inf)
