"""The fused restricted head against its definition."""

from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.kernels.restricted_head import op, reference, tuning
from chexmix_cli.core.kernels.restricted_head.tuning import Config

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def head(num_states: int, hidden: int, num_rows: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    states, rows = (torch.randn(n, hidden, generator=generator).to(dtype) for n in (num_states, num_rows))
    bias = torch.randn(num_rows, generator=generator).to(dtype)
    return states, rows, bias, torch.randint(num_rows, (num_states,), generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_states", "hidden", "num_rows"), [(1, 1, 1), (3, 70, 333), (33, 129, 65)])
def test_it_chooses_what_the_definition_chooses(device, dtype, num_states, hidden, num_rows):
    states, rows, bias, _ = (x.to(device) for x in head(num_states, hidden, num_rows, dtype))
    found = op.choose_row(states, rows, bias)
    logits = states.double() @ rows.double().T + bias.double()
    plain = reference.choose_row(states, rows, bias)

    def errors(choice):
        at = choice.row_M[:, None]
        return [
            (logits.max(dim=1).values - logits.gather(1, at)[:, 0]).abs().max(),
            (choice.logit_M - logits.gather(1, at)[:, 0]).abs().max(),
            (choice.logsumexp_M - logits.logsumexp(dim=1)).abs().max(),
        ]

    for ours, theirs in zip(errors(found), errors(plain), strict=True):
        assert float(ours) <= 2 * float(theirs) + 2e-6 * float(logits.abs().max())
    assert torch.equal(found.logprob_M, found.logit_M - found.logsumexp_M)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_states", "hidden", "num_rows"), [(1, 1, 1), (3, 70, 333), (33, 129, 65)])
def test_the_log_probability_of_a_given_row(device, dtype, num_states, hidden, num_rows):
    states, rows, bias, given = (x.to(device) for x in head(num_states, hidden, num_rows, dtype))
    logits = states.double() @ rows.double().T + bias.double()
    exact = logits.log_softmax(dim=1).gather(1, given[:, None])[:, 0]
    ours, theirs = (part.row_logprob(states, rows, bias, given) for part in (op, reference))
    assert ours.dtype == torch.float32
    limit = 2 * float((theirs - exact).abs().max()) + 2e-6 * float(logits.abs().max())
    assert float((ours - exact).abs().max()) <= limit
    if num_rows > 1:
        other = op.row_logprob(states, rows, bias, (given + 1) % num_rows)
        assert float((other - exact).abs().max()) > limit, "negative control: the next row"
    with pytest.raises(ShapeError, match=r"expected \(M,\) int64"):
        op.row_logprob(states, rows, bias, given.int())


def test_a_choice_hangs_on_no_block_size(device, monkeypatch):
    states, rows, bias, _ = (x.to(device) for x in head(5, 32, 300, torch.float32))
    found = op.choose_row(states, rows, bias).row_M
    other = Config(block_m=16, block_r=32, block_d=16, num_warps=4, num_stages=2)
    monkeypatch.setitem(tuning.CONFIGS, (torch.float32, False), other)
    assert torch.equal(found, op.choose_row(states, rows, bias).row_M)


def test_barred_rows_are_never_chosen_also_where_they_fill_a_block(device):
    states, rows, bias, _ = head(4, 16, 400, torch.float32)
    bias[:390] = -torch.inf
    found = op.choose_row(*(x.to(device) for x in (states, rows, bias)))
    assert int(found.row_M.min()) >= 390
    assert bool(torch.isfinite(found.logsumexp_M).all())


def test_ties_go_to_the_lowest_row(device):
    states, rows, bias, _ = head(2, 8, 300, torch.float32)
    rows[[7, 150, 299]] = 10 * states[0]
    bias[[7, 150, 299]] = 0.0
    assert int(op.choose_row(states.to(device), rows.to(device), bias.to(device)).row_M[0]) == 7


def test_the_check_would_see_an_ignored_bias(device):
    states, rows, bias, _ = (x.to(device) for x in head(33, 129, 65, torch.float32))
    right = reference.choose_row(states, rows, bias)
    wrong = reference.choose_row(states, rows, torch.zeros_like(bias))
    assert float((right.logit_M - wrong.logit_M).abs().max()) > 1e-2


def test_what_does_not_fit_is_refused(device):
    states, rows, bias, _ = (x.to(device) for x in head(2, 8, 9, torch.float32))
    with pytest.raises(ShapeError, match=r"expected \(M, D\), \(R, D\) and \(R,\)"):
        op.choose_row(states, rows[:, :4], bias)
    with pytest.raises(ShapeError, match="expected float32, bfloat16 or float16"):
        op.choose_row(states.double(), rows.double(), bias.double())


def test_an_empty_batch_is_empty_and_the_op_is_registered(device):
    states, rows, bias, _ = (x.to(device) for x in head(3, 8, 20, torch.float32))
    assert op.choose_row(states[:0], rows, bias).row_M.shape == (0,)
    torch.library.opcheck(torch.ops.chexmix.choose_row, (states, rows, bias), test_utils="test_schema")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        faked = [mode.from_tensor(x) for x in (states, rows, bias)]
        made = torch.ops.chexmix.choose_row(*faked)
    assert [(tuple(x.shape), x.dtype) for x in made] == [
        ((3,), torch.int64),
        ((3,), torch.float32),
        ((3,), torch.float32),
    ]


def test_it_compiles_into_one_graph_and_has_no_gradient(device, in_one_graph):
    states, rows, bias, _ = (x.to(device) for x in head(3, 8, 20, torch.float32))
    rows.requires_grad_()

    def choose(*inputs):
        choice = op.choose_row(*inputs)
        return choice.row_M, choice.logprob_M

    compiled = in_one_graph(choose)
    for ours, theirs in zip(compiled(states, rows, bias), choose(states, rows, bias), strict=True):
        assert torch.equal(ours, theirs)
        assert not theirs.requires_grad
    plain = reference.choose_row(states, rows, bias)
    assert not plain.logit_M.requires_grad


def test_more_states_than_a_chunk_are_the_states_of_several(device):
    states, rows, bias, _ = (x.to(device) for x in head(1100, 4, 7, torch.float32))
    plain = reference.choose_row(states, rows, bias)
    logits = torch.nn.functional.linear(states, rows, bias)
    assert torch.equal(plain.row_M, logits.argmax(dim=1))
    torch.testing.assert_close(plain.logprob_M, logits.log_softmax(dim=1).amax(dim=1))
    assert torch.equal(op.choose_row(states, rows, bias).row_M, plain.row_M)
