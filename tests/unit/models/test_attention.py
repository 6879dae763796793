"""Sequences behind each other in one row: the parts together are the one masked attention that defines them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.models.attention import AttentionPlan, Context, ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import DecoderSettings

IMAGE = ContextPart(5, sees_itself=True)
PLANS: dict[str, list[Context]] = {
    "one": [(ContextPart(7),)],
    "two": [(ContextPart(3),), (ContextPart(9),)],
    "single tokens": [(ContextPart(1),), (ContextPart(1),), (ContextPart(4),)],
    "image": [(ContextPart(1), IMAGE, ContextPart(4)), (ContextPart(1), IMAGE, ContextPart(1))],
    "two images in one context": [(ContextPart(1), IMAGE, ContextPart(3), IMAGE, ContextPart(2))],
    "starts and ends in an image": [(IMAGE, ContextPart(3), ContextPart(2, sees_itself=True)), (ContextPart(2),)],
}
SETTINGS = DecoderSettings(
    num_rows=50, hidden_size=24, num_layers=3, num_heads=3, mlp_size=40, rotary_size=4, max_positions=20
)


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(SETTINGS).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.4)
    return decoder


def run(decoder: Decoder, contexts: list[Context], *, dense: bool) -> list[Tensor]:
    """Return the states and all gradients of a random function of them."""
    plan = AttentionPlan(contexts)
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(50, (1, sum(plan.lengths)), generator=generator)
    if dense:
        states = decoder(token_ids, positions_BT=plan.position_1T, attend_BTS=plan.dense_mask())
    else:
        states = decoder(token_ids, attend_BTS=plan)
    decoder.zero_grad()
    (states * torch.randn(states.shape, generator=generator)).sum().backward()
    gradients = [parameter.grad for name, parameter in decoder.named_parameters() if not name.startswith("head")]
    return [states.detach(), *(gradient.clone() for gradient in gradients)]


def differences(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((one - two).abs().max() / two.abs().max()) for one, two in zip(found, expected, strict=True)]


@pytest.mark.parametrize("contexts", PLANS.values(), ids=PLANS.keys())
def test_states_and_gradients_are_those_of_the_whole_mask(decoder, contexts):
    assert max(differences(run(decoder, contexts, dense=False), run(decoder, contexts, dense=True))) < 1e-5


@pytest.mark.parametrize("contexts", PLANS.values(), ids=PLANS.keys())
def test_each_context_is_as_if_it_were_alone(decoder, contexts):
    plan = AttentionPlan(contexts)
    token_ids = torch.randint(50, (1, sum(plan.lengths)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = decoder(token_ids, attend_BTS=plan).split(plan.lengths, dim=1)
        for context, states, own_ids in zip(contexts, together, token_ids.split(plan.lengths, dim=1), strict=True):
            assert torch.allclose(states, decoder(own_ids, attend_BTS=AttentionPlan([context])), atol=1e-5)
            if len(context) == 1 and not context[0].sees_itself:
                assert torch.allclose(states, decoder(own_ids), atol=1e-5)


def test_a_wrong_attention_is_found(decoder, monkeypatch):
    contexts = PLANS["image"]
    expected = run(decoder, contexts, dense=True)

    def upper_left(part: ContextPart, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=not part.sees_itself)

    monkeypatch.setattr(AttentionPlan, "_attend_part", staticmethod(upper_left))
    assert max(differences(run(decoder, contexts, dense=False), expected)) > 1e-2


def test_the_mask_has_the_shape_of_its_picture():
    plan = AttentionPlan([(ContextPart(1), ContextPart(2, sees_itself=True), ContextPart(1)), (ContextPart(2),)])
    rows = ["".join(str(int(value)) for value in row) for row in plan.dense_mask()[0]]
    assert rows == ["100000", "111000", "111000", "111100", "000010", "000011"]
    assert plan.position_1T.tolist() == [[0, 1, 2, 3, 0, 1]]


def test_a_row_may_be_longer_than_the_positions_but_no_context(decoder):
    with torch.no_grad():
        long = torch.zeros(1, 60, dtype=torch.int64)
        assert decoder(long, attend_BTS=AttentionPlan([(ContextPart(20),)] * 3)).shape == (1, 60, 24)
        with pytest.raises(ShapeError, match="a sequence of 21 tokens; expected at most 20"):
            decoder(long, attend_BTS=AttentionPlan([(ContextPart(21),), (ContextPart(19),), (ContextPart(20),)]))
