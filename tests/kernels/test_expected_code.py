"""The fused expected code vector against its definition in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.expected_code import op, reference, tuning

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def model(num_states: int, hidden: int, num_codes: int, size: int, dtype: torch.dtype, device: torch.device):
    generator = torch.Generator().manual_seed(num_states)
    states, rows = (torch.randn(n, hidden, generator=generator).to(dtype) for n in (num_states, num_codes))
    bias = torch.randn(num_codes, generator=generator).to(dtype)
    # Magnitudes far apart: a weight at the wrong vector shows.
    codebook = torch.randn(num_codes, size, generator=generator) * torch.logspace(-1, 1, size)
    return [x.to(device) for x in (states, rows, bias, codebook)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize(
    ("num_states", "hidden", "num_codes", "size"), [(1, 1, 1, 1), (5, 70, 333, 20), (33, 33, 65, 17)]
)
def test_it_expects_what_the_definition_expects(device, dtype, temperature, num_states, hidden, num_codes, size):
    states, rows, bias, codebook = model(num_states, hidden, num_codes, size, dtype, device)
    logits = states.double() @ rows.double().T + bias.double()
    exact = (logits / temperature).softmax(dim=1) @ codebook.double()
    prob = logits.softmax(dim=1)

    def errors(found):
        at = found.code_M[:, None]
        return [
            (prob.max(dim=1).values - prob.gather(1, at)[:, 0]).abs().max(),
            (found.prob_M - prob.gather(1, at)[:, 0]).abs().max(),
            (found.vector_ME - exact).abs().max() / codebook.abs().max(),
        ]

    ours, theirs = (
        errors(part.expected_code(states, rows, bias, codebook, temperature=temperature)) for part in (op, reference)
    )
    for mine, plain in zip(ours, theirs, strict=True):
        assert float(mine) <= 2 * float(plain) + 2e-6


def test_the_check_would_see_a_temperature_left_out(device):
    states, rows, bias, codebook = model(5, 70, 333, 20, torch.float32, device)
    right = reference.expected_code(states, rows, bias, codebook, temperature=0.4).vector_ME
    wrong = op.expected_code(states, rows, bias, codebook, temperature=1.0).vector_ME
    assert float((right - wrong).abs().max() / codebook.abs().max()) > 1e-3


def test_barred_codes_count_nothing_also_where_they_fill_a_share_and_ties_go_to_the_lowest(device):
    states, rows, bias, codebook = model(4, 16, 400, 8, torch.float32, device)
    bias[:300] = -torch.inf
    rows[[310, 399]] = 10 * states[0]
    bias[[310, 399]] = 0.0
    found = op.expected_code(states, rows, bias, codebook, temperature=2.0)
    plain = reference.expected_code(states, rows, bias, codebook, temperature=2.0)
    assert int(found.code_M[0]) == 310
    assert torch.equal(found.code_M, plain.code_M)
    torch.testing.assert_close(found.vector_ME, plain.vector_ME, rtol=1e-4, atol=1e-4)


def test_other_blocks_give_the_same(device, monkeypatch):
    given = model(7, 32, 300, 24, torch.float32, device)
    found = op.expected_code(*given)
    other = dataclasses.replace(tuning.CONFIGS[torch.float32], block_m=16, block_k=64, num_shares=3)
    monkeypatch.setitem(tuning.CONFIGS, torch.float32, other)
    again = op.expected_code(*given)
    assert torch.equal(found.code_M, again.code_M)
    torch.testing.assert_close(found.vector_ME, again.vector_ME, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_and_an_empty_batch_is_empty(device):
    states, rows, bias, codebook = model(2, 8, 9, 4, torch.float32, device)
    with pytest.raises(ShapeError, match=r"expected \(M, D\), \(K, D\) and \(K,\) of one dtype"):
        op.expected_code(states, rows, bias, codebook[:5])
    with pytest.raises(ShapeError, match="temperature 0; expected above 0"):
        op.expected_code(states, rows, bias, codebook, temperature=0.0)
    with pytest.raises(ShapeError, match="at most 256"):
        op.expected_code(states, rows, bias, torch.zeros(9, 257, device=device))
    for part in (op, reference):
        assert part.expected_code(states[:0], rows, bias, codebook).vector_ME.shape == (0, 4)


def test_it_is_registered_and_compiles_into_one_graph(device, in_one_graph):
    given = model(3, 8, 20, 4, torch.float32, device)
    torch.library.opcheck(torch.ops.chexmix.expected_code, (*given, 0.5), test_utils=("test_schema", "test_faketensor"))
    compiled = in_one_graph(lambda *x: op.expected_code(*x).vector_ME + 1)
    assert torch.equal(compiled(*given), op.expected_code(*given).vector_ME + 1)
