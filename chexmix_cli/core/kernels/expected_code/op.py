"""The expected code vector as the rest of the program calls it: checks, choice of backend, registration.

M states, D hidden, K codes, E code size, S shares of the codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.expected_code import reference
from chexmix_cli.core.kernels.expected_code.reference import Expected
from chexmix_cli.core.kernels.expected_code.tuning import CONFIGS, WIDEST
from chexmix_cli.core.kernels.launch import blocks, current_device, power_of_two


@torch.no_grad()
def expected_code(
    state_MD: Tensor, weight_KD: Tensor, bias_K: Tensor, codebook_KE: Tensor, *, temperature: float = 1.0
) -> Expected:
    """Return what a model expects at each state; as ``reference.expected_code``, which see.

    Numerics: on Triton logits stay in float32, where torch rounds them to the dtype of the inputs first.
    """
    reference.check(state_MD, weight_KD, bias_K, codebook_KE, temperature)
    if not uses_triton(state_MD.device):
        return reference.expected_code(state_MD, weight_KD, bias_K, codebook_KE, temperature=temperature)
    if state_MD.dtype not in CONFIGS or codebook_KE.shape[1] > WIDEST:
        raise ShapeError(
            f"states of {state_MD.dtype}, code vectors of {codebook_KE.shape[1]}",
            where="expected code",
            expected=f"float32, bfloat16 or float16, and at most {WIDEST}",
        )
    with current_device(state_MD):
        return Expected(*torch.ops.chexmix.expected_code(state_MD, weight_KD, bias_K, codebook_KE, temperature))


@torch.library.custom_op("chexmix::expected_code", mutates_args=())
def _triton_expected_code(
    state_MD: Tensor, weight_KD: Tensor, bias_K: Tensor, codebook_KE: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    from chexmix_cli.core.kernels.expected_code.kernels import _expected_code_fwd_kernel

    state_MD, weight_KD, codebook_KE = (
        x if x.stride(1) == 1 else x.contiguous() for x in (state_MD, weight_KD, codebook_KE)
    )
    (count, hidden_size), (num_codes, code_size) = state_MD.shape, codebook_KE.shape
    config = CONFIGS[state_MD.dtype]
    per_share = blocks(num_codes, config.num_shares * config.block_k) * config.block_k
    grid = (blocks(count, config.block_m), blocks(num_codes, per_share))
    device = state_MD.device
    code_SM = torch.empty(grid[1], count, dtype=torch.int64, device=device)
    peak_SM, sum_SM, weight_sum_SM = torch.empty(3, grid[1], count, device=device).unbind()
    vector_SME = torch.empty(grid[1], count, code_size, device=device)
    if count:
        _expected_code_fwd_kernel[grid](
            state_MD,
            weight_KD,
            bias_K.contiguous(),
            codebook_KE,
            code_SM,
            peak_SM,
            sum_SM,
            weight_sum_SM,
            vector_SME,
            count,
            num_codes,
            per_share,
            hidden_size,
            code_size,
            state_MD.stride(0),
            weight_KD.stride(0),
            codebook_KE.stride(0),
            1 / temperature,
            BLOCK_M=config.block_m,
            BLOCK_K=config.block_k,
            BLOCK_D=config.block_d,
            BLOCK_E=power_of_two(code_size, least=16, most=WIDEST),
            UPCAST=is_interpreted(),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    # max takes the first of equals, and the shares are in order: the lowest code.
    peak_1M, share_1M = peak_SM.max(dim=0, keepdim=True)
    below_SM = peak_SM - peak_1M
    prob_M = (sum_SM * below_SM.exp()).sum(dim=0).reciprocal()
    factor_SM = (below_SM / temperature).exp()
    vector_ME = (vector_SME * factor_SM[:, :, None]).sum(dim=0) / (weight_sum_SM * factor_SM).sum(dim=0)[:, None]
    return code_SM.gather(0, share_1M)[0], prob_M, vector_ME


@_triton_expected_code.register_fake
def _(
    state_MD: Tensor, weight_KD: Tensor, bias_K: Tensor, codebook_KE: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    count = state_MD.shape[0]
    return (
        state_MD.new_empty(count, dtype=torch.int64),
        state_MD.new_empty(count, dtype=torch.float32),
        state_MD.new_empty((count, codebook_KE.shape[1]), dtype=torch.float32),
    )
