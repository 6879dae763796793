"""What loading a quantised decoder costs: seconds and the most memory held, made each time and kept on disk.

    python benchmarks/load_quantized.py /tmp/one --layers 1 --quantize int4

The released shape of so many layers with random weights, written to the folder once. Each load is a process of its own:
``off`` makes the packed weights and keeps none, ``first`` makes and keeps them, ``again`` maps what is kept. Seconds of
the processor and of the wall, without the import of torch; memory with it, before loading, at the most while loading,
and after one token.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from write_random import write_random


def main() -> None:
    """Print a line of JSON for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--quantize", choices=("int8", "int4"), default="int4")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one == "write":
        write_random(options.folder, num_layers=options.layers)
        return
    if options.one is not None:
        print(json.dumps({"load": options.one, **measured(options.folder, options.quantize)}), flush=True)
        return
    with tempfile.TemporaryDirectory() as home:
        # Each a child of this small process: what a parent holds counts in its child's peak.
        for name in ("write", "off", "first", "again"):
            changed = {"CHEXMIX_HOME": home, "CHEXMIX_PACKED": "off" if name == "off" else "keep"}
            subprocess.run([sys.executable, *sys.argv, "--one", name], check=True, env=os.environ | changed)


def measured(folder: Path, quantize: str) -> dict[str, float]:
    """Return what loading costs this process."""
    import torch

    from chexmix_cli.core.runtime import peak_memory, resident_memory
    from chexmix_cli.core.weights import open_weights

    cpu = torch.device("cpu")
    before, started, used = resident_memory(), time.perf_counter(), time.process_time()
    decoder = open_weights(folder).load_decoder(cpu, torch.float32, quantize=quantize)  # type: ignore[arg-type]
    wall_s, processor_s, peak = time.perf_counter() - started, time.process_time() - used, peak_memory(cpu)
    with torch.inference_mode():
        decoder.logits(decoder(torch.zeros(1, 1, dtype=torch.int64)))
    sizes = {"before": before, "peak": peak, "after_a_token": resident_memory()}
    times = {"wall_s": wall_s, "processor_s": processor_s}
    return {name: round(value, 2) for name, value in times.items()} | {
        f"{name}_mb": round(value / 1e6) for name, value in sizes.items()
    }


if __name__ == "__main__":
    main()
