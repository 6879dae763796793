"""The image tokenizer's losses against NumPy, and whom their gradients reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chexmix_cli.core.train.image_tokenizer.discriminator import PatchDiscriminator
from chexmix_cli.core.train.image_tokenizer.reconstruction import (
    edge_difference,
    focal_frequency,
    hinge_discriminator,
    hinge_generator,
)


def random_pair(shape: tuple[int, ...] = (2, 3, 12, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_edge_difference_is_that_of_numpy():
    rebuilt, original = random_pair()
    error = (rebuilt - original).numpy()
    expected = np.abs(np.diff(error, axis=2))[..., :-1] + np.abs(np.diff(error, axis=3))[:, :, :-1]
    np.testing.assert_allclose(edge_difference(rebuilt, original).numpy(), expected, atol=1e-6)


def test_edge_difference_ignores_a_constant_offset_and_sees_an_edge():
    flat = torch.zeros(1, 1, 4, 4)
    assert edge_difference(flat + 0.3, flat).abs().max() == 0
    edge = flat.clone()
    edge[..., 2:] = 1.0
    assert edge_difference(edge, flat).sum() == 3.0


def test_focal_frequency_is_that_of_numpy():
    rebuilt, original = random_pair()
    spectrum = np.fft.fft2(rebuilt.double().numpy()) - np.fft.fft2(original.double().numpy())
    size = np.abs(spectrum) / np.sqrt(12 * 10)
    expected = size / size.max(axis=(2, 3), keepdims=True) * size**2
    np.testing.assert_allclose(focal_frequency(rebuilt, original).numpy(), expected, rtol=2e-4, atol=1e-6)


def test_focal_frequency_of_equal_pictures_is_nothing_with_a_finite_gradient():
    original, _ = random_pair()
    rebuilt = original.clone().requires_grad_()
    term = focal_frequency(rebuilt, original).mean()
    term.backward()
    assert term == 0
    assert torch.equal(rebuilt.grad, torch.zeros_like(original))


def test_the_weight_of_a_frequency_carries_no_gradient():
    """With fixed weights the loss is quadratic: its gradient is that of the weighted square alone."""
    rebuilt, original = (tensor.double() for tensor in random_pair())
    rebuilt.requires_grad_()
    focal_frequency(rebuilt, original).sum().backward()
    spectrum = torch.fft.fft2((rebuilt - original).detach(), norm="ortho")
    weight = spectrum.abs() / spectrum.abs().amax(dim=(-2, -1), keepdim=True)
    expected = 2 * torch.fft.ifft2(weight * spectrum, norm="ortho").real
    torch.testing.assert_close(rebuilt.grad, expected)


def test_a_grating_left_out_weighs_more_than_noise_of_the_same_energy():
    generator = torch.Generator().manual_seed(0)
    grating = torch.sin(torch.arange(32) * torch.pi / 2).expand(1, 1, 32, 32)
    noise = torch.randn(1, 1, 32, 32, generator=generator)
    noise = noise * (grating.square().mean() / noise.square().mean()).sqrt()
    nothing = torch.zeros_like(grating)
    assert focal_frequency(nothing, grating).mean() > 1.5 * focal_frequency(nothing, noise).mean()


def test_hinge_terms_by_hand():
    real, fake = torch.tensor([2.0, 0.25, -1.0]), torch.tensor([-2.0, 0.5, -0.5])
    assert hinge_discriminator(real, fake).tolist() == [0.0, 0.5 * (0.75 + 1.5), 0.5 * (2.0 + 0.5)]
    assert hinge_generator(fake).tolist() == [2.0, -0.5, 0.5]


def test_a_patch_score_sees_34_pixels_and_its_own_image_only():
    torch.manual_seed(0)
    judge = PatchDiscriminator(1, 8).double()
    pixels = torch.randn(2, 1, 48, 48, dtype=torch.float64, requires_grad=True)
    scores = judge(pixels)
    assert scores.shape == (2, 1, 10, 10)
    # GroupNorm looks at the whole picture; without it the field of a patch is what its convolutions see.
    judge.norm2 = judge.norm3 = torch.nn.Identity()
    (gradient,) = torch.autograd.grad(judge(pixels)[0, 0, 5, 5], pixels)
    rows = gradient[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 34
    assert gradient[1].abs().max() == 0


def test_judging_reaches_the_pixels_and_never_the_judge():
    torch.manual_seed(0)
    judge = PatchDiscriminator(1, 8)
    pixels = torch.randn(1, 1, 32, 32, requires_grad=True)
    assert torch.equal(judge.judge(pixels), judge(pixels))
    hinge_generator(judge.judge(pixels)).mean().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    hinge_discriminator(judge(pixels.detach()), torch.zeros(())).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in judge.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_judged_alone(channels):
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels, 8)
    pixels = torch.randn(3, channels, 32, 32)
    torch.testing.assert_close(judge(pixels)[1:2], judge(pixels[1:2]))
