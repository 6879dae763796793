"""Attention of a few new positions to a cache, shared among programs, against its definition in float64."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.decode_attention import op, reference, tuning

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def cached(rows, heads, new, places, size, dtype, device, *, masks=None, seed=0):
    """Return queries, keys and values out of a longer cache of all layers, and a mask with a gap in it."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, new, heads, size, generator=generator).transpose(1, 2) * 3
    buffer = torch.randn(2, rows, heads, places + 3, size, generator=generator)
    keys, values = buffer.to(device, dtype).unbind()
    mask = torch.ones(masks or rows, new, places, dtype=torch.bool).tril(places - new)
    mask[0, :, places // 3 : places // 2] = False
    if masks != 1:
        mask[-1] = torch.eye(new, places, dtype=torch.bool)  # a row that is done sees itself alone
    return q.to(device, dtype), keys[:, :, :places], values[:, :, :places], mask.to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "heads", "new", "places", "size", "masks"),
    [(1, 1, 1, 1, 2, 1), (3, 2, 9, 150, 20, 3), (2, 3, 1, 70, 80, 1), (1, 2, 16, 33, 64, 1)],
)
def test_it_mixes_what_the_definition_mixes(device, dtype, rows, heads, new, places, size, masks):
    q, keys, values, mask = cached(rows, heads, new, places, size, dtype, device, masks=masks)
    for seen in (mask, None):
        exact = reference.attend(q.double(), keys.double(), values.double(), seen)
        lost = float((reference.attend(q, keys, values, seen).double() - exact).abs().max())
        found = op.attend(q, keys, values, seen)
        assert (found.shape, found.dtype) == (exact.shape, dtype)
        assert float((found.double() - exact).abs().max()) <= 2 * lost + 2e-6 * float(values.abs().max())
        if places > 1:
            other = reference.attend(q.double(), keys.double(), values.double(), mask if seen is None else None)
            assert float((other - exact).abs().max()) > 0.05, "negative control: another mask"


def test_more_blocks_than_are_joined_at_once(device, monkeypatch):
    q, keys, values, mask = cached(2, 1, 2, 300, 16, torch.float16, device)
    whole = op.attend(q, keys, values, mask)
    monkeypatch.setattr(op, "JOIN_CONFIGS", (tuning.JoinConfig(block_j=2, block_h=64),))
    torch.testing.assert_close(op.attend(q, keys, values, mask), whole, rtol=1e-3, atol=1e-3)


def test_what_nothing_attends_to_is_not_read(device):
    """Not-a-number in positions that a whole block of the mask leaves out, which zero times would not undo."""
    q, keys, values, mask = cached(1, 2, 1, 200, 16, torch.float16, device, masks=1)
    mask[..., 64:] = False
    expected = op.attend(q, keys, values, mask)
    keys[:, :, 128:], values[:, :, 128:] = torch.nan, torch.nan
    assert torch.equal(op.attend(q, keys, values, mask), expected)


def test_a_rows_bits_hang_on_no_row_beside_it(device):
    q, keys, values, mask = cached(3, 2, 4, 100, 32, torch.float16, device)
    together = op.attend(q, keys, values, mask)
    alone = [op.attend(*(x[row : row + 1] for x in (q, keys, values, mask))) for row in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_many_positions_and_wide_heads_are_torchs(device, monkeypatch):
    monkeypatch.delattr(torch.ops.chexmix, "decode_attention", raising=False)
    for new, size in ((17, 16), (1, 130)):
        given = cached(1, 2, new, 40, size, torch.float32, device)
        assert torch.equal(op.attend(*given), reference.attend(*given))


def test_what_does_not_fit_is_refused(device):
    q, keys, values, mask = cached(2, 2, 3, 20, 16, torch.float32, device)
    for wrong in (
        (q[..., :8], keys, values, mask),
        (q.half(), keys, values, mask),
        (q, keys, values[:, :, 1:], mask),
        (q, keys, values, mask[..., 1:]),
        (q, keys, values, mask.float()),
    ):
        with pytest.raises(ShapeError, match=r"expected \(B, N, T, H\), two \(B, N, S, H\) of one dtype"):
            op.attend(*wrong)
    assert op.attend(q[:, :, :0], keys, values, mask[:, :0]).shape == (2, 0, 2, 16)


def test_it_is_registered_and_compiles_into_one_graph(device, in_one_graph):
    given = cached(2, 1, 2, 20, 16, torch.float32, device)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.chexmix.decode_attention, given, test_utils=tests)
    compiled = in_one_graph(lambda *x: op.attend(*x) + 1)
    assert torch.equal(compiled(*given), op.attend(*given) + 1)
