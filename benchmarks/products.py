"""Products of few and many rows with matrices of the released shape: as the decoder does, and as was tried.

    OMP_NUM_THREADS=1 python benchmarks/products.py
    OMP_NUM_THREADS=1 python benchmarks/products.py --rows 1 9 --shapes 2560x10240 --tried -o products.json

Several matrices in turn, so that none stays in the cache. The ways take turns, too, and each has the least processor
time of all its turns, with one thread: what else the machine does changes that less, and ratios least. Beside
milliseconds, the bytes of the weights over that time as a share of what plain reading reaches in the same run. A table
on stdout, all figures as JSON to ``-o``. ``core/models/linear.py`` and ``core/models/quantized.py`` choose.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.kernels.quantized import native, reference
from chexmix_cli.core.kernels.quantized.panels import to_panels
from chexmix_cli.core.models import linear, quantized
from chexmix_cli.core.runtime import has_cpu_bfloat16, has_cpu_int8

ROWS = (1, 2, 4, 8, 9, 16, 64, 256)
#: A block's first product as (outputs, inputs).
SHAPES = ("17920x2560",)
#: Bytes that the matrices of a way have together: more than a cache holds.
WORKING_SET = 600_000_000
#: Rows above which torch's own way is not tried where it is known to be slow.
MOST_SLOW_ROWS = 64

#: A way to multiply, by the number of a matrix; and the bytes of one.
Ways = dict[str, tuple[Callable[[int, Tensor], Tensor], int]]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="OUTxIN")
    parser.add_argument("--tried", action="store_true", help="also what was tried and is not taken")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    levels = ", ".join(native.usable_levels()) or "none"
    print(f"kernels: {levels}; multiplies bfloat16: {has_cpu_bfloat16()}")
    found: list[dict[str, Any]] = []
    rate = 0.0
    for shape in options.shapes:
        num_out, num_in = map(int, shape.split("x"))
        ways = make_ways(num_out, num_in, tried=options.tried)
        for rows in options.rows:
            x = torch.randn(rows, num_in)
            times = best_s(ways, x, options.turns if rows <= MOST_SLOW_ROWS else 3)
            rate = max(rate, ways["reading"][1] / times["reading"])
            for name, seconds in times.items():
                share = ways[name][1] / seconds / rate
                ratio = times["float32"] / seconds
                found.append(
                    {"shape": shape, "rows": rows, "way": name, "s": seconds, "x_float32": ratio, "read": share}
                )
                cells = f"{seconds * 1e3:.2f} ms | {ratio:.2f} x float32 | {share:.0%} of reading"
                print(f"{shape} | {rows} | {name} | {cells}")
            sys.stdout.flush()
    if options.output is not None:
        record = {"kernels": levels, "torch": str(torch.__version__), "bytes_per_s": rate, "products": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def make_ways(num_out: int, num_in: int, *, tried: bool) -> Ways:
    """Return the ways to multiply with matrices of one shape, each with matrices of its own."""
    size = num_out * num_in
    first = torch.randn(num_out, num_in).mul_(0.02)
    wide = [first.clone() for _ in range(_count(4 * size))]
    narrow = [first.bfloat16() for _ in range(_count(2 * size))]
    steps, scale = reference.quantize_8(first, where="benchmark")
    eighth = [steps.clone() for _ in range(_count(size))]
    ways: Ways = {
        "reading": (lambda n, x: wide[n % len(wide)].view(torch.int64).sum(), 4 * size),
        "float32": (lambda n, x: linear.product(x, wide[n % len(wide)]), 4 * size),
        "bfloat16": (lambda n, x: linear.product(x.bfloat16(), narrow[n % len(narrow)]), 2 * size),
        "8 bits, torch": (lambda n, x: quantized.int8_product(x, eighth[n % len(eighth)], scale), size),
    }
    for bits, narrowed in ((8, (steps, scale)), (4, reference.quantize_4(first, where="benchmark"))):
        panels = to_panels(*narrowed)
        num_bytes = panels.weight.nbytes + panels.scale.nbytes
        copies = [
            panels._replace(weight=panels.weight.clone(), scale=panels.scale.clone()) for _ in range(_count(num_bytes))
        ]
        for name, level in native.usable_levels().items():
            # Levels start at matrices that lie apart: what one of them has read is in no cache when the next comes.
            shift = level * len(copies) // 3
            ways[f"{bits} bits, {name}"] = (
                lambda n, x, copies=copies, level=level, shift=shift: native.product(
                    x, copies[(n + shift) % len(copies)], level=level
                ),
                num_bytes,
            )
    return ways | (tried_ways(wide, eighth, scale) if tried else {})


def _count(num_bytes: int) -> int:
    return max(3, WORKING_SET // num_bytes)


def tried_ways(wide: list[Tensor], eighth: list[Tensor], scale: Tensor) -> Ways:
    """Return torch's other ways."""
    warnings.filterwarnings("ignore")
    weight, count = wide[0], len(eighth)
    size = weight.numel()

    def integer(n: int, x: Tensor) -> Tensor:
        step = x.abs().amax(dim=1, keepdim=True) / 127
        return torch._int_mm((x / step).round().to(torch.int8), eighth[n % count].t()).float() * step * scale

    ways: Ways = {
        "torch, float32": (lambda n, x: F.linear(x, wide[n % len(wide)]), 4 * size),
        "weights left, float32": (lambda n, x: torch.mm(wide[n % len(wide)], x.t()).t().contiguous(), 4 * size),
        "torch, _int_mm": (integer, size),
    }
    layer = quantized._Torch4
    packed, scales = layer.hold(*reference.quantize_4(weight, where="benchmark"))
    fourth = [packed.clone() for _ in range(count)]
    ways["torch, _weight_int4pack_mm_for_cpu"] = (
        lambda n, x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), fourth[n % count], 32, scales),
        packed.nbytes + scales.nbytes,
    )
    # Without instructions for 8 bits sums of two products are held in 16 bits and overflow, unless a bit is left free.
    reduce_range = not has_cpu_int8()
    for engine in ("x86", "onednn"):
        torch.backends.quantized.engine = engine
        whole = torch.quantize_per_channel(
            weight, scale.double(), torch.zeros(len(scale), dtype=torch.int64), 0, torch.qint8
        )
        prepared = [torch.ops.quantized.linear_prepack(whole, None) for _ in range(count)]
        ways[f"torch, linear_dynamic, {engine}"] = (
            lambda n, x, prepared=prepared: torch.ops.quantized.linear_dynamic(x, prepared[n % count], reduce_range),
            size,
        )
    return ways


@torch.inference_mode()
def best_s(ways: Ways, x: Tensor, turns: int) -> dict[str, float]:
    """Return the least processor time of each way, in seconds."""
    times = dict.fromkeys(ways, float("inf"))
    for number in range(turns):
        for name, (way, _) in ways.items():
            is_slow = name == "bfloat16" and len(x) > MOST_SLOW_ROWS and not has_cpu_bfloat16()
            if is_slow:
                continue
            started = time.process_time()
            way(number, x)
            times[name] = min(times[name], time.process_time() - started)
    return {name: seconds for name, seconds in times.items() if seconds < float("inf")}


if __name__ == "__main__":
    main()
