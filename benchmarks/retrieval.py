"""Time and memory of ranking a gallery against itself, both directions, by the size of the gallery.

    OMP_NUM_THREADS=2 python benchmarks/retrieval.py --plot docs/images/retrieval-scale.png

Random vectors: images and reports of N pairs, as ``chexmix evaluate retrieval`` ranks those of a file. Two times:

- queries: 2,000 images against N reports, for each N. That is what a query costs; it must grow linearly with N.
- whole: all N x N pairs, in both directions, once for the largest N. No N x N matrix is ever in memory.

The time of the processors counts beside the wall's: on a machine with nothing else to do it is that times the threads.
Each size is a process of its own, so that its peak memory is its own. On random vectors recall at K must be near K / N,
which is checked: a benchmark of wrong ranks says nothing. One JSON line a size on stdout.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from chexmix_cli.core.evals.metrics.ranks import CosineScores, rank
from chexmix_cli.core.evals.result import Curve, Series
from chexmix_cli.core.present.plots import curve_png
from chexmix_cli.core.settings.retrieval import TileSettings

_QUERIES = 2000
_MIB = 1 << 20


def measure(count: int, size: int, *, is_whole: bool) -> dict[str, float | int | bool]:
    """Return times, peak memory and recalls of one gallery."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(count, size, generator=generator) for _ in range(2))
    before_mib = _peak_mib()
    num_queries = count if is_whole else min(_QUERIES, count)
    queries = images[:num_queries]
    started, processor_started = time.perf_counter(), time.process_time()
    ranks = rank(CosineScores(queries, texts), np.arange(num_queries), np.arange(count), TileSettings())
    elapsed_s, processor_s = time.perf_counter() - started, time.process_time() - processor_started
    image_ranks, text_ranks = ranks.rows_R, ranks.columns_C[~np.isnan(ranks.columns_C)]
    recall = float((image_ranks <= count / 10).mean())
    spread = 5 * (0.09 / num_queries) ** 0.5
    if abs(recall - 0.1) > spread:
        raise SystemExit(f"recall at N / 10 is {recall}, not 0.1: the ranks are wrong")
    return {
        "gallery": count,
        "size": size,
        "whole": is_whole,
        "queries": num_queries,
        "seconds": round(elapsed_s, 2),
        "processor_s": round(processor_s, 2),
        "processor_ns_per_score": round(processor_s / num_queries / count * 1e9, 2),
        "vectors_mib": round(2 * count * size * 4 / _MIB),
        "peak_before_mib": round(before_mib),
        "peak_mib": round(_peak_mib()),
        "matrix_would_be_mib": round(num_queries * count * 4 / _MIB),
        "recall_at_a_tenth": round(recall, 4),
        "recall_at_10": float((image_ranks <= 10).mean()),
        "recall_at_10_text": float((text_ranks <= 10).mean()),
        "threads": torch.get_num_threads(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each size in a process of its own, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="12500,25000,50000,100000", help="galleries, separated by commas")
    parser.add_argument("--size", type=int, default=256, help="numbers of a vector")
    parser.add_argument("--plot", type=Path, help="PNG of time by gallery")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.size, is_whole=options.whole)), flush=True)
        return
    sizes = [int(text) for text in options.sizes.split(",")]
    found = []
    for count, is_whole in [*((count, False) for count in sizes), (max(sizes), True)]:
        command = [sys.executable, __file__, "--one", str(count), "--size", str(options.size)]
        done = subprocess.run([*command, *(["--whole"] if is_whole else [])], stdout=subprocess.PIPE, check=True)
        line = done.stdout.decode().strip()
        print(line, flush=True)
        found.append(json.loads(line))
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_bytes(_plot(found[:-1]))


def _plot(found: list[dict[str, float]]) -> bytes:
    x = [one["gallery"] for one in found]
    first = found[0]["processor_s"] / found[0]["gallery"]
    curve = Curve(
        name="retrieval-scale",
        title=f"{_QUERIES} queries against a gallery, {found[0]['size']:.0f} numbers a vector",
        x_label="vectors in the gallery",
        y_label="seconds of a processor",
        series=[
            Series(name="measured", x=x, y=[one["processor_s"] for one in found]),
            Series(name="linear, from the smallest", x=x, y=[first * count for count in x]),
        ],
    )
    return curve_png(curve)


if __name__ == "__main__":
    main()
