"""Attention of new positions to a cache, compiled for this CPU, against its definition in float64."""

from __future__ import annotations

import random

import pytest
import torch

from chexmix_cli.core.kernels.decode_attention import native, op, reference

pytestmark = pytest.mark.skipif(not native.is_usable(), reason="the kernels in C do not run here")


@pytest.fixture(autouse=True)
def inference(monkeypatch):
    monkeypatch.delenv("CHEXMIX_KERNELS", raising=False)
    with torch.inference_mode():
        yield


def cached(rows, heads, new, places, size, dtype=torch.float32, *, masks=None, seed=0):
    """Return queries as a block makes them, keys and values out of a longer cache of all layers, a mask with a gap."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, new, heads, size, generator=generator).transpose(1, 2) * 3
    buffer = torch.randn(2, rows, heads, places + 3, size, generator=generator)
    keys, values = buffer.to(dtype).unbind()
    mask = torch.ones(masks or rows, new, places, dtype=torch.bool).tril(places - new)
    mask[0, :, places // 3 : places // 2] = False
    mask[:, torch.arange(new), places - new + torch.arange(new)] = True
    return q.to(dtype), keys[:, :, :places], values[:, :, :places], mask


def shapes(count, dtype):
    """Return random shapes: rows, heads, new positions, places, size of a head."""
    draw = random.Random(3)
    found = []
    for _ in range(count):
        new = draw.randint(1, native.MOST_NEW[dtype])
        found.append((draw.randint(1, 3), draw.randint(1, 4), new, new + draw.randint(0, 150), 8 * draw.randint(1, 32)))
    return found


@pytest.mark.parametrize(
    ("dtype", "shape"), [(dtype, shape) for dtype in native.MOST_NEW for shape in shapes(8, dtype)], ids=str
)
def test_it_mixes_what_the_definition_mixes(dtype, shape):
    """No further from float64 than torch in the same dtype, to twice its error."""
    q, keys, values, mask = cached(*shape, dtype, masks=1 if shape[2] % 2 else None)
    assert native.takes(q)
    for seen in (mask, None):
        exact = reference.attend(q.double(), keys.double(), values.double(), seen)
        lost = float((reference.attend(q, keys, values, seen).double() - exact).abs().max())
        found = op.attend(q, keys, values, seen)
        assert (found.shape, found.dtype) == (exact.shape, dtype)
        assert float((found.double() - exact).abs().max()) <= 2 * lost + 1e-6
        if shape[3] > shape[2] + 8:
            other = reference.attend(q.double(), keys.double(), values.double(), mask if seen is None else None)
            assert float((other - exact).abs().max()) > 0.02, "negative control: another mask"


def test_scores_of_any_size_do_not_overflow():
    """Scores of thousands, far below the largest, and alike: what exponentials could get wrong."""
    q, keys, values, _ = cached(1, 2, 3, 40, 16)
    for factor in (1e-3, 1.0, 1e4):
        exact = reference.attend((q * factor).double(), keys.double(), values.double(), None)
        torch.testing.assert_close(op.attend(q * factor, keys, values, None).double(), exact, rtol=2e-5, atol=2e-6)


def test_a_querys_bits_hang_on_nothing_beside_it(threads):
    """The last of nine drafts gives what a pass over it alone gives: drafts change no digit of a report."""
    q, keys, values, _ = cached(3, 4, 9, 203, 80)
    mask = torch.ones(1, 9, 203, dtype=torch.bool).tril(203 - 9)
    together = op.attend(q, keys, values, mask)
    for place in range(9):
        end = 203 - 9 + place + 1
        alone = op.attend(q[:, :, place : place + 1], keys[:, :, :end], values[:, :, :end], None)
        assert torch.equal(alone[:, 0], together[:, place])
    for row in range(3):
        assert torch.equal(op.attend(*(x[row : row + 1] for x in (q, keys, values)), mask), together[row : row + 1])
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(op.attend(q, keys, values, mask), together)


def test_what_nothing_attends_to_is_not_read():
    q, keys, values, mask = cached(1, 2, 3, 200, 16, masks=1)
    mask[..., 64:] = False
    expected = op.attend(q, keys, values, mask)
    keys[:, :, 64:], values[:, :, 64:] = torch.nan, torch.nan
    assert torch.equal(op.attend(q, keys, values, mask), expected)
    keys[:, :, 3] = torch.nan
    assert op.attend(q, keys, values, mask).isnan().all(), "negative control: what is attended to is read"


def test_a_query_that_attends_to_nothing_gets_zeros_as_torch_gives_them():
    """A row that is done, beside others in a batch of fixed shape."""
    q, keys, values, mask = cached(2, 2, 2, 30, 16)
    mask[1, 0] = False
    found = op.attend(q, keys, values, mask)
    assert torch.equal(found[1, 0], torch.zeros(2, 16))
    torch.testing.assert_close(found, reference.attend(q, keys, values, mask), rtol=1e-5, atol=1e-6)


def test_other_shapes_and_gradients_are_torchs():
    for new, size, dtype in (
        (17, 16, torch.float32),
        (5, 16, torch.bfloat16),
        (1, 20, torch.float32),
        (1, 16, torch.float16),
    ):
        given = cached(1, 2, new, 40, size, dtype)
        assert not native.takes(given[0])
        assert torch.equal(op.attend(*given), reference.attend(*given))
    given = cached(1, 2, 1, 40, 16)
    with torch.inference_mode(False), torch.enable_grad():
        assert not native.takes(given[0])


def test_the_kernels_can_be_switched_off(monkeypatch):
    given = cached(1, 2, 1, 40, 16)
    assert native.takes(given[0])
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    assert not native.takes(given[0])


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
