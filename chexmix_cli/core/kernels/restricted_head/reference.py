"""The restricted head in plain torch: the definition and the CPU path.

M states, C of them in one chunk, D hidden, R head rows of an allowed range. ``weight_RD`` and ``bias_R`` are that range
of the head; a row that cannot be chosen has a bias of minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError

#: States whose logits exist together: (chunk x 8192) float32 is 16 MiB for the released codebook.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each state.

    Attributes:
        row_M: chosen head row within the range, int64; of equals the lowest.
        logit_M: its logit, float32.
        logsumexp_M: log of the sum of exp(logit) over the range, float32: ``logit - logsumexp`` is its log-probability
            at temperature 1.
    """

    row_M: Tensor
    logit_M: Tensor
    logsumexp_M: Tensor

    @property
    def logprob_M(self) -> Tensor:  # noqa: N802 (a tensor, with its shape)
        """Return the chosen rows' log-probabilities at temperature 1, (M,) float32."""
        return self.logit_M - self.logsumexp_M


@torch.no_grad()
def choose_row(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor) -> Choice:
    """Return the most probable head row of each state. A choice has no gradient.

    Args:
        state_MD: final hidden states, (M, D), float32, bfloat16 or float16.
        weight_RD: head rows, (R, D), same dtype and device.
        bias_R: their biases, (R,), same dtype; minus infinity bars a row.

    Raises:
        ShapeError: if shapes do not fit, or R is 0.

    Numerics: logits are those of ``F.linear`` in the dtype of the inputs, and float32 from there on.
    """
    check(state_MD, weight_RD, bias_R)
    count = len(state_MD)
    row_M = torch.empty(count, dtype=torch.int64, device=state_MD.device)
    logit_M, logsumexp_M = torch.empty(2, count, device=state_MD.device).unbind()
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        logit_CR = F.linear(state_MD[chunk], weight_RD, bias_R).float()
        row_M[chunk] = logit_CR.argmax(dim=1)
        logit_M[chunk] = logit_CR.gather(1, row_M[chunk, None])[:, 0]
        logsumexp_M[chunk] = logit_CR.logsumexp(dim=1)
    return Choice(row_M, logit_M, logsumexp_M)


@torch.no_grad()
def row_logprob(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, row_M: Tensor) -> Tensor:
    """Return the log-probability of a given head row for each state, (M,) float32. It has no gradient.

    Args:
        state_MD, weight_RD, bias_R: as for :func:`choose_row`.
        row_M: int64, each in [0, R); not checked: on a GPU that would wait for it.

    Raises:
        ShapeError: if shapes do not fit, or R is 0.
    """
    check_rows(state_MD, weight_RD, bias_R, row_M)
    logprob_M = torch.empty(len(state_MD), device=state_MD.device)
    for start in range(0, len(state_MD), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        logit_CR = F.linear(state_MD[chunk], weight_RD, bias_R).float()
        logprob_M[chunk] = logit_CR.gather(1, row_M[chunk, None])[:, 0] - logit_CR.logsumexp(dim=1)
    return logprob_M


def check(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor) -> None:
    """Raise ShapeError unless these fit each other."""
    fits = state_MD.ndim == 2 and weight_RD.ndim == 2 and state_MD.shape[1] == weight_RD.shape[1]
    is_one_dtype = state_MD.dtype == weight_RD.dtype == bias_R.dtype
    if not fits or bias_R.shape != weight_RD.shape[:1] or len(weight_RD) == 0 or not is_one_dtype:
        raise ShapeError(
            f"states {tuple(state_MD.shape)} {state_MD.dtype}, rows {tuple(weight_RD.shape)} {weight_RD.dtype}, "
            f"biases {tuple(bias_R.shape)} {bias_R.dtype}",
            where="restricted head",
            expected="(M, D), (R, D) and (R,) of one dtype, with R > 0",
        )


def check_rows(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, row_M: Tensor) -> None:
    """Raise ShapeError unless these fit each other."""
    check(state_MD, weight_RD, bias_R)
    if row_M.shape != state_MD.shape[:1] or row_M.dtype != torch.int64:
        raise ShapeError(
            f"rows {tuple(row_M.shape)} {row_M.dtype} for {len(state_MD)} states",
            where="restricted head",
            expected="(M,) int64",
        )
