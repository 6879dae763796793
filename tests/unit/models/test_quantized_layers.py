"""torch's own products with 8-bit and 4-bit weights, which stand in for compiled kernels, against float64."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.kernels.quantized import native, reference
from chexmix_cli.core.models import linear, quantized
from chexmix_cli.core.models.linear import FEW_ROWS, Linear
from chexmix_cli.core.models.quantized import int8_product, layer_kind

ROWS = (1, 2, 3, FEW_ROWS, FEW_ROWS + 1, 40)
SHAPES = ((24, 40), (7, 13), (65, 1), (1, 33), (300, 129), (40, 96))
NARROW = {8: reference.quantize_8, 4: reference.quantize_4}


def operands(num_rows, shape):
    num_out, num_in = shape
    generator = torch.Generator().manual_seed(num_rows * 1000 + num_out)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((num_rows, num_in), shape, (num_out,)))
    return x, weight, bias


def filled(kind, weight, bias):
    like = Linear(weight.shape[1], weight.shape[0])
    like.bias.data.copy_(bias)
    layer = kind(like)
    layer.weight, layer.scale = kind.hold(*NARROW[kind.bits](weight, where="test"))
    return layer


@pytest.mark.parametrize("has_int8", [False, True])
@torch.inference_mode()
def test_8_bit_products_are_those_of_the_restored_weights(monkeypatch, has_int8):
    """Few rows of whole vectors: in bfloat16. Else exact, or activations in 8 bits where the CPU has them."""
    monkeypatch.setattr(quantized, "has_cpu_int8", lambda: has_int8)
    monkeypatch.setattr(linear, "_PIECE", 400)  # several pieces, the last one short
    for shape in SHAPES:
        for num_rows in ROWS:
            x, weight, bias = operands(num_rows, shape)
            x *= torch.logspace(-2, 2, num_rows)[:, None]  # rows of very different size, each with a scale of its own
            weight_8, scale = reference.quantize_8(weight, where="test")
            bias *= 0.1
            expected = x.double() @ reference.restore(weight_8, scale).double().T + bias.double()
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
def test_4_bit_products_are_those_of_the_restored_weights():
    for shape in SHAPES:
        for num_rows in ROWS:
            x, weight, bias = operands(num_rows, shape)
            restored = reference.restore(*reference.quantize_4(weight, where="test")).double()
            layer = filled(quantized._Torch4, weight, bias * 0.1)
            found = layer(x)
            assert (found.dtype, found.shape) == (torch.float32, (num_rows, shape[0]))
            reach_R1 = (x.double().abs() @ weight.double().abs().T).amax(dim=1, keepdim=True)
            off = ((found.double() - x.double() @ restored.T - bias.double() * 0.1).abs() / reach_R1).max()
            assert float(off) <= 2.0**-6


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("kernels", ["auto", "torch"])
@torch.inference_mode()
def test_layers_take_any_leading_dimensions_another_bias_and_some_rows(monkeypatch, bits, kernels):
    monkeypatch.setenv("CHEXMIX_KERNELS", kernels)
    kind = layer_kind(bits, torch.device("cpu"))
    assert kind.__name__.startswith("_Native") == (kernels == "auto" and native.best_level() > 0)
    x, weight, bias = operands(6, (50, 40))
    layer = filled(kind, weight, bias)
    whole = layer(x)
    assert torch.equal(layer(x.view(2, 3, 40)), whole.view(2, 3, 50))
    assert torch.allclose(layer(x, rows=slice(5, 17)), whole[:, 5:17], rtol=0, atol=1e-5)
    other = torch.randn(50)
    assert torch.allclose(layer(x, other), whole - bias + other, rtol=0, atol=1e-4)
    # A view whose rows are not whole in memory.
    assert torch.allclose(layer(x.repeat(1, 2)[:, :40]), whole, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_row_of_zeros_has_a_product_of_zeros(monkeypatch):
    for has_int8 in (False, True):
        monkeypatch.setattr(quantized, "has_cpu_int8", lambda has_int8=has_int8: has_int8)
        _, weight, _ = operands(1, (24, 40))
        found = int8_product(torch.zeros(20, 40), *reference.quantize_8(weight, where="test"))
        assert torch.equal(found, torch.zeros(20, 24))
