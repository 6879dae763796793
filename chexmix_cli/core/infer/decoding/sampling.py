"""Choosing ids from logits: greedy, or sampled with temperature and top-p. R ids to choose from, M choices."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chexmix_cli.core.infer.decoding.constraints import Constraint
from chexmix_cli.core.runtime import seeded_generator
from chexmix_cli.core.settings.inference import DecodeSettings


class Chooser:
    """Chooses among the ids a constraint leaves, as the settings say.

    Args:
        constraint: what may be chosen.
        settings: minimum length, temperature, top-p.
        device: of the logits.
    """

    def __init__(self, constraint: Constraint, settings: DecodeSettings, device: torch.device) -> None:
        self.rows = constraint.rows
        self._settings = settings
        self._mask = constraint.on(device)
        self._device = device

    def choose(
        self,
        logits_MR: Tensor,
        num_before: Sequence[int],
        draws: Sequence[float],
        *,
        denied: Sequence[Sequence[int]] | None = None,
    ) -> list[tuple[int, float]]:
        """Return the chosen token ids and their log-probabilities; on a GPU this is the one wait for it.

        Args:
            logits_MR: logits of the constraint's rows, any dtype; not kept.
            num_before: new tokens in front of each choice, for the minimum length.
            draws: uniform numbers in [0, 1), one a choice; not used when greedy.
            denied: for each choice, further token ids that cannot be chosen.

        Numerics: log-probabilities are of the ids that could be chosen, at temperature 1, in float32.
        """
        logits_MR = logits_MR.float()
        is_early = [count < self._settings.min_new_tokens for count in num_before]
        self._mask.apply(logits_MR, is_early)
        for row_R, ids in zip(logits_MR, denied or (), strict=False):
            columns = [token_id - self.rows.start for token_id in ids if self.rows.start <= token_id < self.rows.stop]
            row_R[torch.tensor(columns, dtype=torch.int64, device=self._device)] = -torch.inf
        if self._settings.temperature == 0:
            column_M = logits_MR.argmax(dim=-1)
        else:
            draws_M = draws_on(self._device, draws)
            column_M = sample(logits_MR, draws_M, temperature=self._settings.temperature, top_p=self._settings.top_p)
        logprob_M = logits_MR.gather(1, column_M[:, None])[:, 0] - logits_MR.logsumexp(dim=-1)
        # One copy to the host for both, so one wait: the bits of the float32 numbers travel as whole ones.
        both_2M = torch.stack((column_M + self.rows.start, logprob_M.view(torch.int32).long())).cpu().numpy()
        return list(zip(both_2M[0].tolist(), both_2M[1].astype(np.int32).view(np.float32).tolist(), strict=True))


def draws_on(device: torch.device, draws: Sequence[Any]) -> Tensor:
    """Return uniform draws in float64: on a device, or on the CPU for one without such numbers (Apple's GPU)."""
    return torch.tensor(draws, dtype=torch.float64, device="cpu" if device.type == "mps" else device)


def sample(logits_MR: Tensor, draws_M: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Return sampled columns, (M,) int64 where the logits are, by inverting the cumulative distribution at ``draws_M``.

    Args:
        logits_MR: logits; -inf is never chosen.
        draws_M: uniform numbers in [0, 1), float64: the same draw and logits give the same choice on any device. They
            are where it is computed.
        temperature: above 0; divides the logits.
        top_p: only the most probable ids whose probabilities together first reach this are sampled from.

    Numerics: in float64, shifted by the maximum, so that no temperature overflows.
    """
    device = logits_MR.device
    logits_MR = logits_MR.to(draws_M.device).double()
    prob_MR = ((logits_MR - logits_MR.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    order_MR = None
    if top_p < 1:
        prob_MR, order_MR = prob_MR.sort(dim=-1, descending=True, stable=True)
        mass_before_MR = prob_MR.cumsum(dim=-1) - prob_MR
        prob_MR = prob_MR.masked_fill(mass_before_MR >= top_p, 0.0)
    cumulative_MR = prob_MR.cumsum(dim=-1)
    # A draw below 1 times the total is below the total, in floats too: the id found is a possible one.
    target_M = draws_M * cumulative_MR[:, -1]
    column_M1 = torch.searchsorted(cumulative_MR, target_M[:, None], right=True)
    return (column_M1 if order_MR is None else order_MR.gather(1, column_M1))[:, 0].to(device)


def row_draws(seed: int, prompt: Sequence[int], count: int) -> list[float]:
    """Return the uniform draws of one row, ``count`` numbers in [0, 1), from nothing but the seed and its prompt.

    So a row's sample depends neither on the batch it is in nor on its index there; two rows with the same prompt get
    the same sample, and another sample of one prompt takes another seed.
    """
    digest = hashlib.blake2b(np.asarray(prompt, np.int64).tobytes(), digest_size=8, key=str(seed).encode()).digest()
    generator = seeded_generator(int.from_bytes(digest) >> 1)
    draws: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return draws
