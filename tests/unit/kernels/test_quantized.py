"""Products with 8-bit and 4-bit weights: the definition against float64, compiled kernels against the definition."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chexmix_cli.core.errors import ShapeError, WeightsError
from chexmix_cli.core.kernels.compiled.library import torch_threads
from chexmix_cli.core.kernels.quantized import native, reference
from chexmix_cli.core.kernels.quantized.panels import to_panels

NARROW = {8: reference.quantize_8, 4: reference.quantize_4}
needs_native = pytest.mark.skipif(native.best_level() == 0, reason="the kernels are not compiled, or not for this CPU")


def levels():
    return list(native.usable_levels().values())


def operands(seed, num_rows, num_out, num_in, bits):
    """Return activations, quantised weights and bias; rows, columns and outputs of very different size, some 0."""
    generator = torch.Generator().manual_seed(seed)

    def spread(count):
        sizes = 10 ** (6 * torch.rand(count, generator=generator) - 3)
        return torch.where(torch.rand(count, generator=generator) < 0.1, 0.0, sizes)

    x_RI = torch.randn(num_rows, num_in, generator=generator) * spread(num_rows)[:, None] * spread(num_in)
    weight_OI = torch.randn(num_out, num_in, generator=generator) * spread(num_out)[:, None]
    return x_RI, NARROW[bits](weight_OI, where="test"), torch.randn(num_out, generator=generator)


@torch.no_grad()
def test_8_bit_weights_are_within_half_a_step():
    weight = torch.randn(300, 129, generator=torch.Generator().manual_seed(0))
    weight[5] *= 1e-3
    weight[6] = 0
    steps, scale = reference.quantize_8(weight, where="test")
    assert (steps.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert int(steps.abs().max()) == 127
    off = (reference.restore(steps, scale).double() - weight.double()).abs()
    assert bool((off <= scale.double()[:, None] * 0.5001).all())
    assert not steps[6].any()
    # A scale for all rows, which the small row would drown in, is told apart.
    assert float(off[5].max()) < 0.01 * float(scale[4])


@torch.no_grad()
def test_4_bit_weights_are_no_further_than_those_whose_scale_reaches_the_largest():
    weight = torch.randn(70, 129, generator=torch.Generator().manual_seed(0))
    weight[6] = 0
    weight[7] *= 1e-3
    steps, scale = reference.quantize_4(weight, where="test")
    assert (steps.dtype, scale.dtype, scale.shape) == (torch.int8, torch.bfloat16, (70, 5))
    assert (int(steps.min()), int(steps.max())) == (-8, 7)
    assert not steps[6].any()
    plain = torch.nn.functional.pad(weight, (0, -129 % 32)).view(70, 5, 32)
    most = plain.gather(2, plain.abs().argmax(dim=2, keepdim=True)) / -8
    reached = (plain / torch.where(most == 0, 1.0, most)).round().clamp(-8, 7) * most
    error = (reference.restore(steps, scale) - weight).square().sum(dim=1)
    other = (reached - plain).square().sum(dim=(1, 2))
    # bfloat16 moves a scale by up to 2^-9 of itself.
    assert bool((error <= other * 1.02).all())
    assert float(error.sum()) < 0.95 * float(other.sum())


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("size", [3e38, 1e-38, 1e-44])
def test_the_largest_and_smallest_floats_stay_themselves(bits, size):
    weight = torch.tensor([[1.0, -0.5, 0.25] * 20]) * size
    restored = reference.restore(*NARROW[bits](weight, where="test"))
    assert bool(restored.isfinite().all())
    assert bool(((restored - weight).abs() <= weight.abs().max() * (1.0 if size < 1e-40 else 0.1)).all())


@pytest.mark.parametrize("bits", NARROW)
def test_weights_that_are_not_finite_are_refused(bits):
    for wrong in (float("nan"), float("inf")):
        weight = torch.ones(3, 40)
        weight[1, 2] = wrong
        with pytest.raises(WeightsError, match=r"blocks\.0\.head.*not finite"):
            NARROW[bits](weight, where="blocks.0.head")


@pytest.mark.parametrize("bits", NARROW)
def test_the_definition_is_the_product_within_half_a_step_of_each_activation(bits):
    for seed, shape in enumerate(((1, 24, 40), (9, 7, 13), (4, 65, 1), (3, 300, 129))):
        x, weight, bias = operands(seed, *shape, bits)
        restored = reference.restore(*weight).double()
        expected = x.double() @ restored.T + bias.double()
        _, step = reference.quantize_activations(x)
        allowed = step.double().repeat_interleave(32, dim=1)[:, : shape[2]] @ restored.abs().T * 0.5001
        found = reference.product(x, *weight, bias).double()
        assert bool(((found - expected).abs() <= allowed + 1e-5 * expected.abs() + 1e-5).all())
        assert not bool(((found - expected + bias.double()).abs() <= allowed + 1e-5).all()), "a bias left out is seen"


def test_levels_are_no_ladder(monkeypatch):
    """A CPU with AVX512-VNNI may lack AVX-VNNI: AMD's of 2022, Intel's of 2019. Its instructions end a process."""
    monkeypatch.setattr(native, "answer", lambda function: (1 << 1 | 1 << 3, ""))
    monkeypatch.setattr(native, "usable_levels", native.usable_levels.__wrapped__)
    assert native.usable_levels() == {"AVX2": 1, "AVX512-VNNI": 3}
    assert native.best_level() == 3
    x, weight, _ = operands(0, 2, 16, 32, 8)
    with pytest.raises(AssertionError, match="this CPU has no level 2"):
        native.product(x, to_panels(*weight), level=native.LEVELS["AVX-VNNI"])


@needs_native
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31),
    num_rows=st.integers(1, 33),
    num_out=st.integers(1, 70),
    num_in=st.integers(1, 200),
    bits=st.sampled_from(sorted(NARROW)),
)
@example(seed=1, num_rows=7, num_out=2050, num_in=1280, bits=8)
@example(seed=2, num_rows=33, num_out=33, num_in=2560, bits=4)
def test_kernels_compute_what_is_defined(seed, num_rows, num_out, num_in, bits):
    x, weight, bias = operands(seed, num_rows, num_out, num_in, bits)
    expected = reference.product(x, *weight, bias)
    panels = to_panels(*weight)
    found = native.product(x, panels, bias)
    # Groups are added up in the same order. What is left: the definition's fused sums round twice, rarely.
    reach = x.double().abs() @ reference.restore(*weight).double().abs().T + bias.double().abs()
    assert bool(((found.double() - expected.double()).abs() <= 1e-6 * reach).all())
    first = seed % num_out
    some = slice(first, min(num_out, first + 1 + seed % 37))
    for level in levels():
        assert torch.equal(native.product(x, panels, bias, level=level), found)
        assert torch.equal(native.product(x, panels, bias[some].contiguous(), some, level=level), found[:, some])
    one = seed % num_rows
    assert torch.equal(native.product(x[one : one + 1], panels, bias), found[one : one + 1])


@needs_native
@pytest.mark.parametrize("bits", NARROW)
def test_bits_depend_neither_on_threads_nor_on_the_rows_beside(bits):
    x, weight, bias = operands(5, 330, 200, 2600, bits)
    panels = to_panels(*weight)
    threads = torch.get_num_threads()
    try:
        for level in levels():
            found = []
            for number in (1, 2, 3):
                torch.set_num_threads(number)
                found.append(native.product(x, panels, bias, level=level))
            assert torch.equal(found[0], found[1])
            assert torch.equal(found[0], found[2])
            parts = [native.product(part, panels, bias, level=level) for part in x.split([1, 2, 9, 318])]
            assert torch.equal(torch.cat(parts), found[0])
    finally:
        torch.set_num_threads(threads)


@needs_native
@pytest.mark.parametrize("bits", NARROW)
def test_a_row_that_is_not_finite_has_no_finite_product_and_spares_the_others(bits):
    x, weight, bias = operands(7, 5, 40, 100, bits)
    panels = to_panels(*weight)
    whole = native.product(x, panels, bias)
    for wrong in (float("nan"), float("inf"), float("-inf")):
        damaged = x.clone()
        damaged[2, 70] = wrong
        for found in (reference.product(damaged, *weight, bias), native.product(damaged, panels, bias)):
            assert bool(found[2].isnan().all())
        for level in levels():
            found = native.product(damaged, panels, bias, level=level)
            assert bool(found[2].isnan().all())
            assert torch.equal(found[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])


@needs_native
@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-36, 3e38])
def test_activations_of_every_size_are_as_defined(bits, size):
    _, weight, _ = operands(8, 1, 40, 64, bits)
    x = torch.linspace(-1, 1, 3 * 64).view(3, 64) * size
    expected = reference.product(x, *weight)
    for level in levels():
        found = native.product(x, to_panels(*weight), level=level)
        assert torch.equal(found.isfinite(), expected.isfinite())
        assert torch.allclose(found, expected, rtol=1e-5, atol=0, equal_nan=True)
    if size < 1e-35:
        assert not expected.any()


@needs_native
def test_what_would_be_read_past_is_refused():
    x, weight, bias = operands(9, 3, 40, 64, 8)
    panels = to_panels(*weight)
    wrong = [
        (x.double(), panels, bias, None),
        (x[:, :63], panels, bias, None),
        (torch.randn(64, 3).t(), panels, bias, None),
        (x, panels, bias[:39], None),
        (x, panels, bias, slice(0, 39)),
        (x, panels._replace(num_out=49), None, None),
        (x, panels._replace(scale=panels.scale[:-1]), None, None),
    ]
    for case in wrong:
        with pytest.raises(ShapeError, match="quantised product"):
            native.product(*case)
    assert native.product(x, panels, None, slice(7, 7)).shape == (3, 0)
    assert native.product(x[:0], panels, bias).shape == (0, 40)


@needs_native
def test_the_kernels_run_on_torchs_threads():
    """Of its OpenMP, found through what torch is linked with; a second one would double the threads of a process."""
    x, weight, _ = operands(3, 8, 2000, 300, 8)
    panels = to_panels(*weight)
    assert torch_threads() is not None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.mm(torch.randn(500, 500), torch.randn(500, 500)), torch.rand(10**6).exp_()
        threads = set(os.listdir("/proc/self/task"))
        found = native.product(x, panels)
        assert set(os.listdir("/proc/self/task")) == threads
        assert len(threads) >= 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(native.product(x, panels), found)
