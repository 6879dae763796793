"""The loss without logits: the reference's loss and gradients, in one chunk or many, and no large tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chexmix_cli.core.kernels.linear_cross_entropy import chunked, reference

SIZES = [(1, 1, 1), (1, 5, 13), (7, 3, 101), (64, 16, 1), (65, 24, 257), (130, 8, 96)]


def inputs(num_tokens: int, hidden: int, rows: int, dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """Return states, weight, bias (random, leaves with gradient) and targets."""
    generator = torch.Generator().manual_seed(num_tokens + rows)
    shapes = ((num_tokens, hidden), (rows, hidden), (rows,))
    values = [(torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype) for shape in shapes]
    return [
        *(value.requires_grad_() for value in values),
        torch.randint(rows, (num_tokens,), generator=generator),
    ]


def learn(values: list[Tensor], compute: Any) -> list[Tensor]:
    """Return the losses and the gradients under a random cotangent."""
    total, loss_M = compute(*values)
    (total * -1.7).backward()
    return [loss_M.detach(), *(value.grad for value in values[:3])]


def plain(*values: Tensor) -> tuple[Tensor, Tensor]:
    loss_M = reference.linear_cross_entropy(*values)
    return loss_M.sum(), loss_M


def errors(found: list[Tensor], oracle: list[Tensor]) -> list[float]:
    return [float((one.double() - two).abs().max()) for one, two in zip(found, oracle, strict=True)]


@pytest.fixture(params=[1 << 26, 4 * 257 * 5], ids=["one chunk", "many chunks"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", request.param)
    monkeypatch.setattr(chunked, "_CACHE_BYTES", request.param // 3)
    return request.param


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_loss_and_gradients_lose_no_more_than_plain_float32(sizes, scale, chunk_bytes):
    oracle = learn(inputs(*sizes, torch.float64, scale), plain)
    found = errors(learn(inputs(*sizes, torch.float32, scale), chunked.linear_cross_entropy), oracle)
    baseline = errors(learn(inputs(*sizes, torch.float32, scale), plain), oracle)
    for own, other, true in zip(found, baseline, oracle, strict=True):
        assert own <= 2 * other + 2e-6 * float(true.abs().max())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float64_is_exact(sizes, chunk_bytes):
    oracle = learn(inputs(*sizes, torch.float64), plain)
    found = learn(inputs(*sizes, torch.float64), chunked.linear_cross_entropy)
    assert found[0].dtype == torch.float64
    assert max(errors(found, oracle)) < 1e-12


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_under_autocast_it_loses_no_more_than_the_plain_form_does(sizes, chunk_bytes):
    oracle = learn(inputs(*sizes, torch.float64), plain)
    found: list[list[float]] = []
    for compute in (chunked.linear_cross_entropy, plain):
        with torch.autocast("cpu", torch.bfloat16):
            values = learn(inputs(*sizes, torch.float32), compute)
        assert {value.dtype for value in values} == {torch.float32}
        found.append(errors(values, oracle))
    for own, other, true in zip(*found, oracle, strict=True):
        assert own <= 2 * other + 4e-3 * float(true.abs().max())


def test_a_gradient_that_forgets_its_target_is_found(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "scatter_", lambda self, *arguments: self)
    oracle = learn(inputs(65, 24, 257, torch.float64), plain)
    found = learn(inputs(65, 24, 257, torch.float64), chunked.linear_cross_entropy)
    assert errors(found, oracle)[0] < 1e-12
    assert min(errors(found, oracle)[1:]) > 1e-2


def test_only_what_is_trained_gets_a_gradient():
    values = inputs(9, 4, 30, torch.float32)
    values[1].requires_grad_(False)
    values[2].requires_grad_(False)
    chunked.linear_cross_entropy(*values)[0].backward()
    expected = inputs(9, 4, 30, torch.float32)
    plain(*expected)[0].backward()
    assert values[1].grad is values[2].grad is None
    assert torch.allclose(values[0].grad, expected[0].grad, atol=1e-6)
    with torch.no_grad():
        total, loss_M = chunked.linear_cross_entropy(*values)
    assert not total.requires_grad
    assert float(total) == pytest.approx(float(loss_M.sum()))


def test_losses_are_for_reporting_only():
    total, loss_M = chunked.linear_cross_entropy(*inputs(9, 4, 30, torch.float32))
    assert total.requires_grad
    assert not loss_M.requires_grad


def test_no_target_is_a_loss_of_nothing():
    values = inputs(9, 4, 30, torch.float32)
    total, loss_M = chunked.linear_cross_entropy(values[0][:0], *values[1:3], values[3][:0])
    total.backward()
    assert (float(total.detach()), len(loss_M)) == (0.0, 0)
    assert not values[1].grad.any()


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_tensor_has_a_logit_of_every_token(monkeypatch, dtype):
    num_tokens, hidden, rows = 300, 8, 500
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", 4 * rows * 20)
    sizes = []
    for compute in (chunked.linear_cross_entropy, plain):
        with Largest() as watched, torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            compute(*inputs(num_tokens, hidden, rows, torch.float32))[0].backward()
        sizes.append(watched.most)
    assert sizes == [rows * 20, num_tokens * rows]
