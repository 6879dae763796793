"""Masked-token corruption as the rest of the program calls it: checks, choice of backend, registration.

B documents, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.backend import uses_triton
from chexmix_cli.core.kernels.launch import current_device
from chexmix_cli.core.kernels.masked_tokens import reference
from chexmix_cli.core.kernels.masked_tokens.reference import IGNORED, Hiding
from chexmix_cli.core.kernels.masked_tokens.tuning import CONFIGS


def hide_tokens(
    input_BT: Tensor, target_BT: Tensor, length_B: Tensor, seed_B: Tensor, hiding: Hiding
) -> tuple[Tensor, Tensor]:
    """Return inputs with hidden tokens and the targets that count; as ``reference.hide_tokens``, bit for bit."""
    reference.check(input_BT, target_BT, length_B, seed_B)
    if not uses_triton(input_BT.device):
        return reference.hide_tokens(input_BT, target_BT, length_B, seed_B, hiding)
    if input_BT.shape[1] > CONFIGS[-1].block_t:
        raise ShapeError(
            f"{input_BT.shape[1]} positions", where="masked tokens", expected=f"at most {CONFIGS[-1].block_t}"
        )
    numbers, only = hiding.numbers(), hiding.masked_targets_only
    found: tuple[Tensor, Tensor]
    with current_device(input_BT):
        found = torch.ops.chexmix.hide_tokens(input_BT, target_BT, length_B, seed_B, numbers, only)
    return found


@torch.library.custom_op("chexmix::hide_tokens", mutates_args=())
def _triton_hide_tokens(
    input_BT: Tensor, target_BT: Tensor, length_B: Tensor, seed_B: Tensor, numbers: list[int], masked_targets_only: bool
) -> tuple[Tensor, Tensor]:
    from chexmix_cli.core.kernels.masked_tokens.kernels import _masked_tokens_fwd_kernel

    num_rows, num_positions = input_BT.shape
    hidden_BT, counted_BT = (
        torch.empty(num_rows, num_positions, dtype=torch.int64, device=input_BT.device) for _ in range(2)
    )
    if input_BT.numel():
        config = next(config for config in CONFIGS if num_positions <= config.block_t)
        _masked_tokens_fwd_kernel[(num_rows,)](
            input_BT.contiguous(),
            target_BT.contiguous(),
            length_B.contiguous(),
            seed_B.contiguous(),
            hidden_BT,
            counted_BT,
            num_positions,
            *numbers,
            IGNORED,
            MASKED_TARGETS_ONLY=masked_targets_only,
            BLOCK_T=config.block_t,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return hidden_BT, counted_BT


@_triton_hide_tokens.register_fake
def _(
    input_BT: Tensor, target_BT: Tensor, length_B: Tensor, seed_B: Tensor, numbers: list[int], masked_targets_only: bool
) -> tuple[Tensor, Tensor]:
    return input_BT.new_empty(input_BT.shape), input_BT.new_empty(input_BT.shape)
