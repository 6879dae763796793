"""Products with weights of 8 and 4 bits on a card, against float64 with the numbers that the weights stand for."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.quantized import op, reference, tuning
from chexmix_cli.core.kernels.quantized.panels import Panels, restored, to_panels

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NARROW = {8: reference.quantize_8, 4: reference.quantize_4}
#: Rows of each way: both blocks of the kernel, and restored weights.
ROWS = (1, 8, 11, tuning.MOST_ROWS, tuning.MOST_ROWS + 1)


def layer(num_rows, num_out, num_in, bits, dtype, device, seed=0):
    """Return activations, panels, their numbers in float64, and a bias: rows and outputs of different size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((num_rows, num_in), (num_out, num_in), (num_out,))
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    sizes_O1 = 10 ** (2 * torch.rand(num_out, 1, generator=generator) - 2)
    weight[:, : num_in // 2] *= 4  # groups of different size, too
    narrow = NARROW[bits](weight * sizes_O1, where="test")
    held = to_panels(*narrow)
    panels = Panels(held.weight.to(device), held.scale.to(device), num_out, num_in)
    x = x * 10 ** torch.linspace(-1, 1, num_rows)[:, None]
    return x.to(device, dtype), panels, reference.restore(*narrow).double().to(device), bias.to(device, dtype)


def allowed(x, numbers, dtype):
    """Return what rounding to a dtype may cost each output of each row, (R, O): of the result and of what is summed."""
    reach = (x.double().abs() @ numbers.abs().T).amax(dim=1, keepdim=True)
    lost = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    return reach * lost + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_out", "num_in"), [(1, 1), (37, 45)])
def test_products_are_those_of_the_numbers(device, bits, dtype, num_out, num_in):
    for num_rows in ROWS:
        x, panels, numbers, bias = layer(num_rows, num_out, num_in, bits, dtype, device, seed=num_rows)
        exact = x.double() @ numbers.T
        limit = allowed(x, numbers, dtype)
        for rows in (None, slice(num_out // 3, num_out - num_out // 4)):
            at = slice(None) if rows is None else rows
            found = op.product(x, panels, bias[at], rows)
            assert found.dtype == dtype
            off = (found.double() - exact[:, at] - bias[at].double()).abs()
            assert bool((off <= limit + torch.finfo(dtype).eps * bias[at].double().abs()).all()), num_rows
            bare = op.product(x, panels, None, rows)
            assert bool(((bare.double() - exact[:, at]).abs() <= limit).all()), num_rows
        if num_in > 1:
            moved = numbers.roll(1, dims=1)
            assert not bool(((op.product(x, panels).double() - x.double() @ moved.T).abs() <= limit).all())


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_kernel_loses_no_more_than_torch_does(device, bits, dtype, monkeypatch):
    """Weights are multiplied as they are: torch rounds them to the dtype first."""
    x, panels, numbers, bias = layer(16, 70, 300, bits, dtype, device)
    exact = x.double() @ numbers.T + bias.double()
    ours = op.product(x, panels, bias)
    monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
    lost = [float((found.double() - exact).abs().mean()) for found in (ours, op.product(x, panels, bias))]
    assert lost[0] <= lost[1]


@pytest.mark.parametrize("bits", NARROW)
def test_many_panels_take_wider_blocks_and_give_the_same(device, bits, monkeypatch):
    x, panels, _, bias = layer(3, 100, 70, bits, torch.float16, device)
    narrow = op.product(x, panels, bias)
    monkeypatch.setattr(tuning, "MANY_PANELS", 1)
    assert tuning.config_for(torch.float16, 3, len(panels.weight)).block_p == 2
    torch.testing.assert_close(op.product(x, panels, bias), narrow, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_rows_bits_hang_on_no_row_beside_it(device, dtype):
    x, panels, _, bias = layer(8, 40, 90, 4, dtype, device)
    together = op.product(x, panels, bias)
    alone = torch.cat([op.product(x[row : row + 1], panels, bias) for row in range(8)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_out", "num_in"), [(1, 1), (37, 45), (64, 320)])
def test_weights_are_restored_bit_for_bit(device, bits, dtype, num_out, num_in):
    _, panels, numbers, _ = layer(1, num_out, num_in, bits, dtype, device)
    found = op.restored_weights(panels, dtype)
    assert torch.equal(found, restored(panels, dtype))
    assert torch.equal(found, numbers.to(dtype))
    assert found.any()


def test_pieces_and_the_whole_are_the_same(device, monkeypatch):
    x, panels, numbers, bias = layer(tuning.MOST_ROWS + 5, 100, 40, 4, torch.float32, device)
    whole = op.product(x, panels, bias)
    monkeypatch.setattr(op, "PIECE", 16 * 40 * 2)
    torch.testing.assert_close(op.product(x, panels, bias), whole)
    some = op.product(x, panels, bias[21:75], slice(21, 75))
    torch.testing.assert_close(some, whole[:, 21:75])


def test_numbers_written_as_bits_are_the_numbers():
    """What ``_numbers`` does in bfloat16 for 4 bits, which the interpreter cannot: the bits of 128 + n, less 136."""
    unsigned = torch.arange(16, dtype=torch.int16)
    assert torch.equal((unsigned | 0x4300).view(torch.bfloat16) - 136, (unsigned - 8).bfloat16())
    unsigned = torch.arange(256, dtype=torch.int16)
    assert torch.equal((unsigned | 0x6400).view(torch.float16) - 1152, (unsigned - 128).half())


def test_rows_with_gaps_between_them(device):
    x, panels, _, bias = layer(4, 20, 64, 8, torch.float16, device)
    wide = torch.zeros(4, 100, dtype=x.dtype, device=device)
    wide[:, 20:84] = x
    assert torch.equal(op.product(wide[:, 20:84], panels, bias), op.product(x, panels, bias))
    assert torch.equal(op.product(x.t().contiguous().t(), panels, bias), op.product(x, panels, bias))
    assert op.product(x[:0], panels, bias).shape == (0, 20)
    assert op.product(x, panels, bias[:0], slice(7, 7)).shape == (4, 0)


def test_what_does_not_fit_is_refused(device):
    x, panels, _, bias = layer(2, 20, 64, 8, torch.float16, device)
    for wrong in ((x[:, :60], bias), (x.double(), bias), (x, bias[:5]), (x, bias.float())):
        with pytest.raises(ShapeError, match=r"expected \(rows, 64\) and \(20,\) of one dtype"):
            op.product(wrong[0], panels, wrong[1])
    with pytest.raises(ShapeError, match="expected"):
        op.product(x, panels._replace(weight=panels.weight[:, :, ::2]), bias)


def test_it_is_registered_and_compiles_into_one_graph(device, in_one_graph):
    x, panels, _, bias = layer(2, 20, 64, 4, torch.float32, device)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.chexmix.quantized_product, (x, panels.weight, panels.scale, bias, 3, 20), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.chexmix.restored_weights, (panels.weight, panels.scale, 20, 64, torch.float32), test_utils=tests
    )
    compiled = in_one_graph(lambda x: op.product(x, panels, bias) + 1)
    assert torch.equal(compiled(x), op.product(x, panels, bias) + 1)
