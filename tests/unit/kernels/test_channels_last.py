"""The image tokenizer's compiled layers: against their definition in float64, and no further from it than torch is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.channels_last import native, reference

pytestmark = pytest.mark.skipif(native.vector_bits() == 0, reason="the kernels are not compiled, or not for this CPU")
LAST = torch.channels_last
#: Errors in units of the largest output. Winograd's way adds up fewer numbers in a row and loses digits in its
#: transforms: together it is some times as far from float64 as a good sum in float32.
CONVOLUTION, NORM = 2e-5, 3e-6


def widths():
    return [bits for bits in (256, 512) if bits <= native.vector_bits()]


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def drawn(generator, *shape, scale=1.0, offset=0.0):
    return torch.randn(*shape, generator=generator) * scale + offset


def norm_of(generator, num_channels, num_groups, eps=1e-6):
    weights = drawn(generator, num_channels, offset=0.5), drawn(generator, num_channels)
    return native.NormWeights(num_groups, *weights, eps)


def widened(norm):
    return norm._replace(weight_C=norm.weight_C.double(), bias_C=norm.bias_C.double())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31),
    num_images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    panels=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    has_add=st.booleans(),
    has_norm=st.booleans(),
    weight_format=st.sampled_from([torch.contiguous_format, LAST]),
)
@example(
    seed=1,
    num_images=1,
    size=(33, 30),
    panels=(8, 8),
    has_add=True,
    has_norm=True,
    weight_format=torch.contiguous_format,
)
def test_the_convolution_is_what_is_defined(seed, num_images, size, panels, has_add, has_norm, weight_format):
    generator = torch.Generator().manual_seed(seed)
    num_in, num_out = (count * native.PANEL for count in panels)
    x = drawn(generator, num_images, num_in, *size, scale=3.0, offset=1.0).contiguous(memory_format=LAST)
    weight = drawn(generator, num_out, num_in, 3, 3, scale=(9 * num_in) ** -0.5).contiguous(memory_format=weight_format)
    bias = drawn(generator, num_out)
    add = drawn(generator, num_images, num_out, *size).contiguous(memory_format=LAST) if has_add else None
    norm = norm_of(generator, num_in, 4) if has_norm else None
    kept = x.clone()
    wide = (x.double(), weight.double(), bias.double(), None if add is None else add.double())
    expected = reference.convolution(*wide, None if norm is None else widened(norm))
    found = native.convolution(x, weight, bias, add, norm)
    assert found.is_contiguous(memory_format=LAST)
    # A group of few pixels may hardly vary: what its small variance loses, the norm passes on.
    assert difference(found, expected) < CONVOLUTION
    assert torch.equal(x, kept)
    for bits in widths():
        assert torch.equal(native.convolution(x, weight, bias, add, norm, bits=bits), found)
    one = seed % num_images
    alone = native.convolution(x[one : one + 1], weight, bias, None if add is None else add[one : one + 1], norm)
    assert torch.equal(alone[0], found[one])
    if num_images * size[0] * size[1] > 1:
        assert difference(found.flip(0, 2, 3), expected) > CONVOLUTION, "the measure finds pixels in the wrong place"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**31),
    num_images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(2, 40)),
    groups=st.tuples(st.integers(1, 8), st.integers(1, 9)),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    has_swish=st.booleans(),
)
@example(seed=1, num_images=2, size=(70, 61), groups=(32, 4), offset=3.0, has_swish=True)
def test_the_norm_is_what_is_defined(seed, num_images, size, groups, offset, has_swish):
    generator = torch.Generator().manual_seed(seed)
    num_groups, width = groups
    x = drawn(generator, num_images, num_groups * width, *size, offset=offset).contiguous(memory_format=LAST)
    norm = norm_of(generator, num_groups * width, num_groups)
    kept = x.clone()
    expected = reference.group_norm(x.double(), widened(norm), has_swish=has_swish)
    found = native.group_norm(x, norm, has_swish=has_swish)
    assert found.is_contiguous(memory_format=LAST)
    # x is rounded already: a mean of 100 times its deviation leaves two digits less.
    assert difference(found, expected) < NORM * (1 + offset * 4)
    assert torch.equal(x, kept)
    for bits in widths():
        assert torch.equal(native.group_norm(x, norm, has_swish=has_swish, bits=bits), found)
    one = seed % num_images
    assert torch.equal(native.group_norm(x[one : one + 1], norm, has_swish=has_swish)[0], found[one])
    without = norm._replace(bias_C=torch.zeros_like(norm.bias_C))
    assert difference(native.group_norm(x, without, has_swish=has_swish), expected) > NORM, "a bias left out is seen"


def test_the_convolution_is_about_as_near_to_float64_as_torchs():
    """Its points are chosen for that: with 1 and 2 in place of 5/8 and 3/2 it would be twice as far."""
    generator = torch.Generator().manual_seed(5)
    x = drawn(generator, 1, 128, 40, 40).contiguous(memory_format=LAST)
    weight, bias = drawn(generator, 128, 128, 3, 3, scale=1152**-0.5), drawn(generator, 128)
    expected = reference.convolution(x.double(), weight.double(), bias.double())
    error = (native.convolution(x, weight, bias).double() - expected).square().mean().sqrt()
    assert float(error / expected.square().mean().sqrt()) < 1.5e-6


def test_the_variance_is_taken_where_means_are_large():
    """A sum of squares in float32 would leave nothing of it: a mean of 3,000 with a deviation of 1."""
    generator = torch.Generator().manual_seed(5)
    x = drawn(generator, 1, 32, 64, 64, offset=3000.0).contiguous(memory_format=LAST)
    norm = norm_of(generator, 32, 8)
    expected = reference.group_norm(x.double(), widened(norm), has_swish=False)
    assert difference(native.group_norm(x, norm, has_swish=False), expected) < 2e-4


def test_swish_is_right_for_numbers_of_every_size_and_says_what_is_not_finite():
    x = torch.cat([torch.linspace(-120, 120, 4096), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30])])
    # A group with mean 0 and variance 1 beside: scale 1, shift 0.
    weight, bias = torch.ones(1), torch.zeros(1)
    found = []
    for value in x.tolist():
        pair = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
        found.append(
            native.group_norm(pair, native.NormWeights(1, weight * value, bias, 0.0), has_swish=True)[0, 0, 0, 0]
        )
    expected = torch.nn.functional.silu(x.double())
    off = (torch.stack(found).double() - expected).abs()
    assert bool((off <= 2e-7 * expected.abs() + 1e-35).all())
    for wrong in (float("nan"), float("inf")):
        damaged = torch.ones(2, 16, 8, 8).contiguous(memory_format=LAST)
        damaged[1, 3, 2, 2] = wrong
        norm = native.NormWeights(4, torch.ones(16), torch.zeros(16), 1e-6)
        found = native.group_norm(damaged, norm, has_swish=True)
        assert bool(found[1, :4].isnan().all())
        assert bool(found[0].isfinite().all())
        convolved = native.convolution(damaged, torch.ones(16, 16, 3, 3), torch.zeros(16), None, norm)
        assert bool(convolved[1].isnan().any())
        assert bool(convolved[0].isfinite().all())


def test_no_digit_depends_on_threads():
    generator = torch.Generator().manual_seed(9)
    x = drawn(generator, 2, 48, 45, 50).contiguous(memory_format=LAST)
    weight, bias, norm = drawn(generator, 80, 48, 3, 3), drawn(generator, 80), norm_of(generator, 48, 6)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append((native.convolution(x, weight, bias, None, norm), native.group_norm(x, norm, has_swish=True)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_what_would_be_read_past_is_refused():
    x = torch.randn(2, 16, 6, 6).contiguous(memory_format=LAST)
    weight, bias, norm = (
        torch.randn(32, 16, 3, 3),
        torch.randn(32),
        native.NormWeights(4, torch.ones(16), torch.ones(16), 1e-6),
    )
    wrong = [
        (x.contiguous(), weight, bias, None, None),
        (x.double(), weight, bias, None, None),
        (x, weight[:, :8], bias, None, None),
        (x, weight[:31], bias[:31], None, None),
        (x, weight[..., :1], bias, None, None),
        (x, weight, bias[:31], None, None),
        (x, weight, bias, x, None),
        (x, weight, bias, None, norm._replace(num_groups=3)),
        (x, weight, bias, None, norm._replace(bias_C=torch.ones(15))),
    ]
    for case in wrong:
        with pytest.raises(ShapeError, match="convolution|group norm"):
            native.convolution(*case)
    for other in (norm._replace(num_groups=0), norm._replace(weight_C=torch.ones(32)[::2])):
        with pytest.raises(ShapeError, match="group norm"):
            native.group_norm(x, other, has_swish=True)
    assert native.convolution(x[:0], weight, bias, None, norm).shape == (0, 32, 6, 6)


def test_a_size_is_worth_the_transformation_of_its_weights_or_not():
    """Whatever the batch, so that no image depends on those beside it; and only what panels take."""
    weight = torch.empty(32, 16, 3, 3)
    assert native.convolves(torch.empty(1, 16, 32, 13), weight)
    assert not native.convolves(torch.empty(9, 16, 32, 12), weight)
    assert not native.convolves(torch.empty(1, 16, 32, 32), weight[:8])
    assert not native.convolves(torch.empty(1, 16, 32, 32), weight[..., :1, :1])
    assert not native.convolves(torch.empty(1, 16, 32, 32), weight.double())


def test_they_compute_where_nothing_is_recorded_in_float32(monkeypatch):
    x = torch.randn(1, 16, 4, 4)
    assert torch.is_grad_enabled()
    assert not native.runs_on(x)
    with torch.no_grad():
        assert native.runs_on(x)
        assert not native.runs_on(x.bfloat16())
        assert not native.runs_on(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not native.runs_on(x)
        monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
        assert not native.runs_on(x)
