from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.pooling import pooled_state
from chexmix_cli.core.settings.model import DecoderSettings

SETTINGS = DecoderSettings(
    num_rows=50, hidden_size=24, num_layers=3, num_heads=3, mlp_size=40, rotary_size=4, max_positions=20
)


@pytest.fixture
def decoder(make_decoder) -> Decoder:
    return make_decoder(SETTINGS)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_it_is_the_mean_of_the_chosen_positions_whatever_stands_behind_them(decoder, layer):
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    is_pooled = torch.zeros(2, 9, dtype=torch.bool)
    is_pooled[0, 1:4] = is_pooled[1, 2:7] = True
    found = pooled_state(decoder, ids, is_pooled, layer)
    for row, (start, stop) in enumerate(((1, 4), (2, 7))):
        alone = decoder.hidden_states(ids[row : row + 1, :stop] if layer < 3 else ids[row : row + 1])[layer]
        assert torch.allclose(found[row], alone[0, start:stop].mean(dim=0), atol=1e-5)
    assert found.dtype == torch.float32


def test_blocks_behind_the_layer_are_not_run_and_those_before_it_learn(decoder):
    ran = []
    decoder.blocks[2].register_forward_pre_hook(lambda *_: ran.append(2))
    ids = torch.randint(0, 50, (2, 5), generator=torch.Generator().manual_seed(1))
    pooled_state(decoder, ids, torch.ones(2, 5, dtype=torch.bool), 2).square().sum().backward()
    assert not ran
    with_gradient = {
        name.split(".")[1] for name, p in decoder.named_parameters() if "block" in name and p.grad is not None
    }
    assert with_gradient == {"0", "1"}
    assert decoder.norm.weight.grad is None
