"""The restricted head as the rest of the program calls it: checks, choice of backend, ``torch.library`` registration.

M states, D hidden, R head rows, J blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.launch import blocks
from chexmix_cli.core.kernels.restricted_head import reference
from chexmix_cli.core.kernels.restricted_head.reference import Choice
from chexmix_cli.core.kernels.restricted_head.tuning import CONFIGS, FEW


@torch.no_grad()
def choose_row(
    state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, *, temperature: float = 0.0, seed_M: Tensor | None = None
) -> Choice:
    """Return the most probable head row of each state, or a sampled one; as ``reference.choose_row``, which see.

    Numerics: on Triton products accumulate in float32 and stay there, where torch rounds them to the dtype of the
    inputs first; two rows whose logits differ by less than that may change places. The random bits are the same.
    """
    reference.check(state_MD, weight_RD, bias_R, temperature, seed_M)
    if not uses_triton(state_MD.device):
        return reference.choose_row(state_MD, weight_RD, bias_R, temperature=temperature, seed_M=seed_M)
    if (state_MD.dtype, False) not in CONFIGS:
        raise ShapeError(
            f"states of {state_MD.dtype}", where="restricted head", expected="float32, bfloat16 or float16"
        )
    seeds_M = torch.empty(0, dtype=torch.int64, device=state_MD.device) if seed_M is None else seed_M
    return Choice(*torch.ops.chexmix.choose_row(state_MD, weight_RD, bias_R, temperature, seeds_M))


@torch.library.custom_op("chexmix::choose_row", mutates_args=())
def _triton_choose_row(
    state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, temperature: float, seed_M: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from chexmix_cli.core.kernels.restricted_head.kernels import _restricted_head_fwd_kernel

    state_MD, weight_RD = (x if x.stride(1) == 1 else x.contiguous() for x in (state_MD, weight_RD))
    count, num_rows = len(state_MD), len(weight_RD)
    config = CONFIGS[state_MD.dtype, count > FEW]
    grid = (blocks(count, config.block_m), blocks(num_rows, config.block_r))
    row_JM = torch.empty(grid[1], count, dtype=torch.int64, device=state_MD.device)
    score_JM, logit_JM, peak_JM, sum_JM = torch.empty(4, grid[1], count, device=state_MD.device).unbind()
    if count:
        _restricted_head_fwd_kernel[grid](
            state_MD,
            weight_RD,
            bias_R.contiguous(),
            seed_M,
            row_JM,
            score_JM,
            logit_JM,
            peak_JM,
            sum_JM,
            count,
            num_rows,
            state_MD.shape[1],
            state_MD.stride(0),
            weight_RD.stride(0),
            1 / temperature if temperature > 0 else 1.0,
            IS_SAMPLED=temperature > 0,
            BLOCK_M=config.block_m,
            BLOCK_R=config.block_r,
            BLOCK_D=config.block_d,
            UPCAST=is_interpreted(),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    # argmax takes the first of equals, and the blocks are in order: the lowest row, as in the reference.
    block_1M = score_JM.argmax(dim=0, keepdim=True)
    logsumexp_M = torch.logsumexp(peak_JM + sum_JM.log(), dim=0)
    return row_JM.gather(0, block_1M)[0], logit_JM.gather(0, block_1M)[0], logsumexp_M


@_triton_choose_row.register_fake
def _(
    state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, temperature: float, seed_M: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    count = state_MD.shape[0]
    floats = [state_MD.new_empty(count, dtype=torch.float32) for _ in range(2)]
    return state_MD.new_empty(count, dtype=torch.int64), floats[0], floats[1]
