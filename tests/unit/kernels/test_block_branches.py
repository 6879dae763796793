"""What a block computes between its two products, compiled for this CPU, against its definition in float64."""

from __future__ import annotations

import random

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.block_branches import native, reference
from chexmix_cli.core.kernels.decode_attention import native as attention
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import DecoderSettings

pytestmark = pytest.mark.skipif(not attention.is_usable(), reason="the kernels in C do not run here")


@pytest.fixture(autouse=True)
def inference(monkeypatch):
    monkeypatch.delenv("CHEXMIX_KERNELS", raising=False)
    with torch.inference_mode():
        yield


def given(rows, heads, new, start, size, half, mlp, *, tables=None, masks=None, seed=0):
    """Return the arguments of a pass: a product, tables, a layer of a cache that is longer, a mask with a gap."""
    generator = torch.Generator().manual_seed(seed)
    fused = 2 * torch.randn(rows, new, 3 * heads * size + mlp, generator=generator)
    angle = torch.randn(tables or rows, 1, new, half, generator=generator)
    buffer = torch.randn(2, rows, heads, start + new + 3, size, generator=generator)
    mask = torch.ones(masks or rows, new, start + new, dtype=torch.bool).tril(start)
    mask[0, :, start // 3 : start // 2] = False
    return fused, angle.cos(), angle.sin(), *buffer.unbind(), mask, start


def shapes(count):
    """Return random shapes: rows, heads, new positions, those before, size of a head, rotary half, the other branch."""
    draw = random.Random(5)
    for _ in range(count):
        size = 8 * draw.randint(1, 16)
        new = draw.randint(1, attention.MOST_NEW[torch.float32])
        rows, heads, start = draw.randint(1, 3), draw.randint(1, 4), draw.randint(0, 150)
        yield rows, heads, new, start, size, draw.randint(0, size // 2), 8 * draw.randint(0, 20)


@pytest.mark.parametrize("shape", list(shapes(16)), ids=str)
def test_it_computes_what_the_definition_computes(shape):
    """No further from float64 than torch in float32, to twice its error; the cache to the bit."""
    odd = shape[2] % 2
    fused, cos, sin, keys, values, mask, start = given(*shape, tables=1 if odd else None, masks=None if odd else 1)
    assert native.takes(fused, shape[1] * shape[4], shape[4])
    for seen in (mask, None):
        caches = [(keys.clone(), values.clone()) for _ in range(2)]
        found = native.branches(fused, cos, sin, *caches[0], seen, start)
        torchs = reference.branches(fused, cos, sin, *caches[1], seen, start)
        wide = [x.double() for x in (fused, cos, sin, keys, values)]
        exact = reference.branches(*wide, seen, start)
        assert (found.shape, found.dtype) == (exact.shape, torch.float32)
        lost = float((torchs.double() - exact).abs().max())
        assert float((found.double() - exact).abs().max()) <= 2 * lost + 1e-6
        for own, theirs, before in zip(*caches, (keys, values), strict=True):
            assert torch.equal(own, theirs)
            assert not torch.equal(own, before), "negative control: something is written"


def test_gelu_of_any_number_is_torchs():
    numbers = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-38, -1e-38, 80, -80, 1e20, -1e20])))
    numbers = torch.nn.functional.pad(numbers, (0, -len(numbers) % 8))
    fused, cos, sin, keys, values, _, start = given(1, 1, 1, 4, 8, 2, len(numbers))
    fused[..., 24:] = numbers
    found = native.branches(fused, cos, sin, keys, values, None, start)[0, 0, 8:]
    exact = torch.nn.functional.gelu(numbers.double(), approximate="tanh")
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-9)
    fused[..., 24:27] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    found = native.branches(fused, cos, sin, keys, values, None, start)[0, 0, 8:11]
    assert found[0] == torch.inf
    assert found[1:].isnan().all(), "as torch, which multiplies minus infinity by nothing"


def test_a_positions_bits_hang_on_nothing_beside_it(threads):
    """The last of nine drafts gives what a pass over it alone gives: drafts change no digit of a report."""
    fused, cos, sin, keys, values, _, start = given(3, 4, 9, 200, 80, 16, 64)
    mask = torch.ones(1, 9, 209, dtype=torch.bool).tril(200)
    together = native.branches(fused, cos, sin, keys, values, mask, start)
    for place in range(9):
        here = slice(place, place + 1)
        one = (fused[:, here].contiguous(), cos[:, :, here].contiguous(), sin[:, :, here].contiguous())
        alone = native.branches(*one, keys, values, None, start + place)
        assert torch.equal(alone[:, 0], together[:, place])
    for row in range(3):
        own = [x[row : row + 1] for x in (fused, cos, sin, keys, values)]
        assert torch.equal(native.branches(*own, mask, start), together[row : row + 1])
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(native.branches(fused, cos, sin, keys, values, mask, start), together)


def test_what_does_not_fit_is_refused():
    fused, cos, sin, keys, values, mask, start = given(2, 2, 3, 20, 16, 4, 8)
    for wrong in (
        (fused[:1], cos, sin, keys, values, mask, start),
        (fused, cos[:, :, :2], sin, keys, values, mask, start),
        (fused, cos.double(), sin, keys, values, mask, start),
        (fused, cos, sin, keys, values[:, :1], mask, start),
        (fused, cos, sin, keys.transpose(2, 3), values, mask, start),
        (fused, cos, sin, keys, values, mask[:, :2], start),
        (fused, cos, sin, keys, values, mask.float(), start),
        (fused, cos, sin, keys, values, None, start + 4),
        (fused, cos, sin, keys, values, None, -1),
    ):
        with pytest.raises(ShapeError, match="block branches"):
            native.branches(*wrong)


def test_other_products_and_gradients_are_torchs(monkeypatch):
    fused = given(2, 2, 3, 20, 16, 4, 8)[0]
    assert native.takes(fused, 32, 16)
    assert not native.takes(fused, 24, 12)
    assert not native.takes(torch.nn.functional.pad(fused, (0, 4)), 32, 16)
    assert not native.takes(fused.bfloat16(), 32, 16)
    assert not native.takes(fused.transpose(0, 1), 32, 16)
    assert not native.takes(torch.zeros(1, 17, 104), 32, 16)
    with torch.inference_mode(False), torch.enable_grad():
        assert not native.takes(fused, 32, 16)
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    assert not native.takes(fused, 32, 16)


def test_a_decoder_reads_as_it_does_with_torch(monkeypatch):
    """Behind a prompt, one token and nine drafts of two reports; with ``CHEXMIX_KERNELS=torch`` nothing is compiled."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp_size": 64, "rotary_size": 8}
    settings = DecoderSettings(num_rows=50, max_positions=64, **sizes)
    decoder = Decoder(settings).eval()
    calls, branches = [], native.branches
    monkeypatch.setattr(native, "branches", lambda *given: calls.append(1) or branches(*given))
    ids = torch.randint(50, (2, 30))

    def states():
        cache = decoder.new_cache(2, 40)
        return torch.cat([decoder(part, cache=cache) for part in ids.split([20, 1, 9], dim=1)], dim=1)

    found = states()
    assert len(calls) == 2 * settings.num_layers
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    torch.testing.assert_close(found, states(), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2 * settings.num_layers


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
