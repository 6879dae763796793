"""Cross-entropy of a linear head over chunks of tokens: no matrix of all logits, forward or backward.

For the summed loss, the gradient of the logits is ``softmax - onehot`` whatever comes after, up to one factor. So each
chunk of logits is turned into its gradient in place and used up at once, in the forward pass:

    logits = x W^T + b;  loss = logsumexp(logits) - logits[target];  G = softmax(logits) - onehot
    dx = G W;  dW += G^T x;  db += sum(G)

These are the three matrix products of the plain computation, none is done twice. The backward pass only scales.
``torch.nn.functional.linear_cross_entropy`` (torch 2.13) has a chunked form too; it was measured and lost
(docs/performance.md), gives one loss a call or computes the logits twice, and this package supports older torch.

Shape letters: M tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

#: Most bytes of one chunk's logits. Larger chunks were not faster; smaller ones read the weight's gradient more often.
_CHUNK_BYTES = 64 << 20
#: Most bytes of the rows that are turned into gradients at a time: they stay in the cache for all passes over them.
_CACHE_BYTES = 4 << 20


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
                logits_CV = sums.logits_CV[: rows.stop - rows.start]
                torch.addmm(b_V, x_MD[rows], w_VD.T, out=logits_CV)
                loss_M[rows] = _to_gradient(logits_CV, target_M[rows])
                sums.add(rows, logits_CV)
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
        rows = min(len(x_MD), _rows_within(_CHUNK_BYTES, w_VD))
        self.logits_CV = w_VD.new_empty(rows, len(w_VD))
        self.state_MD = torch.empty_like(x_MD) if needs[0] else None
        self.weight_VD = torch.zeros_like(w_VD, dtype=_wide(w_VD.dtype)) if needs[1] else None
        self.bias_V = w_VD.new_zeros(len(w_VD), dtype=_wide(w_VD.dtype)) if needs[2] else None

    def add(self, rows: slice, gradient_CV: Tensor) -> None:
        """Use the gradient of one chunk's logits up."""
        if self.state_MD is not None:
            torch.mm(gradient_CV, self._w_VD, out=self.state_MD[rows])
        if self.weight_VD is not None:
            if self.weight_VD.dtype == gradient_CV.dtype:
                self.weight_VD.addmm_(gradient_CV.T, self._x_MD[rows])
            else:
                self.weight_VD += gradient_CV.T @ self._x_MD[rows]
        if self.bias_V is not None:
            self.bias_V += gradient_CV.sum(dim=0, dtype=self.bias_V.dtype)


def _to_gradient(logits_CV: Tensor, target_C: Tensor) -> Tensor:
    """Overwrite logits with ``softmax - onehot`` and return the loss of each row."""
    loss_C = torch.empty(len(logits_CV), dtype=_wide(logits_CV.dtype), device=logits_CV.device)
    size = _rows_within(_CACHE_BYTES, logits_CV.T)
    for start in range(0, len(logits_CV), size):
        block_RV, target_R1 = logits_CV[start : start + size], target_C[start : start + size, None]
        wide_RV = block_RV.to(loss_C.dtype)
        top_R1, chosen_R1 = wide_RV.amax(dim=1, keepdim=True), wide_RV.gather(1, target_R1)
        wide_RV.sub_(top_R1).exp_()
        sum_R1 = wide_RV.sum(dim=1, keepdim=True)
        wide_RV.div_(sum_R1)
        wide_RV.scatter_add_(1, target_R1, torch.full_like(sum_R1, -1.0))
        loss_C[start : start + size] = (top_R1 - chosen_R1 + sum_R1.log())[:, 0]
        if wide_RV.dtype != block_RV.dtype:
            block_RV.copy_(wide_RV)
    return loss_C


def _chunks(count: int, w_VD: Tensor) -> list[slice]:
    size = _rows_within(_CHUNK_BYTES, w_VD)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _rows_within(num_bytes: int, w_VD: Tensor) -> int:
    """Return how many rows of logits have at most so many bytes in float32; 1 at least."""
    return max(1, num_bytes // (4 * len(w_VD)))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
