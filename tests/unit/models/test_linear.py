"""Every way a product is computed in, against float64, whichever way this machine would choose."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chexmix_cli.core.models import linear
from chexmix_cli.core.models.linear import FEW_ROWS, Linear, product

#: What a result may be off by, relative to the largest number of the reference: half a unit in bfloat16's last place,
#: and float32 sums in another order.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 1e-5}
ROWS = (1, 2, 3, FEW_ROWS, FEW_ROWS + 1, 40)
SHAPES = ((24, 40), (7, 13), (65, 1), (1, 33), (300, 129), (40, 96))


def has(monkeypatch, *, bfloat16=False, avx512=False):
    monkeypatch.setattr(linear, "has_cpu_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(linear, "has_cpu_avx512", lambda: avx512)


def operands(num_rows, shape, dtype):
    num_out, num_in = shape
    generator = torch.Generator().manual_seed(num_rows * 1000 + num_out)
    x, weight, bias = (
        torch.randn(*size, generator=generator).to(dtype) for size in ((num_rows, num_in), shape, (num_out,))
    )
    return x, weight, bias


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("has_bfloat16", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
@torch.inference_mode()
def test_a_product_is_the_float64_one_but_for_rounding(monkeypatch, dtype, has_bfloat16):
    has(monkeypatch, bfloat16=has_bfloat16)
    monkeypatch.setattr(linear, "_PIECE", 400)  # several pieces, the last one short
    for shape in SHAPES:
        for num_rows in ROWS:
            x, weight, bias = operands(num_rows, shape, dtype)
            expected = x.double() @ weight.double().T
            assert difference(product(x, weight), expected) <= ROUNDING[dtype]
            found = product(x, weight, bias)
            assert found.dtype == dtype
            assert difference(found, expected + bias.double()) <= ROUNDING[dtype]
            # The measure finds a bias that is left out.
            assert difference(found, expected) > ROUNDING[dtype]


@pytest.mark.parametrize(("has_bfloat16", "dtype", "num_rows"), [(True, torch.bfloat16, 2), (False, torch.bfloat16, 1)])
@torch.inference_mode()
def test_one_row_is_computed_as_two_where_that_is_faster(monkeypatch, has_bfloat16, dtype, num_rows):
    has(monkeypatch, bfloat16=has_bfloat16)
    computed = []
    whole = F.linear
    monkeypatch.setattr(linear.F, "linear", lambda x, *rest: computed.append(x.numel() // 40) or whole(x, *rest))
    x, weight, bias = operands(1, (24, 40), dtype)
    assert product(x[None], weight, bias).shape == (1, 1, 24)
    assert computed == [num_rows]


@pytest.mark.parametrize(("has_avx512", "own"), [(False, [1, 9]), (True, [1, 2, 9])])
@torch.inference_mode()
def test_few_float32_rows_are_multiplied_from_the_right(monkeypatch, has_avx512, own):
    has(monkeypatch, avx512=has_avx512)
    computed = []
    whole = F.linear
    monkeypatch.setattr(linear.F, "linear", lambda x, *rest: computed.append(len(x)) or whole(x, *rest))
    for num_rows in (1, 2, 3, 8, 9):
        x, weight, bias = operands(num_rows, (24, 40), torch.float32)
        assert difference(product(x, weight, bias), whole(x.double(), weight.double(), bias.double())) <= 1e-5
    assert computed == own


@torch.inference_mode()
def test_one_row_equals_the_row_among_others(monkeypatch):
    """A row padded to two has the numbers it has in any pass of two."""
    has(monkeypatch, bfloat16=True)
    x, weight, bias = operands(2, (300, 129), torch.bfloat16)
    together = product(x, weight, bias)
    for row in range(2):
        assert torch.equal(product(x[row : row + 1], weight, bias), together[row : row + 1])


@torch.inference_mode()
def test_leading_dimensions_stay(monkeypatch):
    for has_bfloat16 in (False, True):
        has(monkeypatch, bfloat16=has_bfloat16)
        for dtype in ROUNDING:
            for leading in ((1,), (1, 1), (2, 1), (1, 3), (4, 5)):
                x, weight, bias = operands(torch.Size(leading).numel(), (24, 40), dtype)
                found = product(x.view(*leading, 40), weight, bias)
                assert found.shape == (*leading, 24)
                assert torch.equal(found.flatten(0, -2), product(x, weight, bias))
                # Not a view of columns: what reads on reads rows.
                assert found.is_contiguous()


def test_training_takes_torchs_own_product(monkeypatch):
    """Gradients, and autocast in validation, go through ``F.linear``: nothing else is differentiable or casts."""
    has(monkeypatch)
    layer = Linear(13, 7)
    x = torch.randn(4, 13)
    layer(x).square().sum().backward()
    expected = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).square().sum(), layer.weight)[0]
    assert torch.equal(layer.weight.grad, expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@torch.inference_mode()
def test_some_rows_are_those_of_all():
    x, _, _ = operands(3, (24, 40), torch.float32)
    layer = Linear(40, 24)
    assert difference(layer(x, rows=slice(5, 17)), layer(x)[:, 5:17].double()) <= 1e-6
    bias = torch.randn(24)
    assert difference(layer(x, bias), x.double() @ layer.weight.double().T + bias.double()) <= 1e-5
