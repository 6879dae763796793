"""Everything to find out about a GPU in one command: correctness first, then times; one JSON file and one page.

    make gpu-day                       # of the first CUDA device
    python benchmarks/gpu_day.py OUT [--only NAME ...] [--list]

Each part is a process of its own with a log in OUT; one that fails or is cut off stops no other. What needs something
that is not there (a second card, vLLM) is skipped, and its log says so. Written: ``OUT/gpu-day.json`` and
``OUT/gpu-day.html``. The exit code is 0 if every part passed, 3 if some did, 1 if none did, 4 where there is no CUDA
device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image

from chexmix_cli.core.present.pages import render

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
NO_GPU = 4
#: Films that training learns from, and their side in pixels.
_FILMS, _SIDE = 24, 300
_STEPS = "train.steps=6 train.log_every=1 train.validate_every=6 train.checkpoint_every=6 train.patience=0"


@dataclass(frozen=True)
class Part:
    """One thing to find out.

    Attributes:
        name: in a word or two; files of the part are called so.
        commands: run one after the other until one fails.
        limit_s: after which a command is cut off.
        results: JSON Lines that the commands write, to be shown.
        tests: pytest's XML report that they write.
    """

    name: str
    commands: Sequence[Sequence[str]]
    limit_s: int
    results: Sequence[Path] = ()
    tests: Path | None = None


@dataclass
class Outcome:
    """What a part came to: ``passed``, ``failed`` or ``cut off``."""

    name: str
    status: str
    seconds: float
    commands: list[str]
    log: str
    tests: dict[str, int] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)


def parts(out: Path) -> list[Part]:
    """Return all parts, in the order in which they run."""
    python, tests = sys.executable, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"]
    kernels, decode = out / "kernel-times.jsonl", out / "reports.jsonl"
    return [
        Part(
            "kernels",
            [[*tests, "tests/kernels", f"--junitxml={out / 'kernels.xml'}"]],
            1800,
            tests=out / "kernels.xml",
        ),
        Part(
            "commands",
            [[*tests, "tests/card/test_real_card.py", f"--junitxml={out / 'commands.xml'}"]],
            1800,
            tests=out / "commands.xml",
        ),
        Part("kernel times", [[python, str(HERE / "gpu_kernels.py"), "-o", str(kernels)]], 1800, [kernels]),
        Part(
            "reports",
            [[python, str(HERE / "gpu_decode.py"), str(out / "random-weights"), "-o", str(decode)]],
            3600,
            [decode],
        ),
        _training(out, python),
    ]


def _training(out: Path, python: str) -> Part:
    """Return a few steps of each stage of the preset ``small``, each starting from the one before."""
    work = out / "training"
    common = ["--preset", "small", "--manifest", str(work / "manifest.jsonl"), "--device", "cuda"]
    sets = [word for setting in _STEPS.split() for word in ("--set", setting)]
    stages: list[list[str]] = []
    start: Path | None = None
    written: list[Path] = []
    for stage in ("tokenizer", "1", "2"):
        init = [] if start is None else ["--init", str(start)]
        start = work / f"stage-{stage}"
        command = [python, "-m", "chexmix_cli", "pretrain", "--stage", stage, *common, "--out", str(start), *init]
        stages.append([*command, *sets])
        written.append(start / "metrics.jsonl")
    return Part("training", stages, 1800, written)


def write_films(folder: Path) -> None:
    """Write drawn films with reports, half of them to learn from, as ``folder/manifest.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(_FILMS):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))
        path = folder / f"film-{number}.png"
        coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path)
        row = {"id": path.stem, "file": str(path), "patient": path.stem, "split": "train" if number % 2 else "val"}
        rows.append({**row, "findings": f"Drawn film {number}.", "impression": "No finding."})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_part(part: Part, out: Path, environment: Mapping[str, str]) -> Outcome:
    """Run the commands of a part, their output in its log, and collect what they wrote."""
    log, status, started = out / f"{part.name.replace(' ', '-')}.log", "passed", time.perf_counter()
    with log.open("w") as file:
        for command in part.commands:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            try:
                done = subprocess.run(
                    command,
                    cwd=REPOSITORY,
                    env=dict(environment),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=part.limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                status = "cut off"
                break
            if done.returncode != 0:
                status = "failed"
                break
    seconds = time.perf_counter() - started
    found = [json.loads(line) for path in part.results if path.exists() for line in path.read_text().splitlines()]
    commands = [" ".join(command) for command in part.commands]
    return Outcome(part.name, status, seconds, commands, log.name, count_tests(part.tests), found)


def count_tests(report: Path | None) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, by pytest's XML report."""
    if report is None or not report.exists():
        return {}
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    failed, skipped, tests = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (("failures", "errors"), ("skipped",), ("tests",))
    )
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped}


def machine() -> dict[str, Any]:
    """Return what these figures were measured on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{card.name}, {card.total_memory >> 30} GiB, sm_{card.major}{card.minor}"
    for name in ("triton", "transformers", "vllm"):
        try:
            found[name] = __import__(name).__version__
        except ImportError:
            found[name] = None
    return found


def write_results(out: Path, facts: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write the JSON file and the page."""
    document = {"machine": facts, "parts": [vars(outcome) for outcome in outcomes]}
    (out / "gpu-day.json").write_text(json.dumps(document, indent=1) + "\n")
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plain"] = render.plain
    style = (REPOSITORY / "chexmix_cli/core/present/templates/page.css").read_text()
    tables = {outcome.name: table(outcome.results) for outcome in outcomes}
    page = environment.get_template("gpu_day.html").render(machine=facts, outcomes=outcomes, tables=tables, style=style)
    (out / "gpu-day.html").write_text(page)


def table(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns of results, in the order in which they first appear, and their rows; lists are left out."""
    columns = list(dict.fromkeys(name for one in results for name, value in one.items() if not isinstance(value, list)))
    return columns, [[one.get(name) for name in columns] for one in results]


def main() -> int:
    """Run the parts, and write what they came to after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these parts")
    parser.add_argument("--list", action="store_true", help="print the parts' commands and stop")
    options = parser.parse_args()
    out = options.out.resolve()
    chosen = [part for part in parts(out) if not options.only or part.name in options.only]
    if options.list:
        for part in chosen:
            print(part.name, *(f"  {' '.join(command)}" for command in part.commands), sep="\n")
        return 0
    if not torch.cuda.is_available():
        print("error: no CUDA device: there is nothing to find out on this machine", file=sys.stderr)
        print("hint: --list shows what would run", file=sys.stderr)
        return NO_GPU
    out.mkdir(parents=True, exist_ok=True)
    write_films(out / "training")
    facts, outcomes = machine(), list[Outcome]()
    for part in chosen:
        print(f"{part.name}: log in {out / part.name.replace(' ', '-')}.log", file=sys.stderr, flush=True)
        outcomes.append(run_part(part, out, os.environ))
        print(f"{part.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        write_results(out, facts, outcomes)
    num_passed = sum(outcome.status == "passed" for outcome in outcomes)
    return 0 if num_passed == len(outcomes) else 3 if num_passed else 1


if __name__ == "__main__":
    sys.exit(main())
