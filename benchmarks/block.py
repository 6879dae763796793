"""A pass of few positions behind a cache, with a block's branches in one compiled call and as torch computes them.

    OMP_NUM_THREADS=2 python benchmarks/block.py --weights FOLDER --quantize int8 --positions 1 9 --pairs 14
    OMP_NUM_THREADS=2 python benchmarks/block.py --behind 820

Both ways in turns over random keys and values, every second pair the other way round: milliseconds of the wall's clock,
medians, and the median of the paired ratios. Attention is the compiled one in both. One line of JSON a number of
positions on stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from unittest import mock

import torch

from chexmix_cli.core.kernels.block_branches import native
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.weights import open_weights


def main() -> None:
    """Measure, and print a line for each number of positions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--positions", type=int, nargs="+", default=[1, 4, 9], help="of a pass")
    parser.add_argument("--behind", type=int, default=1027, help="positions that the cache holds")
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    decoder = open_weights(options.weights).load_decoder("cpu", torch.float32, quantize=options.quantize)
    for positions in options.positions:
        sys.stdout.write(json.dumps(compared(decoder, positions, options.behind, options.pairs)) + "\n")


@torch.inference_mode()
def compared(decoder: Decoder, positions: int, behind: int, pairs: int) -> dict[str, float]:
    """Return the medians of both ways, and of their ratio."""
    cache = decoder.new_cache(1, behind + positions)
    cache.keys_LBNSH.normal_()
    cache.values_LBNSH.normal_()
    token_ids = torch.full((1, positions), 5)
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(pairs + 2):
        for together in (True, False) if number % 2 else (False, True):
            with mock.patch.object(native, "takes", native.takes if together else lambda *_: False):
                cache.length, started = behind, time.perf_counter()
                decoder.logits(decoder(token_ids, cache=cache)[:, -1])
                taken_ms = 1e3 * (time.perf_counter() - started)
            if number >= 2:  # what is set up once
                times[together].append(taken_ms)
    ratios = [other / own for own, other in zip(times[True], times[False], strict=True)]
    return {
        "positions": positions,
        "one_call_ms": round(statistics.median(times[True]), 2),
        "torch_ms": round(statistics.median(times[False]), 2),
        "ratio": round(statistics.median(ratios), 3),
    }


if __name__ == "__main__":
    main()
