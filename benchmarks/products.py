"""Products of few and many rows with a matrix of the released block, as torch computes them and as the decoder does.

    OMP_NUM_THREADS=1 python benchmarks/products.py

Several matrices in turn, so that none stays in the cache. Time of the processor, best of all, with one thread: what
else the machine does changes that less. A table of milliseconds on stdout. ``core/models/linear.py`` chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.models import linear
from chexmix_cli.core.runtime import has_cpu_bfloat16, has_cpu_int8

OUT, IN, MATRICES, ROUNDS = 17920, 2560, 3, 3
ROWS = (1, 2, 4, 8, 64, 1027)
#: Rows above which torch's own way is not tried where it is known to be slow.
MOST_SLOW_ROWS = 64


def main() -> None:
    """Measure, and print the table."""
    torch.manual_seed(0)
    wide = [torch.randn(OUT, IN).mul_(0.02) for _ in range(MATRICES)]
    narrow = [matrix.bfloat16() for matrix in wide]
    eighth = [linear.quantize_rows(matrix, where="benchmark") for matrix in wide]
    print(f"this CPU multiplies bfloat16: {has_cpu_bfloat16()}, 8 bits: {has_cpu_int8()}")
    ways: dict[str, Callable[[int, Tensor], Tensor]] = {
        "float32, torch": lambda number, x: F.linear(x, wide[number]),
        "float32, ours": lambda number, x: linear.product(x, wide[number]),
        "bfloat16, torch": lambda number, x: F.linear(x.bfloat16(), narrow[number]),
        "bfloat16, ours": lambda number, x: linear.product(x.bfloat16(), narrow[number]),
        "8 bits, ours": lambda number, x: linear.int8_product(x, *eighth[number]),
    }
    print(" | ".join(["rows", *ways]))
    for rows in ROWS:
        x = torch.randn(rows, IN)
        cells = []
        for name, way in ways.items():
            is_slow = name == "bfloat16, torch" and rows > MOST_SLOW_ROWS and not has_cpu_bfloat16()
            cells.append("-" if is_slow else f"{best_ms(way, x):.1f}")
        print(" | ".join([str(rows), *cells]), flush=True)


@torch.inference_mode()
def best_ms(way: Callable[[int, Tensor], Tensor], x: Tensor) -> float:
    """Return the least processor time of one product, in milliseconds."""
    times = []
    for number in [*range(MATRICES)] * (ROUNDS if len(x) <= MOST_SLOW_ROWS else 1):
        started = time.process_time()
        way(number, x)
        times.append(time.process_time() - started)
    return min(times) * 1000


if __name__ == "__main__":
    main()
