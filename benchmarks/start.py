"""Whole commands from start to exit: wall, processor and memory of each, and beside another checkout if one is named.

Usage: python benchmarks/start.py FILM [--against CHECKOUT] [--rounds 5]

Commands and checkouts take turns; figures are medians of the rounds, ratios the median of the rounds' own. Another
checkout runs by this one's packages; what it has compiled must lie in it. One line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chexmix_cli import __version__
from chexmix_cli.core.runtime import usable_cores

REPOSITORY = Path(__file__).resolve().parents[1]
Figures = dict[str, float]


def commands(film: Path) -> dict[str, list[str]]:
    """Return the command lines by what they are called."""
    return {
        "--help": ["--help"],
        "tokenize": ["tokenize", str(film)],
        "classify": ["classify", str(film)],
        "generate-report": ["generate-report", str(film)],
    }


def run(words: list[str], checkout: Path) -> Figures:
    """Run a command of a checkout once; its seconds by the wall and the processor, and its largest memory in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    started = time.perf_counter()
    # Not from this folder: `python -m` looks there first.
    process = subprocess.Popen(
        [sys.executable, "-m", "chexmix_cli", *words],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout}: chexmix {' '.join(words)} exits with {process.returncode}")
    return {"wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checkouts = [REPOSITORY, *([options.against.resolve()] if options.against else [])]
    found = {}
    for name, words in commands(options.film.resolve()).items():
        for checkout in checkouts:
            run(words, checkout)  # files read once, hashes remembered
        rounds = [[run(words, checkout) for checkout in checkouts] for _ in range(options.rounds)]
        line: dict[str, Any] = {key: round(statistics.median(one[0][key] for one in rounds), 3) for key in rounds[0][0]}
        if options.against:
            ratios = {key: statistics.median(one[0][key] / one[1][key] for one in rounds) for key in rounds[0][0]}
            line["of the other"] = {key: round(value, 3) for key, value in ratios.items()}
        found[name] = line
    about = {"version": __version__, **_torch(), "cores": usable_cores(), "machine": platform.machine()}
    print(json.dumps({**about, "commands": found}))


def _torch() -> dict[str, str]:
    """Return torch's version and its name for this CPU; asked elsewhere: a child begins with its parent's memory."""
    code = "import torch; print(torch.__version__, torch.backends.cpu.get_cpu_capability())"
    version, cpu = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    return {"torch": version, "cpu": cpu}


if __name__ == "__main__":
    main()
