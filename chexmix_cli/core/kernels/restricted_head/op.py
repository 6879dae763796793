"""The restricted head as the rest of the program calls it: checks, choice of backend, ``torch.library`` registration.

M states, D hidden, R head rows, J blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks, current_device
from chexmix_cli.core.kernels.restricted_head import reference
from chexmix_cli.core.kernels.restricted_head.reference import Choice
from chexmix_cli.core.kernels.restricted_head.tuning import CONFIGS, FEW

#: Modes of the kernel, as in ``kernels.py``, which is not imported where there is no Triton.
_GREEDY, _GIVEN = 0, 1


@torch.no_grad()
def choose_row(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor) -> Choice:
    """Return the most probable head row of each state; as ``reference.choose_row``, which see.

    Numerics: on Triton products accumulate in float32 and stay there, where torch rounds them to the dtype of the
    inputs first; two rows whose logits differ by less than that may change places.
    """
    reference.check(state_MD, weight_RD, bias_R)
    if not uses_triton(state_MD.device):
        return reference.choose_row(state_MD, weight_RD, bias_R)
    _require_dtype(state_MD)
    with current_device(state_MD):
        return Choice(*torch.ops.chexmix.choose_row(state_MD, weight_RD, bias_R))


@torch.no_grad()
def row_logprob(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, row_M: Tensor) -> Tensor:
    """Return the log-probability of a given head row for each state; as ``reference.row_logprob``, which see."""
    reference.check_rows(state_MD, weight_RD, bias_R, row_M)
    if not uses_triton(state_MD.device):
        return reference.row_logprob(state_MD, weight_RD, bias_R, row_M)
    _require_dtype(state_MD)
    with current_device(state_MD):
        logprob_M: Tensor = torch.ops.chexmix.row_logprob(state_MD, weight_RD, bias_R, row_M)
    return logprob_M


@torch.library.custom_op("chexmix::choose_row", mutates_args=())
def _triton_choose_row(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = _launch(state_MD, weight_RD, bias_R, None)
    # argmax takes the first of equals, and the blocks are in order: the lowest row, as in the reference.
    block_1M = found.peak_JM.argmax(dim=0, keepdim=True)
    return found.row_JM.gather(0, block_1M)[0], found.peak_JM.gather(0, block_1M)[0], found.logsumexp()


@_triton_choose_row.register_fake
def _(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = state_MD.shape[0]
    floats = [state_MD.new_empty(count, dtype=torch.float32) for _ in range(2)]
    return state_MD.new_empty(count, dtype=torch.int64), floats[0], floats[1]


@torch.library.custom_op("chexmix::row_logprob", mutates_args=())
def _triton_row_logprob(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, row_M: Tensor) -> Tensor:
    found = _launch(state_MD, weight_RD, bias_R, row_M.contiguous())
    return found.logit_JM.sum(dim=0) - found.logsumexp()


@_triton_row_logprob.register_fake
def _(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, row_M: Tensor) -> Tensor:
    return state_MD.new_empty(state_MD.shape[0], dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What the kernel wrote of each block of rows."""

    row_JM: Tensor
    logit_JM: Tensor
    peak_JM: Tensor
    sum_JM: Tensor

    def logsumexp(self) -> Tensor:
        """Return the log of the sum of exp(logit) over all blocks, (M,)."""
        return torch.logsumexp(self.peak_JM + self.sum_JM.log(), dim=0)


def _launch(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, given_M: Tensor | None) -> _Blocks:
    """Run the kernel for the best row of each state, or for given rows."""
    from chexmix_cli.core.kernels.restricted_head.kernels import _restricted_head_fwd_kernel

    state_MD, weight_RD = (x if x.stride(1) == 1 else x.contiguous() for x in (state_MD, weight_RD))
    count, num_rows = len(state_MD), len(weight_RD)
    config = CONFIGS[state_MD.dtype, count > FEW]
    grid = (blocks(count, config.block_m), blocks(num_rows, config.block_r))
    row_JM = torch.empty(grid[1], count, dtype=torch.int64, device=state_MD.device)
    found = _Blocks(row_JM, *torch.empty(3, grid[1], count, device=state_MD.device).unbind())
    if count:
        _restricted_head_fwd_kernel[grid](
            state_MD,
            weight_RD,
            bias_R.contiguous(),
            found.row_JM if given_M is None else given_M,
            found.row_JM,
            found.logit_JM,
            found.peak_JM,
            found.sum_JM,
            count,
            num_rows,
            state_MD.shape[1],
            state_MD.stride(0),
            weight_RD.stride(0),
            MODE=_GREEDY if given_M is None else _GIVEN,
            BLOCK_M=config.block_m,
            BLOCK_R=config.block_r,
            BLOCK_D=config.block_d,
            UPCAST=is_interpreted(),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return found


def _require_dtype(state_MD: Tensor) -> None:
    if (state_MD.dtype, False) not in CONFIGS:
        raise ShapeError(
            f"states of {state_MD.dtype}", where="restricted head", expected="float32, bfloat16 or float16"
        )
