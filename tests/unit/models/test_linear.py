"""Every way a product is computed in, against float64, whichever way this machine would choose."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.models import linear
from chexmix_cli.core.models.linear import FEW_ROWS, Int8Linear, Linear, int8_product, product, quantize_rows

#: What a result may be off by, relative to the largest number of the reference: half a unit in bfloat16's last place,
#: and float32 sums in another order.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 1e-5}
ROWS = (1, 2, 3, FEW_ROWS, FEW_ROWS + 1, 40)
SHAPES = ((24, 40), (7, 13), (65, 1), (1, 33), (300, 129), (40, 96))


def has(monkeypatch, *, bfloat16=False, int8=False):
    monkeypatch.setattr(linear, "has_cpu_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(linear, "has_cpu_int8", lambda: int8)


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
    quantized = int8_layer(layer)
    for one in (layer, quantized):
        some = one(x, rows=slice(5, 17))
        assert difference(some, one(x)[:, 5:17].double()) <= 1e-6
    bias = torch.randn(24)
    assert difference(layer(x, bias), x.double() @ layer.weight.double().T + bias.double()) <= 1e-5


def int8_layer(layer):
    found = Int8Linear(layer)
    found.weight, found.scale = quantize_rows(layer.weight.detach(), where="test")
    return found


@torch.no_grad()
def test_8_bit_weights_are_within_half_a_step():
    _, weight, _ = operands(1, (300, 129), torch.float32)
    weight[5] *= 1e-3
    weight[6] = 0
    weight_8, scale = quantize_rows(weight, where="test")
    assert (weight_8.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert int(weight_8.abs().max()) == 127
    restored = weight_8.double() * scale.double()[:, None]
    off = (restored - weight.double()).abs()
    assert bool((off <= scale.double()[:, None] * 0.5001).all())
    assert not restored[6].any()
    # A scale for all rows, which the small row would drown in, is told apart.
    assert float(off[5].max()) < 0.01 * float(scale[4])


def test_weights_that_are_not_finite_are_refused():
    for wrong in (float("nan"), float("inf")):
        weight = torch.ones(3, 4)
        weight[1, 2] = wrong
        with pytest.raises(WeightsError, match=r"blocks\.0\.head.*not finite"):
            quantize_rows(weight, where="blocks.0.head")


@pytest.mark.parametrize("has_int8", [False, True])
@torch.inference_mode()
def test_8_bit_products_are_those_of_the_restored_weights(monkeypatch, has_int8):
    """Few rows of whole vectors: in bfloat16. Else exact, or activations in 8 bits where the CPU has them."""
    has(monkeypatch, int8=has_int8)
    monkeypatch.setattr(linear, "_PIECE", 400)
    for shape in SHAPES:
        for num_rows in ROWS:
            x, weight, bias = operands(num_rows, shape, torch.float32)
            x *= torch.logspace(-2, 2, num_rows)[:, None]  # rows of very different size, each with a scale of its own
            weight_8, scale = quantize_rows(weight, where="test")
            bias *= 0.1
            expected = x.double() @ (weight_8.double() * scale.double()[:, None]).T + bias.double()
            found = int8_product(x, weight_8, scale, bias)
            assert found.dtype == torch.float32
            # A product of few numbers may cancel; rounding is measured against what went in.
            reach_R1 = (x.double().abs() @ weight.double().abs().T).amax(dim=1, keepdim=True)
            off = float(((found.double() - expected).abs() / reach_R1).max())
            if num_rows <= FEW_ROWS:
                assert off <= 2.0**-7
            elif has_int8:
                assert off <= 1 / 127
            else:
                assert off <= 1e-5


@torch.inference_mode()
def test_a_row_of_zeros_has_a_product_of_zeros(monkeypatch):
    for has_int8 in (False, True):
        has(monkeypatch, int8=has_int8)
        _, weight, _ = operands(1, (24, 40), torch.float32)
        found = int8_product(torch.zeros(20, 40), *quantize_rows(weight, where="test"))
        assert torch.equal(found, torch.zeros(20, 24))
