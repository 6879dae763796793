from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.nearest_code import reference
from chexmix_cli.core.kernels.nearest_code.reference import nearest_code
from chexmix_cli.core.models.quantizer import Quantizer


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_latents", "num_codes", "size"), [(1, 1, 1), (37, 101, 7), (256, 64, 16)])
@pytest.mark.parametrize("rows", [1, 5, 4096])
def test_it_is_the_smallest_distance(monkeypatch, num_latents, num_codes, size, rows):
    monkeypatch.setattr(reference, "_ROWS", rows)
    z, codebook = draw(num_latents, size), draw(num_codes, size, seed=1)
    expected = (z.double()[:, None] - codebook.double()[None]).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(nearest_code(z, codebook), expected)


def test_ties_go_to_the_lowest_index():
    codebook = draw(6, 4)[[0, 1, 1, 2, 0, 1]]
    assert nearest_code(codebook, codebook).tolist() == [0, 1, 1, 3, 0, 1]


def test_bfloat16_latents_are_compared_in_float32():
    codebook = draw(500, 8, seed=1)
    z = draw(64, 8).bfloat16()
    assert torch.equal(nearest_code(z, codebook), nearest_code(z.float(), codebook))


@pytest.mark.parametrize(("z", "codebook"), [((2, 3), (4, 2)), ((2, 3), (0, 3)), ((3,), (4, 3)), ((2, 3), (4, 3, 1))])
def test_shapes_that_do_not_fit_are_refused(z, codebook):
    with pytest.raises(ShapeError, match=r"expected \(M, E\) and \(K, E\) with K > 0"):
        nearest_code(torch.zeros(z), torch.zeros(codebook))


def test_codes_of_a_grid_and_their_vectors():
    quantizer = Quantizer(30, 5)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(draw(30, 5))
    codes = torch.randint(0, 30, (2, 3, 4), generator=torch.Generator().manual_seed(8))
    vectors = quantizer.decode(codes)
    assert vectors.shape == (2, 5, 3, 4)
    assert torch.equal(vectors[1, :, 2, 3], quantizer.embedding.weight[codes[1, 2, 3]])
    assert torch.equal(quantizer.encode(vectors + 0.01 * draw(2, 5, 3, 4, seed=2)), codes)
