"""What the decoder promises beside being Phi (that is in tests/parity)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.models.attention import causal_mask
from chexmix_cli.core.models.decoder import Decoder, grid_positions, rotary_table
from chexmix_cli.core.models.init import init_code_rows, init_decoder
from chexmix_cli.core.settings.model import DecoderSettings

SETTINGS = DecoderSettings(
    num_rows=50, hidden_size=24, num_layers=2, num_heads=3, mlp_size=40, rotary_size=4, max_positions=20
)


@pytest.fixture
def decoder(make_decoder) -> Decoder:
    return make_decoder(SETTINGS)


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_a_position_sees_itself_and_those_before_it(decoder):
    before = decoder(ids(1, 12))
    for position in range(12):
        changed = ids(1, 12)
        changed[0, position] = (changed[0, position] + 1) % 50
        is_same = (decoder(changed) == before).all(dim=-1)[0]
        assert is_same[:position].all()
        assert not is_same[position:].any()


@torch.inference_mode()
def test_a_mask_of_its_own_decides_what_is_seen(decoder):
    attend = torch.ones(12, 12, dtype=torch.bool)
    attend[:, 5] = False
    attend[5, 5] = True
    changed = ids(1, 12)
    changed[0, 5] = (changed[0, 5] + 1) % 50
    is_same = (decoder(changed, attend_BTS=attend[None]) == decoder(ids(1, 12), attend_BTS=attend[None])).all(dim=-1)[0]
    assert is_same.tolist() == [position != 5 for position in range(12)]


def test_codes_lie_on_their_grid_and_text_goes_on_from_its_last_corner():
    rows, columns = grid_positions(torch.arange(13)[None], side=3)
    assert rows.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5]]
    assert columns.tolist() == [[0, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5]]


@torch.inference_mode()
def test_on_a_grid_the_code_above_is_as_near_as_the_one_beside():
    """With all else equal, the code above turns rows as the one to the left turns columns."""
    settings = dataclasses.replace(SETTINGS, rope_grid=4)
    cosine, sine = rotary_table(settings, torch.arange(17)[None], torch.float32)
    turns = torch.complex(cosine, sine)[0, 0]  # (positions, R): rows first, then columns
    relative = turns[6].conj() * turns  # angles from code 6: second row, second column
    up, left = relative[2], relative[5]
    assert torch.allclose(up, left.flip(0), atol=1e-6)
    assert not torch.allclose(up, left, atol=1e-2)
    flat = rotary_table(SETTINGS, torch.arange(17)[None], torch.float32)[0]
    assert not torch.allclose(flat, cosine, atol=1e-2)


@torch.inference_mode()
def test_a_decoder_on_a_grid_goes_on_from_its_cache(decoder):
    gridded = Decoder(dataclasses.replace(SETTINGS, rope_grid=3)).eval()
    gridded.load_state_dict(decoder.state_dict())
    whole = gridded(ids(2, 14))
    cache = gridded.new_cache(2, 14)
    parts = [gridded(ids(2, 14)[:, start:stop], cache=cache) for start, stop in ((0, 10), (10, 11), (11, 14))]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)
    assert not torch.allclose(whole, decoder(ids(2, 14)), atol=1e-2)


@torch.inference_mode()
def test_rotation_depends_on_distance_only(decoder):
    positions = torch.arange(12)[None]
    shifted = decoder(ids(1, 12), positions_BT=positions + 7)
    assert torch.allclose(shifted, decoder(ids(1, 12)), atol=1e-4)
    assert not torch.allclose(decoder(ids(1, 12), positions_BT=positions * 2), shifted, atol=1e-2)


def test_a_sequence_beyond_the_positions_is_refused(decoder):
    with torch.inference_mode():
        assert decoder(ids(1, 20)).shape == (1, 20, 24)
        with pytest.raises(ShapeError, match="a sequence of 21 tokens; expected at most 20"):
            decoder(ids(1, 21))
        cache = decoder.new_cache(1, capacity=40)
        decoder(ids(1, 15), cache=cache)
        with pytest.raises(ShapeError, match="a sequence of 21 tokens"):
            decoder(ids(1, 6), cache=cache)


@torch.inference_mode()
def test_a_cache_refuses_what_does_not_fit(decoder):
    cache = decoder.new_cache(2, capacity=6)
    decoder(ids(2, 4), cache=cache)
    with pytest.raises(ShapeError, match="7 positions in a cache of 6"):
        decoder(ids(2, 3), cache=cache)
    with pytest.raises(ShapeError, match="1 rows for a cache of 2"):
        decoder(ids(1, 1), cache=cache)
    for rows in ([1, 0], [0, 0], [2], [-1]):
        with pytest.raises(ShapeError, match="expected ascending, below 2"):
            cache.keep_rows(rows)
    assert cache.length == 4


@torch.inference_mode()
def test_a_cache_writes_only_what_it_is_given(decoder):
    cache = decoder.new_cache(2, capacity=9)
    for buffer in (cache.keys_LBNSH, cache.values_LBNSH):
        buffer.fill_(torch.nan)
    states = torch.cat([decoder(ids(2, 6)[:, :4], cache=cache), decoder(ids(2, 6)[:, 4:], cache=cache)], dim=1)
    assert torch.allclose(states, decoder(ids(2, 6)), atol=1e-4)
    for buffer in (cache.keys_LBNSH, cache.values_LBNSH):
        assert buffer[:, :, :, :6].isfinite().all()
        assert buffer[:, :, :, 6:].isnan().all()


@torch.inference_mode()
def test_states_come_one_by_one_and_the_cache_grows_at_the_end(decoder):
    cache = decoder.new_cache(1, capacity=5)
    states = decoder.layer_states(ids(1, 5), cache=cache)
    next(states)
    next(states)
    assert cache.length == 0
    last = next(states)
    assert cache.length == 5
    assert next(states, None) is None
    assert torch.equal(last, decoder(ids(1, 5)))


def test_every_parameter_gets_a_gradient(decoder):
    state = decoder(ids(2, 10))
    weights = torch.randn(2, 10, 50, generator=torch.Generator().manual_seed(1))
    (decoder.logits(state) * weights).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4, name


def test_gradients_are_the_derivatives():
    settings = DecoderSettings(
        num_rows=7, hidden_size=6, num_layers=1, num_heads=1, mlp_size=3, rotary_size=2, max_positions=8
    )
    decoder = Decoder(settings).double().eval()
    init_decoder(decoder, torch.Generator().manual_seed(0))
    token_ids = torch.tensor([[1, 5, 2, 2]])
    parameters = {name: value.detach().clone().requires_grad_() for name, value in decoder.named_parameters()}

    def logits(*values: torch.Tensor) -> torch.Tensor:
        state = torch.func.functional_call(decoder, dict(zip(parameters, values, strict=True)), (token_ids,))
        return state @ values[-2].T + values[-1]

    assert list(parameters)[-2:] == ["head.weight", "head.bias"]
    assert torch.autograd.gradcheck(logits, tuple(parameters.values()), atol=1e-5)


def test_dropout_acts_in_training_only(decoder):
    decoder.set_dropout(0.5)
    with torch.no_grad():
        assert torch.equal(decoder(ids(1, 6)), decoder(ids(1, 6)))
        decoder.train()
        assert not torch.equal(decoder(ids(1, 6)), decoder(ids(1, 6)))
        decoder.set_dropout(0.0)
        assert torch.equal(decoder(ids(1, 6)), decoder(ids(1, 6)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_keep_the_weights_dtype(decoder, dtype):
    decoder.to(dtype)
    with torch.inference_mode():
        states = decoder.hidden_states(ids(2, 5))
        assert {state.dtype for state in states} == {dtype}
        assert decoder.logits(states[-1]).dtype == dtype
        assert decoder.new_cache(1, 4).keys_LBNSH.dtype == dtype


def test_causal_mask_has_the_shape_of_its_picture():
    assert causal_mask(2, 4, torch.device("cpu")).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_initial_values_are_normal_and_small_in_the_branches():
    settings = DecoderSettings(
        num_rows=300, hidden_size=128, num_layers=8, num_heads=4, mlp_size=256, rotary_size=16, max_positions=16
    )
    decoder = Decoder(settings)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(torch.nan)
    init_decoder(decoder, torch.Generator().manual_seed(3))
    for name, parameter in decoder.state_dict().items():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif parameter.ndim == 1:
            assert not parameter.any(), name
        else:
            expected = 0.02 / 4 if "output_proj" in name else 0.02  # 4 = sqrt(2 * 8 layers)
            assert float(parameter.std()) == pytest.approx(expected, rel=0.05), name
            assert abs(float(parameter.mean())) < 0.05 * expected, name


def test_rows_of_codes_resemble_each_other_as_the_codes_do():
    settings = DecoderSettings(
        num_rows=150, hidden_size=256, num_layers=1, num_heads=4, mlp_size=8, rotary_size=16, max_positions=16
    )
    decoder = Decoder(settings)
    generator = torch.Generator().manual_seed(4)
    init_decoder(decoder, generator)
    text_before = decoder.embedding.weight[:20].clone()
    codebook_KE = torch.randn(100, 8, generator=generator) * torch.linspace(0.1, 10, 8) + 3
    init_code_rows(decoder, codebook_KE, 20, generator)
    assert torch.equal(decoder.embedding.weight[:20], text_before)
    standard_KE = (codebook_KE - codebook_KE.mean(0)) / codebook_KE.std(0)
    wanted = torch.corrcoef(standard_KE).flatten()
    projections = []
    for weight in (decoder.embedding.weight, decoder.head.weight):
        rows_KD = weight[20:120].detach()
        assert float(rows_KD.std()) == pytest.approx(0.02, rel=0.1)
        found = torch.corrcoef(torch.stack((wanted, torch.corrcoef(rows_KD).flatten())))[0, 1]
        assert float(found) > 0.8
        projections.append(rows_KD)
    assert abs(float(torch.corrcoef(torch.stack([rows.flatten() for rows in projections]))[0, 1])) < 0.1
