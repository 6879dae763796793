"""The fused nearest code against its definition in float64."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.nearest_code import op, reference

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Magnitudes far apart: a wrong norm shows.
    return (torch.randn(shape, generator=generator) * torch.logspace(-1, 1, shape[-1])).to(dtype)


def excess(z: torch.Tensor, codebook: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return how much farther than the nearest each chosen code is, in float64, as a share of the distances' scale."""
    wide, rows = z.double().cpu(), codebook.double().cpu()
    distance = torch.cdist(wide, rows).square()
    scale = wide.square().sum(dim=1) + rows.square().sum(dim=1).max()
    return (distance.gather(1, codes.cpu()[:, None])[:, 0] - distance.min(dim=1).values) / scale


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("num_latents", "num_codes", "size"), [(1, 1, 1), (65, 127, 31), (31, 257, 64), (3, 64, 257), (5, 2500, 16)]
)
def test_it_finds_the_nearest_as_well_as_the_reference(device, dtype, num_latents, num_codes, size):
    z = draw(num_latents, size, seed=0, dtype=dtype).to(device)
    codebook = draw(num_codes, size, seed=1, dtype=dtype).to(device)
    before = z.clone(), codebook.clone()
    found = op.nearest_code(z, codebook)
    assert found.dtype == torch.int64
    assert int(found.min()) >= 0
    assert int(found.max()) < num_codes
    ours, theirs = excess(z, codebook, found), excess(z, codebook, reference.nearest_code(z, codebook))
    assert float(ours.max()) <= 2 * float(theirs.max()) + 1e-7
    assert torch.equal(found, op.nearest_code(z, codebook)), "twice the same"
    assert torch.equal(z, before[0])
    assert torch.equal(codebook, before[1])


@pytest.mark.parametrize("place", [0, 40, 63, 64, 130, 190])
def test_ties_go_to_the_lowest_index_within_and_across_blocks(device, place):
    codebook = draw(200, 8, seed=2)
    codebook[place + 5] = codebook[place]
    codebook[199] = codebook[place]
    z = codebook[[place, 199, place + 5]]
    assert op.nearest_code(z.to(device), codebook.to(device)).tolist() == [place] * 3


def test_strides_are_followed_and_an_empty_batch_is_empty(device):
    z, codebook = draw(40, 24, seed=3).to(device), draw(50, 24, seed=4).to(device)
    expected = reference.nearest_code(z[::3, 4:15], codebook[::2, 4:15])
    assert torch.equal(op.nearest_code(z[::3, 4:15], codebook[::2, 4:15]), expected)
    assert torch.equal(op.nearest_code(z.T.contiguous().T, codebook), reference.nearest_code(z, codebook))
    assert op.nearest_code(z[:0], codebook).shape == (0,)


def test_mixed_dtypes_are_widened_and_others_refused(device):
    z, codebook = draw(33, 16, seed=5, dtype=torch.bfloat16).to(device), draw(70, 16, seed=6).to(device)
    assert torch.equal(op.nearest_code(z, codebook), reference.nearest_code(z, codebook))
    with pytest.raises(ShapeError, match=r"float64.*expected float32, bfloat16 or float16"):
        op.nearest_code(z.double(), codebook.double())
    with pytest.raises(ShapeError, match=r"expected \(M, E\) and \(K, E\)"):
        op.nearest_code(z, codebook[:, :3])


def test_the_check_would_see_a_kernel_without_the_codes_norm(device):
    """Negative control: the argmin of -2 z.e alone picks the longest rows."""
    z, codebook = draw(65, 31, seed=0), draw(127, 31, seed=1)
    wrong = (-2 * z @ codebook.T).argmin(dim=1)
    theirs = excess(z, codebook, reference.nearest_code(z, codebook))
    assert float(excess(z, codebook, wrong).max()) > 2 * float(theirs.max()) + 1e-7


@pytest.mark.parametrize("form", [op, reference], ids=["op", "reference"])
def test_autocast_does_not_round_the_search(device, form):
    """A product in bfloat16 takes many of these latents, which lie far from zero and about codes, to another one."""
    codebook = 4 + torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    z = codebook.repeat(4, 1) + 0.3 * torch.randn(2048, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.cdist(z.double(), codebook.double()).argmin(dim=1)
    z, codebook = z.to(device), codebook.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(form.nearest_code(z, codebook).cpu(), expected)
        rounded = (z.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1) - 2 * z @ codebook.T).argmin(1)
    assert (rounded.cpu() != expected).float().mean() > 0.05, "what a search in bfloat16 would do"


def test_the_op_is_registered_with_its_shape(device):
    z, codebook = draw(5, 8, seed=7).to(device), draw(9, 8, seed=8).to(device)
    torch.library.opcheck(torch.ops.chexmix.nearest_code, (z, codebook), test_utils="test_schema")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        made = torch.ops.chexmix.nearest_code(mode.from_tensor(z), mode.from_tensor(codebook))
    assert (tuple(made.shape), made.dtype) == ((5,), torch.int64)


def test_it_compiles_into_one_graph(device, in_one_graph):
    z, codebook = draw(40, 24, seed=3).to(device), draw(50, 24, seed=4).to(device)
    compiled = in_one_graph(lambda *inputs: op.nearest_code(*inputs) + 1)
    assert torch.equal(compiled(z, codebook), op.nearest_code(z, codebook) + 1)
