"""The image tokenizer against a second one, written here from the architecture's description with einsum and unfold.

It shares no layer with the module and no norm or convolution with torch, reads the parameters by their checkpoint
names, and runs in float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.channels_last import native
from chexmix_cli.core.models.vqgan import Vqgan, layout
from chexmix_cli.core.settings.model import VqganSettings

SHAPES = {
    "released form": {"channels": 8, "channel_multipliers": (1, 1, 2, 2, 4), "num_res_blocks": 2, "image_channels": 3},
    "embedded form": {"channels": 8, "channel_multipliers": (1, 2, 4), "num_res_blocks": 1, "image_channels": 1},
    "one level": {"channels": 4, "channel_multipliers": (3,), "num_res_blocks": 1, "image_channels": 1},
}
#: Widths that the compiled convolution takes, and some that it leaves to torch.
WIDE = {"channels": 16, "channel_multipliers": (1, 2, 3), "num_res_blocks": 1, "image_channels": 1}
needs_native = pytest.mark.skipif(native.vector_bits() == 0, reason="the kernels are not compiled, or not for this CPU")


class Plain:
    """A VQGAN as a list of formulas over ``state_dict`` names."""

    def __init__(self, vqgan: Vqgan) -> None:
        self.settings = vqgan.settings
        self.p = {name: value.detach().double() for name, value in vqgan.state_dict().items()}

    def conv(self, name: str, x: Tensor, *, stride: int = 1, pads: tuple[int, int, int, int] | None = None) -> Tensor:
        weight = self.p[f"{name}.weight"]
        size = weight.shape[-1]
        left, right, top, bottom = pads if pads is not None else (size // 2,) * 4
        rows, columns = x.shape[2] + top + bottom, x.shape[3] + left + right
        padded = x.new_zeros(*x.shape[:2], rows, columns)
        padded[:, :, top : rows - bottom, left : columns - right] = x
        windows = padded.unfold(2, size, stride).unfold(3, size, stride)
        return torch.einsum("bcyxij,ocij->boyx", windows, weight) + self.p[f"{name}.bias"][:, None, None]

    def norm(self, name: str, x: Tensor) -> Tensor:
        groups = x.reshape(len(x), self.settings.num_groups, -1)
        centred = groups - groups.mean(dim=2, keepdim=True)
        scaled = centred / (centred.square().mean(dim=2, keepdim=True) + self.settings.norm_eps).sqrt()
        return scaled.view_as(x) * self.p[f"{name}.weight"][:, None, None] + self.p[f"{name}.bias"][:, None, None]

    def swish(self, x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    def residual(self, name: str, x: Tensor) -> Tensor:
        y = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", y)))
        has_shortcut = f"{name}.nin_shortcut.weight" in self.p
        return y + (self.conv(f"{name}.nin_shortcut", x) if has_shortcut else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        normed = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{letter}", normed).flatten(2) for letter in "qkv")
        weights = (torch.einsum("bcp,bcs->bps", q, k) / x.shape[1] ** 0.5).softmax(dim=2)
        return x + self.conv(f"{name}.proj_out", torch.einsum("bps,bcs->bcp", weights, v).reshape(x.shape))

    def middle(self, name: str, x: Tensor) -> Tensor:
        return self.residual(f"{name}.block_2", self.attention(f"{name}.attn_1", self.residual(f"{name}.block_1", x)))

    def latents(self, x: Tensor) -> Tensor:
        num_levels = len(self.settings.channel_multipliers)
        x = self.conv("encoder.conv_in", x.double())
        for level in range(num_levels):
            for block in range(self.settings.num_res_blocks):
                x = self.residual(f"encoder.down.{level}.block.{block}", x)
            if level < num_levels - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", x, stride=2, pads=(0, 1, 0, 1))
        x = self.conv("encoder.conv_out", self.swish(self.norm("encoder.norm_out", self.middle("encoder.mid", x))))
        return self.conv("quant_conv", x)

    def encode(self, x: Tensor) -> Tensor:
        z = self.latents(x).flatten(2)
        distance = (z[:, :, :, None] - self.p["quantize.embedding.weight"].T[None, :, None]).square().sum(dim=1)
        return distance.argmin(dim=2)

    def decode(self, codes: Tensor) -> Tensor:
        side = round(codes.shape[1] ** 0.5)
        z = self.p["quantize.embedding.weight"][codes].transpose(1, 2).reshape(len(codes), -1, side, side)
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", z)))
        for level in reversed(range(len(self.settings.channel_multipliers))):
            for block in range(self.settings.num_res_blocks + 1):
                x = self.residual(f"decoder.up.{level}.block.{block}", x)
            if level > 0:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", x)
        return self.conv("decoder.conv_out", self.swish(self.norm("decoder.norm_out", x)))


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def vqgan(request: pytest.FixtureRequest) -> Vqgan:
    built = Vqgan(VqganSettings(num_codes=50, code_size=6, latent_channels=5, num_groups=4, **request.param))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.5 + 0.5 * noise)
        # A codebook where the latents are, so that many codes are in use.
        z_ME = built.latents(_pixels(built)).permute(0, 2, 3, 1).flatten(0, 2)
        noise_KE = torch.randn(built.quantize.embedding.weight.shape, generator=generator)
        built.quantize.embedding.weight.copy_(z_ME.mean(dim=0) + z_ME.std(dim=0) * noise_KE)
    return built.eval()


def _pixels(vqgan: Vqgan) -> Tensor:
    side = 4 * vqgan.settings.downsampling
    generator = torch.Generator().manual_seed(6)
    return torch.rand(3, vqgan.settings.image_channels, side, side, generator=generator) * 2 - 1


@pytest.fixture
def pixels(vqgan: Vqgan) -> Tensor:
    return _pixels(vqgan)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def test_it_is_the_plain_one(vqgan, pixels):
    plain = Plain(vqgan)
    assert difference(vqgan.latents(pixels), plain.latents(pixels)) < 1e-5
    codes = vqgan.encode(pixels)
    assert (codes.shape, codes.dtype) == ((3, 16), torch.int64)
    assert len(codes.unique()) > 5, "the random tokenizer uses too few codes to show anything"
    assert torch.equal(codes, plain.encode(pixels))
    assert difference(vqgan.decode(codes), plain.decode(codes)) < 1e-5


@torch.inference_mode()
def test_the_measure_finds_every_parameter_that_is_dropped(vqgan, pixels):
    plain = Plain(vqgan)
    codes = vqgan.encode(pixels)
    latents, picture = plain.latents(pixels), plain.decode(codes)
    for name, parameter in vqgan.named_parameters():
        kept = parameter.clone()
        parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        found = difference(vqgan.latents(pixels), latents), difference(vqgan.decode(codes), picture)
        # The key's bias adds the same to every cell's score: softmax takes it out again.
        if name.endswith("attn_1.k.bias"):
            assert max(found) < 1e-5
        else:
            assert max(found) > 1e-4, f"{name} has no influence"
        parameter.copy_(kept)
    assert difference(vqgan.latents(pixels), latents) < 1e-5


@torch.inference_mode()
def test_images_do_not_depend_on_their_batch(vqgan, pixels):
    together = vqgan.latents(pixels)
    for row in range(3):
        assert difference(vqgan.latents(pixels[row : row + 1]), together[row : row + 1]) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("vqgan", [SHAPES["released form"]], indirect=True)
def test_float32_keeps_its_digits_where_means_are_large(vqgan, kernels, monkeypatch):
    """Channel means far from 0, as trained networks have them, are where a one-pass variance loses digits."""
    monkeypatch.setenv("CHEXMIX_KERNELS", kernels)
    vqgan.encoder.conv_in.bias.fill_(20.0)
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    assert difference(vqgan.latents(pixels), Plain(vqgan).latents(pixels)) < 1e-5
    is_compiled = kernels == "auto" and native.vector_bits() > 0
    assert layout(pixels) == (torch.channels_last if is_compiled else torch.contiguous_format)


@needs_native
@torch.inference_mode()
@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("vqgan", [WIDE], indirect=True)
def test_compiled_layers_give_what_torch_gives(vqgan, side, monkeypatch):
    """Sides that are whole tiles of the convolution and such that are not; levels that have enough of them and not."""
    generator = torch.Generator().manual_seed(side)
    pixels = torch.rand(2, 1, 4 * side, 4 * side + 12, generator=generator) * 2 - 1
    called = []
    convolution = native.convolution
    monkeypatch.setattr(native, "convolution", lambda *given: called.append(given) or convolution(*given))
    wanted = Plain(vqgan).latents(pixels)
    found, codes = vqgan.latents(pixels), vqgan.encode(pixels)
    picture = vqgan.decode_latents(found)
    # Those of the finest level: two of the encoder, twice; of the decoder four and the one that doubles to it.
    assert len(called) == 2 * 2 + 5
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    assert difference(found, wanted) < 1e-5
    assert difference(vqgan.latents(pixels), wanted) < 1e-5
    assert torch.equal(codes, vqgan.encode(pixels))
    assert difference(picture, vqgan.decode_latents(found)) < 1e-5


@needs_native
def test_gradients_come_from_torch_and_say_the_same(monkeypatch):
    """Where gradients are recorded no compiled layer computes, and losses are those of a pass without."""
    torch.manual_seed(3)
    vqgan = Vqgan(VqganSettings(num_codes=50, code_size=6, latent_channels=5, num_groups=4, **WIDE))
    pixels = _pixels(vqgan)
    assert layout(pixels) == torch.contiguous_format
    recorded = vqgan.decode_latents(vqgan.latents(pixels))
    recorded.square().mean().backward()
    with torch.no_grad():
        assert layout(pixels) == torch.channels_last
        assert difference(vqgan.decode_latents(vqgan.latents(pixels)), recorded.detach()) < 1e-5
    found = {name: parameter.grad.clone() for name, parameter in vqgan.named_parameters() if parameter.grad is not None}
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    vqgan.zero_grad()
    vqgan.decode_latents(vqgan.latents(pixels)).square().mean().backward()
    assert found
    for name, gradient in found.items():
        assert torch.equal(dict(vqgan.named_parameters())[name].grad, gradient), name


@torch.inference_mode()
def test_bfloat16_runs_channels_last_and_stays_close(vqgan, pixels):
    expected = vqgan.latents(pixels)
    found = vqgan.bfloat16().latents(pixels.bfloat16())
    assert layout(pixels.bfloat16()) == torch.channels_last
    assert difference(found.float(), expected) < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        assert layout(pixels) == torch.channels_last


@pytest.mark.parametrize("vqgan", [SHAPES["released form"]], indirect=True)
def test_every_parameter_of_either_half_gets_a_gradient(vqgan, pixels):
    latents = vqgan.latents(pixels)
    weights = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    picture = vqgan.decode_latents(latents)
    target = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))
    ((latents * weights).sum() + (picture * target).sum()).backward()
    for name, parameter in vqgan.named_parameters():
        if name.startswith("quantize."):
            assert parameter.grad is None
        elif not name.endswith("attn_1.k.bias"):  # no gradient but rounding, see above
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("vqgan", [SHAPES["embedded form"]], indirect=True)
def test_codes_must_be_a_square(vqgan):
    with pytest.raises(ShapeError, match="15 codes; expected those of a square image"):
        vqgan.decode(torch.zeros(1, 15, dtype=torch.int64))


def test_parameter_names_are_the_released_ones():
    settings = VqganSettings(
        num_codes=8192,
        code_size=256,
        latent_channels=256,
        channels=128,
        channel_multipliers=(1, 1, 2, 2, 4),
        num_res_blocks=2,
        image_channels=3,
    )
    with torch.device("meta"):
        vqgan = Vqgan(settings)
    shapes = {name: tuple(parameter.shape) for name, parameter in vqgan.named_parameters()}
    assert settings.downsampling == 16
    assert round(sum(parameter.numel() for parameter in vqgan.parameters()) / 1e6, 1) == 68.7  # CHEXMIX.md
    assert shapes["encoder.down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["decoder.up.1.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert "encoder.down.4.downsample.conv.weight" not in shapes
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert shapes["quantize.embedding.weight"] == (8192, 256)
