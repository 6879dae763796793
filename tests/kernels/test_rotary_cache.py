"""Rotation and cache write in one pass, against their definition in float64."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.rotary_cache import op, reference

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layer(rows, new, heads, size, half, dtype, device, *, tables=1, slots=None, seed=0):
    """Return a fused product with features behind the values, tables, and two caches full of old values."""
    generator = torch.Generator().manual_seed(seed)
    slots = slots or new + 5
    fused = torch.randn(rows, new, 3 * heads * size + 7, generator=generator)
    angle = torch.randn(tables, 1, new, half, generator=generator) * 3
    keys, values = torch.randn(2, rows, heads, slots, size, generator=generator).unbind()
    start = torch.randint(slots - new + 1, (rows,), generator=generator)
    return [*(x.to(device, dtype) for x in (fused, angle.cos(), angle.sin(), keys, values)), start.to(device)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "new", "heads", "size", "half", "tables"),
    [(1, 1, 1, 2, 1, 1), (2, 5, 3, 20, 4, 2), (3, 1, 9, 80, 16, 1), (1, 7, 2, 32, 16, 1), (1, 3, 2, 130, 5, 1)],
)
def test_it_writes_what_the_definition_writes(device, dtype, rows, new, heads, size, half, tables):
    given = layer(rows, new, heads, size, half, dtype, device, tables=tables)
    ours, theirs, exact = ([x.clone() for x in given] for _ in range(3))
    exact[:5] = [x.double() for x in exact[:5]]
    results = [
        (part(*arguments), *arguments[3:5])
        for part, arguments in (
            (op.rotate_and_cache, ours),
            (reference.rotate_and_cache, theirs),
            (reference.rotate_and_cache, exact),
        )
    ]
    for mine, plain, right in zip(*results, strict=True):
        lost = float((plain.double() - right).abs().max())
        assert float((mine.double() - right).abs().max()) <= 2 * lost + 1e-7
    assert all(torch.equal(mine, before) for mine, before in zip(ours[:3], given[:3], strict=True))
    # Values pass through, and slots beside the new ones stay as they were.
    assert torch.equal(ours[4], theirs[4])
    is_new = torch.zeros(rows, given[3].shape[2], dtype=torch.bool, device=device)
    for row, first in enumerate(given[5].tolist()):
        is_new[row, first : first + new] = True
    assert torch.equal(ours[3].transpose(1, 2)[~is_new], given[3].transpose(1, 2)[~is_new])
    assert not torch.equal(ours[3], given[3])


def test_the_check_would_see_another_pairing_and_another_slot(device):
    """Negative controls: neighbours paired instead of halves, and a cache written one slot off."""
    given = layer(2, 5, 3, 20, 4, torch.float32, device, tables=2)
    right = reference.rotate_and_cache(*[x.clone() for x in given])
    x = given[0][..., :60].view(2, 5, 3, 20).transpose(1, 2)
    cos, sin = given[1], given[2]
    wrong = torch.stack((x[..., 0:8:2] * cos - x[..., 1:8:2] * sin, x[..., 1:8:2] * cos + x[..., 0:8:2] * sin), -1)
    assert float((wrong.flatten(-2) - right[..., :8]).abs().max()) > 0.1
    ours, moved = [x.clone() for x in given], [x.clone() for x in given]
    moved[5] = moved[5] + torch.where(moved[5] > 0, -1, 1)
    op.rotate_and_cache(*ours)
    op.rotate_and_cache(*moved)
    assert not torch.equal(ours[3], moved[3])


def test_it_follows_the_strides_of_a_cache_of_all_layers(device):
    given = layer(2, 3, 4, 16, 8, torch.float32, device)
    buffers = torch.zeros(2, 5, 3, 4, 8, 16, device=device)  # keys and values, layers, rows, heads, slots, features
    keys, values = buffers[0, 3, :2], buffers[1, 3, :2]
    keys.copy_(given[3])
    values.copy_(given[4])
    q = op.rotate_and_cache(*given[:3], keys, values, given[5])
    expected = [x.clone() for x in given]
    torch.testing.assert_close(q, reference.rotate_and_cache(*expected))
    torch.testing.assert_close(keys, expected[3])
    assert torch.equal(values, expected[4])
    assert not buffers[:, :3].any()
    assert not buffers[:, 3, 2].any()


def test_what_does_not_fit_is_refused(device):
    given = layer(2, 3, 4, 16, 8, torch.float32, device)
    with pytest.raises(ShapeError, match=r"expected \(B, T, X\), two \(B or 1, 1, T, R\)"):
        op.rotate_and_cache(given[0][..., :100], *given[1:])
    with pytest.raises(ShapeError, match="of one dtype"):
        op.rotate_and_cache(given[0].half(), *given[1:])
    with pytest.raises(ShapeError, match="at most 256, float32, bfloat16 or float16, features side by side"):
        op.rotate_and_cache(*(x.double() for x in given[:5]), given[5])


def test_it_is_registered_with_what_it_changes_and_compiles_into_one_graph(device, in_one_graph):
    given = layer(2, 3, 4, 16, 8, torch.float32, device)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.chexmix.rotate_and_cache, tuple(x.clone() for x in given), test_utils=tests)
    ours, theirs = [x.clone() for x in given], [x.clone() for x in given]
    compiled = in_one_graph(lambda *x: op.rotate_and_cache(*x) + 1)
    assert torch.equal(compiled(*ours), op.rotate_and_cache(*theirs) + 1)
    assert torch.equal(ours[3], theirs[3])
