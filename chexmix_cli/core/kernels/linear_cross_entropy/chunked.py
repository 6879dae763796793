"""Cross-entropy of a linear head over chunks of tokens: no matrix of all logits, forward or backward.

For the summed loss, the gradient of the logits is ``softmax - onehot`` whatever comes after, up to one factor. So each
chunk of logits is turned into its gradient in place, up to a factor a token, and used up at once in the forward pass:

    logits = W x^T + b;  e = exp(logits - top);  z = sum(e);  loss = top + log z - logits[target]
    G = e - z onehot;  dx = G^T W / z;  dW += G (x / z);  db += G (1 / z)

These are the three matrix products of the plain computation, none is done twice. The backward pass only scales.
Logits lie as (V, C), vocabulary first: of the two forms of each product it is the faster one on a CPU, in the first
product by half (docs/performance.md). ``torch.nn.functional.linear_cross_entropy`` (torch 2.13) has a chunked form
too; it was measured and lost, gives one loss a call or computes the logits twice, and this package runs on older torch.

Shape letters: M tokens, C tokens of a chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

#: Most bytes of one chunk's logits, about 500 tokens of the released vocabulary: fewer make the products slower.
_CHUNK_BYTES = 128 << 20
#: The same where a chunk costs the start of a dozen kernels, and memory is passed over as fast as it is: on a GPU.
GPU_CHUNK_BYTES = 1 << 30
#: A chunk is a multiple of so many tokens, as far as there are so many.
_STEP = 64
#: Most bytes of the logits that are turned into gradients at a time: they stay in the cache for all passes over them.
_CACHE_BYTES = 2 << 20


def linear_cross_entropy(
    state_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy (nats, float32 scalar), and that of each target, (M,) float32 without gradient.

    Args:
        state_MD: inputs of the head, (M, D).
        weight_VD, bias_V: the head. Under autocast the products are computed in its dtype, as ``F.linear`` would.
        target_M: row of the head each state must predict, int64 in [0, V).

    Numerics: softmax and sums over chunks in float32; gradients differ from the reference's by the order of sums.
    """
    device = state_MD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    is_learning = torch.is_grad_enabled()
    apply = cast("Callable[..., tuple[Tensor, Tensor]]", _Chunked.apply)
    return apply(state_MD, weight_VD, bias_V, target_M, dtype, is_learning)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 (autograd wants positional arguments)
        ctx: Any,
        state_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        target_M: Tensor,
        dtype: torch.dtype,
        is_learning: bool,
    ) -> tuple[Tensor, Tensor]:
        needs = [is_learning and needed for needed in ctx.needs_input_grad[:3]]
        with torch.autocast(state_MD.device.type, enabled=False):
            x_MD, w_VD, b_V = (value.detach().to(dtype) for value in (state_MD, weight_VD, bias_V))
            loss_M = torch.empty(len(x_MD), dtype=_wide(dtype), device=x_MD.device)
            sums = _Gradients(x_MD, w_VD, needs)
            for rows in _chunks(len(x_MD), w_VD):
                logits_VC = sums.logits(rows)
                torch.mm(w_VD, x_MD[rows].T, out=logits_VC)
                loss_M[rows], sum_C = _to_gradient(logits_VC, b_V, target_M[rows])
                sums.add(rows, logits_VC, sum_C)
        ctx.gradients = [
            None if value is None else value.to(like.dtype)
            for value, like in zip(
                (sums.state_MD, sums.weight_VD, sums.bias_V), (state_MD, weight_VD, bias_V), strict=True
            )
        ]
        ctx.mark_non_differentiable(loss_M)
        return loss_M.sum(), loss_M

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        # In place: these are ours alone, and a second backward pass through a freed graph is no use of this.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients were handed out already"
        return (*(None if value is None else value.mul_(outputs[0]) for value in gradients), None, None, None)


class _Gradients:
    """Sums over chunks, of what needs a gradient only.

    Args:
        x_MD, w_VD: operands of the products.
        needs: whether states, weight and bias need a gradient.
    """

    def __init__(self, x_MD: Tensor, w_VD: Tensor, needs: list[bool]) -> None:
        self._x_MD, self._w_VD = x_MD, w_VD
        self._logits = w_VD.new_empty(min(len(x_MD), _chunk_size(w_VD)) * len(w_VD))
        self.state_MD = torch.empty_like(x_MD) if needs[0] else None
        self.weight_VD = torch.zeros_like(w_VD, dtype=_wide(w_VD.dtype)) if needs[1] else None
        self.bias_V = w_VD.new_zeros(len(w_VD), dtype=_wide(w_VD.dtype)) if needs[2] else None

    def logits(self, rows: slice) -> Tensor:
        """Return the buffer of a chunk's logits, (V, C) without gaps."""
        count = rows.stop - rows.start
        return self._logits[: count * len(self._w_VD)].view(len(self._w_VD), count)

    def add(self, rows: slice, gradient_VC: Tensor, sum_C: Tensor) -> None:
        """Use the gradient of one chunk's logits up; it is ``sum_C`` times too large."""
        share_C1 = sum_C.reciprocal()[:, None]
        if self.state_MD is not None:
            self.state_MD[rows] = (gradient_VC.T @ self._w_VD) * share_C1
        if self.weight_VD is not None:
            shared_CD = (self._x_MD[rows] * share_C1).to(gradient_VC.dtype)
            if self.weight_VD.dtype == gradient_VC.dtype:
                self.weight_VD.addmm_(gradient_VC, shared_CD)
            else:
                self.weight_VD += gradient_VC @ shared_CD
        if self.bias_V is not None:
            self.bias_V += (gradient_VC @ share_C1.to(gradient_VC.dtype))[:, 0]


def _to_gradient(logits_VC: Tensor, bias_V: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
    """Overwrite products with ``e - z onehot``; return the loss of each token and its ``z``, both (C,)."""
    wide, num_tokens = _wide(logits_VC.dtype), logits_VC.shape[1]
    # Not in blocks on a GPU: each pass over one would be a kernel of its own.
    size = len(logits_VC) if logits_VC.is_cuda else max(1, _CACHE_BYTES // (4 * num_tokens))
    blocks = [slice(start, start + size) for start in range(0, len(logits_VC), size)]
    top_C = torch.full((num_tokens,), -torch.inf, dtype=wide, device=logits_VC.device)
    for block in blocks:
        top_C = torch.maximum(top_C, logits_VC[block].add_(bias_V[block, None]).amax(dim=0).to(wide))
    chosen_C = logits_VC.gather(0, target_C[None])[0].to(wide)
    sum_C = torch.zeros_like(top_C)
    for block in blocks:
        # In place where the logits are wide enough already.
        e_BC = logits_VC[block].to(wide).sub_(top_C).exp_()
        sum_C += e_BC.sum(dim=0)
        if e_BC.dtype != logits_VC.dtype:
            logits_VC[block] = e_BC
    # Before the products, not after: a token that is known well has a small gradient, which rounding must not drown.
    logits_VC.scatter_(0, target_C[None], ((chosen_C - top_C).exp() - sum_C).to(logits_VC.dtype)[None])
    return top_C - chosen_C + sum_C.log(), sum_C


def _chunks(count: int, w_VD: Tensor) -> list[slice]:
    size = _chunk_size(w_VD)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _chunk_size(w_VD: Tensor) -> int:
    """Return how many tokens a chunk has at most."""
    fitting = (GPU_CHUNK_BYTES if w_VD.is_cuda else _CHUNK_BYTES) // (4 * len(w_VD))
    return max(1, fitting - fitting % _STEP if fitting > _STEP else fitting)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
