"""Attention of a few new positions to a cache on a CPU: compiled, beside torch's, the same numbers, in turns.

    OMP_NUM_THREADS=1 python benchmarks/attention.py [-o attention.json]

Of one layer, with the caches of several layers in turn, so that none stays in the processor's. Least time of the turns
of each way, wall's clock; the bytes of keys and values over it; the largest error against float64. A table on stdout,
all figures as JSON to ``-o``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.kernels.decode_attention import native, reference

#: Heads, their size, and positions of the cache: the released model in a report, and chexmix-mini.
SHAPES = {"released": (32, 80, 1100), "chexmix-mini": (8, 32, 800)}
#: Bytes that the caches of a shape have together: more than a processor's.
_WORKING_SET = 150_000_000
_SPARE = 100

Way = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, nargs="+", default=[1, 2, 4, 9, 16], help="positions of a pass")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    found = []
    with torch.inference_mode():
        for name in SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                found += measured(name, dtype, options.new, options.turns)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


def measured(name: str, dtype: torch.dtype, widths: Sequence[int], turns: int) -> list[dict[str, Any]]:
    """Return the figures of a shape, and print them."""
    heads, size, places = SHAPES[name]
    num_bytes = 2 * heads * places * size * dtype.itemsize
    count = max(2, _WORKING_SET // num_bytes)
    generator = torch.Generator().manual_seed(0)
    buffer = torch.randn(2, count, 1, heads, places + _SPARE, size, generator=generator).to(dtype)
    caches = [(keys[:, :, :places], values[:, :, :places]) for keys, values in zip(*buffer, strict=True)]
    found = []
    for new in (new for new in widths if new <= native.MOST_NEW[dtype]):
        q = torch.randn(1, new, heads, size, generator=generator).transpose(1, 2).to(dtype)
        mask = None if new == 1 else torch.ones(1, new, places, dtype=torch.bool).tril(places - new)
        assert native.takes(q), "the kernels in C do not run here"
        exact = reference.attend(q.double(), caches[0][0].double(), caches[0][1].double(), mask)
        row: dict[str, Any] = {"shape": name, "dtype": str(dtype).removeprefix("torch."), "new": new}
        ways: dict[str, Way] = {"torch": reference.attend, "compiled": native.attend}
        best = dict.fromkeys(ways, float("inf"))
        for turn in range(turns):
            for way in list(ways)[:: 1 if turn % 2 else -1]:
                started = time.perf_counter()
                for keys, values in caches:
                    ways[way](q, keys, values, mask)
                best[way] = min(best[way], (time.perf_counter() - started) / count)
        for way, attend in ways.items():
            row[f"{way}_ms"] = round(best[way] * 1e3, 3)
            row[f"{way}_error"] = float((attend(q, *caches[0], mask).double() - exact).abs().max())
        row |= {
            "ratio": round(best["torch"] / best["compiled"], 2),
            "gb_s": round(num_bytes / best["compiled"] / 1e9, 1),
        }
        print(" | ".join(map(str, row.values())), flush=True)
        found.append(row)
    return found


if __name__ == "__main__":
    main()
