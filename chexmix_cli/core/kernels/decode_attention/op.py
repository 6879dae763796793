"""Attention of new positions to a cache as the decoder calls it: checks, choice of backend, registration."""

from __future__ import annotations

import torch
from torch import Tensor

from chexmix_cli.core.kernels.backend import is_interpreted, uses_triton
from chexmix_cli.core.kernels.decode_attention import native, reference
from chexmix_cli.core.kernels.decode_attention.tuning import JOIN_CONFIGS, config_for
from chexmix_cli.core.kernels.launch import blocks, current_device


@torch.no_grad()
def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> Tensor:
    """Return the mixed values (B, T, N, H); as ``reference.attend``, which see. For inference.

    Numerics: where it is compiled for this CPU, as ``native.attend`` says. On Triton scores and sums are float32, and
    exponentials are rounded to the dtype of the values before they are multiplied with them. A row's bits do not depend
    on the rows beside it in either.
    """
    reference.check(q_BNTH, k_BNSH, v_BNSH, attend_BTS)
    fits = config_for(q_BNTH.dtype, q_BNTH.shape[2], q_BNTH.shape[3]) is not None
    if not (fits and uses_triton(q_BNTH.device)):
        attend_here = native.attend if native.takes(q_BNTH) else reference.attend
        return attend_here(q_BNTH, k_BNSH, v_BNSH, attend_BTS)
    with current_device(q_BNTH):
        mixed_BTNH: Tensor = torch.ops.chexmix.decode_attention(q_BNTH, k_BNSH, v_BNSH, attend_BTS)
    return mixed_BTNH


@torch.library.custom_op("chexmix::decode_attention", mutates_args=())
def _triton_attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> Tensor:
    from chexmix_cli.core.kernels.decode_attention.kernels import _decode_attention_fwd_kernel

    num_rows, num_heads, num_new, head_size = q_BNTH.shape
    num_places = k_BNSH.shape[2]
    out_BTNH = torch.empty(num_rows, num_new, num_heads, head_size, dtype=q_BNTH.dtype, device=q_BNTH.device)
    if not out_BTNH.numel():
        return out_BTNH
    q_BNTH = q_BNTH if q_BNTH.stride(3) == 1 else q_BNTH.contiguous()
    if not (k_BNSH.stride(3) == 1 and k_BNSH.stride() == v_BNSH.stride()):
        k_BNSH, v_BNSH = k_BNSH.contiguous(), v_BNSH.contiguous()
    if attend_BTS is not None and attend_BTS.stride(2) != 1:
        attend_BTS = attend_BTS.contiguous()
    config = config_for(q_BNTH.dtype, num_new, head_size)
    assert config is not None, f"{num_new} positions of heads of {head_size}, {q_BNTH.dtype}"
    num_blocks = blocks(num_places, config.block_s)
    shape = (num_rows * num_heads, num_blocks, num_new)
    mixed = torch.empty(*shape, head_size, device=q_BNTH.device)
    peak, total = (torch.empty(shape, device=q_BNTH.device) for _ in range(2))
    _decode_attention_fwd_kernel[(num_rows * num_heads, num_blocks)](
        q_BNTH,
        k_BNSH,
        v_BNSH,
        q_BNTH if attend_BTS is None else attend_BTS.view(torch.uint8),
        mixed,
        peak,
        total,
        num_heads,
        num_new,
        num_places,
        num_blocks,
        head_size,
        *q_BNTH.stride()[:3],
        *k_BNSH.stride()[:3],
        0 if attend_BTS is None or len(attend_BTS) == 1 else attend_BTS.stride(0),
        0 if attend_BTS is None else attend_BTS.stride(1),
        head_size**-0.5,
        HAS_MASK=attend_BTS is not None,
        BLOCK_T=config.block_t,
        BLOCK_S=config.block_s,
        BLOCK_H=config.block_h,
        INTERPRETED=is_interpreted(),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    _join(mixed, peak, total, out_BTNH)
    return out_BTNH


@_triton_attend.register_fake
def _(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, attend_BTS: Tensor | None) -> Tensor:
    num_rows, num_heads, num_new, head_size = q_BNTH.shape
    return q_BNTH.new_empty(num_rows, num_new, num_heads, head_size)


def _join(mixed: Tensor, peak: Tensor, total: Tensor, out_BTNH: Tensor) -> None:
    """Write what the shares of the positions come to together."""
    from chexmix_cli.core.kernels.decode_attention.kernels import _joined_attention_fwd_kernel

    num_rows, num_new, num_heads, head_size = out_BTNH.shape
    joined = next(one for one in JOIN_CONFIGS if head_size <= one.block_h)
    _joined_attention_fwd_kernel[(num_rows * num_heads, num_new)](
        mixed,
        peak,
        total,
        out_BTNH,
        num_heads,
        num_new,
        peak.shape[1],
        head_size,
        BLOCK_J=joined.block_j,
        BLOCK_H=joined.block_h,
        INTERPRETED=is_interpreted(),
        num_warps=joined.num_warps,
        num_stages=joined.num_stages,
    )
