"""The arithmetic of contrastive pairs. Shape letters: B pairs, N examples, U different reports, E projected."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LIMITS = (1, 5, 10)


def contrastive_losses(image_BE: Tensor, text_BE: Tensor, temperature: Tensor, report_B: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss of each pair, (B,) float32, in nats.

    The mean of two cross-entropies over cosine / temperature: the pair's report among the reports, its image among
    the images. Another pair with the same report is neither right nor wrong: it is left out of both sums.

    Args:
        image_BE, text_BE: both sides, of length 1.
        temperature: a scalar.
        report_B: number of each pair's report; equal reports have equal numbers.

    Numerics: cosines in float32 under autocast too: divided by a low temperature, what eight bits lose is a nat.

    Source: Radford et al. 2021 (CLIP), figure 3; leaving equal reports out is ours.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        logit_BB = image_BE.float() @ text_BE.float().T / temperature.float()
    is_twin_BB = (report_B[:, None] == report_B).fill_diagonal_(False)
    logit_BB = logit_BB.masked_fill(is_twin_BB, -math.inf)
    own_B = torch.arange(len(logit_BB), device=logit_BB.device)
    to_text_B = F.cross_entropy(logit_BB, own_B, reduction="none")
    to_image_B = F.cross_entropy(logit_BB.T, own_B, reduction="none")
    return (to_text_B + to_image_B) / 2


def recall_figures(image_NE: Tensor, text_NE: Tensor, report_N: Tensor) -> dict[str, float]:
    """Return recall at 1, 5 and 10 and mean rank of both directions, and ``val_recall``, the mean of the six recalls.

    Equal reports are one candidate. An image's rank is its report's among all different reports; a report's rank is
    that of the first of its images. A tie with a wrong candidate counts half a rank.
    """
    number_U, place_N = report_N.unique(return_inverse=True)
    first_U = torch.stack([(report_N == number).nonzero()[0, 0] for number in number_U])
    similarity_NU = image_NE @ text_NE[first_U].T
    is_own_NU = place_N[:, None] == torch.arange(len(first_U))
    figures: dict[str, float] = {}
    recalls: list[float] = []
    for name, similarity, is_own in (
        ("image_to_text", similarity_NU, is_own_NU),
        ("text_to_image", similarity_NU.T, is_own_NU.T),
    ):
        best = similarity.masked_fill(~is_own, -math.inf).max(dim=1, keepdim=True).values
        others = similarity.masked_fill(is_own, -math.inf)
        rank = 1 + (others > best).sum(dim=1) + 0.5 * (others == best).sum(dim=1)
        for limit in _LIMITS:
            recalls.append(float((rank <= limit).float().mean()))
            figures[f"val_{name}_r{limit}"] = recalls[-1]
        figures[f"val_{name}_mean_rank"] = float(rank.mean())
    return {"val_recall": sum(recalls) / len(recalls), **figures}
