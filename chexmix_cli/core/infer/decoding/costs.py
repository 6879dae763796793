"""What decoding cost, compared with what this machine's memory bandwidth allows, for ``--stats``."""

from __future__ import annotations

from torch import nn

from chexmix_cli.core.infer.decoding.engine import Engine
from chexmix_cli.core.infer.decoding.stats import EngineStats
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.rates import read_rate
from chexmix_cli.core.runtime import peak_memory
from chexmix_cli.core.settings.inference import DecodeSettings


def decode_costs(engine: Engine, settings: DecodeSettings) -> dict[str, float]:
    """Return what an engine's calls so far have cost, and how near that is to what reading memory takes here.

    ``floor_share`` is the time that the bytes which decoding must read would take at this machine's measured rate, as
    a share of the time it took: above 1 where weights stay in a cache. Measuring takes about 0.3 s.

    Args:
        engine: that decoded.
        settings: of its calls.
    """
    stats, device = engine.stats, engine.decoder.embedding.weight.device
    peak = peak_memory(device)
    rows = engine.constraints[settings.vocabulary].rows
    num_bytes = decode_bytes(engine.decoder, stats, num_head_rows=rows.stop - rows.start)
    rate = read_rate(device)
    return {
        "reports": stats.num_reports,
        "prompt_tokens": stats.num_prompt_tokens,
        "reused_prompt_tokens": stats.num_reused_tokens,
        "prefill_tokens_per_s": stats.prefill_tokens_per_s,
        "first_token_s": stats.first_token_s or 0.0,
        "decoded_tokens": stats.num_decoded_tokens,
        "decode_tokens_per_s": stats.decode_tokens_per_s,
        "passes": stats.num_passes,
        "drafted": stats.num_drafted,
        "accepted": stats.num_accepted,
        "acceptance": stats.acceptance,
        "tokens_per_row_pass": stats.tokens_per_row_pass,
        "bytes_per_pass": num_bytes / stats.num_passes if stats.num_passes else 0.0,
        "memory_bytes_per_s": rate,
        "floor_share": num_bytes / rate / stats.decode_s if stats.num_passes else 0.0,
        "peak_bytes": peak,
    }


def decode_bytes(decoder: Decoder, stats: EngineStats, *, num_head_rows: int) -> int:
    """Return the bytes that the passes after prefill have read at least: weights once a pass, and keys and values.

    Args:
        decoder: that ran them, of any dtypes.
        stats: of its passes.
        num_head_rows: rows of the head whose logits are computed.
    """
    head = _num_bytes(decoder.head) * num_head_rows // decoder.settings.num_rows
    a_pass = _num_bytes(decoder) - _num_bytes(decoder.embedding) - _num_bytes(decoder.head) + head
    shape = decoder.settings
    a_place = 2 * shape.num_layers * shape.num_heads * shape.head_size * decoder.embedding.weight.element_size()
    return stats.num_passes * a_pass + stats.num_attended * a_place


def _num_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
