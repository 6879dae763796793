from __future__ import annotations

import math

import pytest
import torch

from chexmix_cli.core.infer.decoding.constraints import Constraint
from chexmix_cli.core.infer.decoding.sampling import Chooser, draws_on, row_draws, sample
from chexmix_cli.core.settings.inference import DecodeSettings


def spread(logits, *, temperature=1.0, top_p=1.0, count=20_000):
    """Return the share of each column over an even spread of draws, which is exact to 1 / count."""
    draws = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    rows = torch.tensor(logits, dtype=torch.float32).expand(count, -1)
    columns = sample(rows, draws, temperature=temperature, top_p=top_p)
    return torch.bincount(columns, minlength=len(logits)).double() / count


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_samples_follow_the_softmax(temperature):
    logits = [1.0, -2.0, 0.5, 3.0, -math.inf, 2.9]
    expected = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0)
    assert torch.allclose(spread(logits, temperature=temperature), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 0]), (0.91, [1, 3, 0, 2])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    probabilities = torch.tensor([0.2, 0.4, 0.1, 0.3])
    expected = torch.zeros(4, dtype=torch.float64)
    expected[kept] = probabilities[kept].double() / probabilities[kept].sum()
    assert torch.allclose(spread(probabilities.log().tolist(), top_p=top_p), expected, atol=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.999999])
@pytest.mark.parametrize("draw", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_an_impossible_id_is_never_chosen(draw, top_p):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, 57, generator=generator) * 2  # sums of probabilities on both sides of 1
    logits[:, ::3] = -math.inf
    logits[:, -1] = logits[:, 0] = -math.inf
    columns = sample(logits, torch.full((5000,), draw, dtype=torch.float64), temperature=1.0, top_p=top_p)
    assert torch.isfinite(logits.gather(1, columns[:, None])).all()


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e30])
def test_no_temperature_overflows(temperature):
    share = spread([1e4, -1e4, 1e4 - 1], temperature=temperature, count=3000)
    assert share.sum() == 1
    assert share.tolist() == ([1, 0, 0] if temperature < 1 else pytest.approx([1 / 3] * 3, abs=1e-3))


def test_equal_probabilities_take_the_lower_id_first():
    assert spread([0.0, 0.0, 0.0, 0.0], top_p=0.5).tolist() == pytest.approx([0.5, 0.5, 0, 0], abs=1e-4)


def test_draws_hang_on_seed_and_prompt():
    draws = row_draws(1, [5, 6, 7], 50)
    assert draws == row_draws(1, (5, 6, 7), 50)
    assert draws[:20] == row_draws(1, [5, 6, 7], 20)
    others = [row_draws(2, [5, 6, 7], 50), row_draws(1, [5, 6, 8], 50), row_draws(-1, [5, 6, 7], 50)]
    assert all(draw not in draws for other in others for draw in other)
    assert all(0 <= draw < 1 for draw in draws)


def test_a_choice_is_an_id_and_its_logprob_is_over_what_could_be_chosen():
    constraint = Constraint(slice(10, 14), denied=(11,), ends=(13,))
    settings = DecodeSettings(max_new_tokens=5, min_new_tokens=2)
    chooser = Chooser(constraint, settings, torch.device("cpu"))
    logits = torch.tensor([[0.0, 9.0, 1.0, 5.0], [0.0, 9.0, 1.0, 5.0]], dtype=torch.bfloat16)
    chosen, logprobs = zip(*chooser.choose(logits, [1, 2], [0.0, 0.0]), strict=True)
    assert chosen == (12, 13)
    early = torch.tensor([0.0, 1.0]).log_softmax(0)[1]
    late = torch.tensor([0.0, 1.0, 5.0]).log_softmax(0)[2]
    assert logprobs == pytest.approx([float(early), float(late)], abs=1e-6)


def test_draws_stay_on_the_cpu_for_a_device_without_float64():
    assert draws_on(torch.device("mps"), [0.5]).device.type == "cpu"
    assert draws_on(torch.device("cpu"), [[0.5]]).dtype == torch.float64
