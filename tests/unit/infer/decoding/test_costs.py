from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.infer.decoding.costs import decode_bytes, decode_costs
from chexmix_cli.core.infer.decoding.stats import EngineStats
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.rates import read_rate
from chexmix_cli.core.runtime import peak_memory, resident_memory
from chexmix_cli.core.settings.inference import DecodeSettings


def test_calls_add_up_and_shares_follow():
    stats = EngineStats()
    assert (stats.acceptance, stats.tokens_per_row_pass, stats.decode_tokens_per_s) == (0, 0, 0)
    stats.add(EngineStats(num_decoded_tokens=10, num_passes=5, num_drafted=9, num_accepted=5, prefill_s=2, decode_s=4))
    stats.add(EngineStats(num_decoded_tokens=20, num_passes=5, num_drafted=6, num_accepted=4, prefill_s=1, decode_s=1))
    assert stats.first_token_s == 2
    assert (stats.prefill_s, stats.decode_tokens_per_s, stats.decode_passes_per_s) == (3, 6, 2)
    assert stats.acceptance == pytest.approx(9 / 15)
    assert stats.tokens_per_row_pass == pytest.approx(30 / 21)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_passes_are_counted_by_hand(decoder, vocabulary, dtype):
    """Two layers of width 32, mlp 48, 1066 rows; two prompts of 5 tokens and 4 new ones, so three passes."""
    engine = report_engine(decoder.to(dtype), vocabulary)
    engine.generate([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], DecodeSettings(max_new_tokens=4, min_new_tokens=4))
    size = dtype.itemsize
    norm, block = 2 * 32, 32 * (3 * 32 + 48) + 3 * 32 + 48 + (32 + 48) * 32 + 2 * 32
    a_pass = 2 * (norm + block) + norm + 1023 * (32 + 1)
    attended = 2 * (6 + 7 + 8)
    assert engine.stats.num_attended == attended
    a_place = 2 * 2 * 32
    assert decode_bytes(engine.decoder, engine.stats, num_head_rows=1023) == (3 * a_pass + attended * a_place) * size
    costs = decode_costs(engine, DecodeSettings())
    assert costs["bytes_per_pass"] == pytest.approx((a_pass + attended * a_place / 3) * size)
    wanted = costs["bytes_per_pass"] * 3 / costs["memory_bytes_per_s"] / engine.stats.decode_s
    assert costs["floor_share"] == pytest.approx(wanted)


def test_nothing_decoded_costs_nothing(decoder, vocabulary):
    costs = decode_costs(report_engine(decoder, vocabulary), DecodeSettings())
    assert costs["floor_share"] == costs["bytes_per_pass"] == costs["first_token_s"] == 0


def test_memory_is_read_and_its_peak_known():
    assert 1e8 < read_rate(torch.device("cpu")) < 1e13
    assert peak_memory(torch.device("cpu")) >= resident_memory() > 0
