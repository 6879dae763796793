"""Hold `chexmix plan` against what runs really take: peak memory and seconds a step, each run a process of its own.

Usage: python benchmarks/plan_check.py MANIFEST [--case NAME ...] [--rounds 3] [--steps 4]

MANIFEST has train and val rows with reports (tools/make_mini_manifest.py). Plan and run alternate, --rounds times; the
median of a case's ratios counts, so that a machine that is busy for a while does not decide. The exit code is 1 if a
ratio is off by more than 20 %.

Seconds are those of the processor in one thread, which on an idle machine are the wall's: others may use the machine
meanwhile. With --wall they are the wall's, in as many threads as torch takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.manifest import read_manifest, write_manifest

#: How far a plan may be off.
ALLOWED = 0.2
MIB = 1024**2


@dataclass(frozen=True)
class Case:
    """A run to plan: stage, preset, and what is set above it."""

    stage: str
    preset: str
    settings: tuple[str, ...]


def decoder(hidden: int, layers: int, batch: int, micro: int) -> tuple[str, ...]:
    """Return the settings of a decoder that differs from mini's in size only."""
    sizes = {
        "model.decoder.hidden_size": hidden,
        "model.decoder.num_layers": layers,
        "model.decoder.mlp_size": 4 * hidden,
        "train.batch_size": batch,
        "train.micro_batch_size": micro,
    }
    return tuple(f"{name}={value}" for name, value in sizes.items())


CASES = {
    "tokenizer, mini (3 M)": Case("tokenizer", "mini", ()),
    "stage 1, mini (6 M)": Case("1", "mini", ("train.batch_size=8", "train.micro_batch_size=8")),
    "stage 1, 34 M": Case("1", "mini", decoder(512, 10, 4, 2)),
    "stage 2, 88 M": Case("2", "mini", ("documents.text_tokenizer=chexmix-mini", *decoder(768, 12, 2, 1))),
}
LAUNCH = [sys.executable, "-m", "chexmix_cli"]
#: Runs the command line with every clock that of the processor.
PROCESSOR = """
import sys, time
time.perf_counter = time.process_time
from chexmix_cli.__main__ import run
sys.exit(run(sys.argv[1:]))
"""


def main() -> int:
    """Run the cases and print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    if not options.wall:
        os.environ["OMP_NUM_THREADS"] = "1"
        LAUNCH[:] = [sys.executable, "-c", PROCESSOR]
    is_off = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = subset(options.manifest, folder / "films.jsonl")
        common = (f"train.precision={options.precision}", f"train.steps={options.steps}", "train.log_every=1")
        start = folder / "start"
        chexmix("pretrain", Case("tokenizer", "mini", (*common, "train.steps=1")), data, ("--out", str(start)))
        print("case | predicted MiB | measured MiB | ratio | predicted s/step | measured s/step | ratio")
        for title in options.case or CASES:
            case = CASES[title]
            case = Case(case.stage, case.preset, (*common, *case.settings))
            rounds = [
                compare(case, data, start, folder / f"{list(CASES).index(title)}-{number}")
                for number in range(options.rounds)
            ]
            is_off |= report(title, rounds)
    return int(is_off)


def subset(manifest: Path, target: Path) -> Path:
    """Write a manifest of 48 train and 16 val films, evenly over the splits, and return it."""
    kept = []
    for split, count in (("train", 48), ("val", 16)):
        rows = list(read_manifest(manifest, split=split))
        kept += [rows[place * len(rows) // count] for place in range(count)]
    write_manifest(target, kept)
    return target


def compare(case: Case, data: Path, start: Path, out: Path) -> tuple[float, float, float, float]:
    """Return predicted and measured bytes, predicted and measured seconds a step."""
    plan = json.loads(chexmix("plan", case, data, ("--memory", "1024"))[0])
    init = () if case.stage == "tokenizer" else ("--init", str(start))
    _, peak = chexmix("pretrain", case, data, ("--out", str(out), *init))
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [record["examples_per_s"] for record in records if "examples_per_s" in record]
    batch = json.loads((out / "settings.json").read_text())["train"]["batch_size"]
    # The first step makes the optimiser's state and torch's plans of its kernels.
    return plan["peak_bytes"], peak, plan["seconds"]["step"], batch / statistics.median(rates[1:])


def chexmix(command: str, case: Case, data: Path, more: tuple[str, ...]) -> tuple[str, int]:
    """Return what a command prints and the peak of its resident memory in bytes."""
    words = ["plan", "pretrain"] if command == "plan" else [command]
    settings = [word for assignment in case.settings for word in ("--set", assignment)]
    arguments = ["--stage", case.stage, "--preset", case.preset, "--manifest", str(data), *settings, *more]
    process = subprocess.Popen([*LAUNCH, *words, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    printed = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(words)} failed: {arguments}")
    return printed, usage.ru_maxrss * 1024


def report(title: str, rounds: list[tuple[float, float, float, float]]) -> bool:
    """Print a case; return whether memory or time is off by more than is allowed."""
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    ratios: list[Any] = [
        statistics.median(one[0] / one[1] for one in rounds),
        statistics.median(one[2] / one[3] for one in rounds),
    ]
    memory = f"{middle[0] / MIB:.0f} | {middle[1] / MIB:.0f} | {ratios[0]:.2f}"
    print(f"{title} | {memory} | {middle[2]:.2f} | {middle[3]:.2f} | {ratios[1]:.2f}", flush=True)
    return any(abs(ratio - 1) > ALLOWED for ratio in ratios)


if __name__ == "__main__":
    sys.exit(main())
