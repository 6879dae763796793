"""Cross-entropy of a linear head, written out: the definition, and what the tests hold the chunked form against."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def linear_cross_entropy(state_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_M: Tensor) -> Tensor:
    """Return the cross-entropy (nats, float32 or wider) of each target, (M,); makes all (M, V) logits at once.

    Args:
        state_MD: inputs of the head.
        weight_VD, bias_V: the head.
        target_M: row of the head each state must predict, int64 in [0, V).
    """
    logits_MV = F.linear(state_MD, weight_VD, bias_V)
    if logits_MV.element_size() < 4:
        logits_MV = logits_MV.float()
    return F.cross_entropy(logits_MV, target_M, reduction="none")
