"""Command lines on two devices, and how their records and files compare; for the pretended card and for a real one."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from scenarios import Scenario

from chexmix_cli.__main__ import run as run_app
from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES

#: What differs between two runs anyway: where they ran, and with what, the paths they wrote, and how fast they were.
OWN_KEYS = {"device", "kernels", "picture", "panels", "left_s", *CLOCK_FIGURES}
#: Two ways of summing differ by no more than this, as a share or at all.
RELATIVE, ABSOLUTE = 2e-3, 2e-4


class MismatchError(AssertionError):
    """The card gave something else than the CPU."""


def run(
    scenario: Scenario, device: str, weights: str, folder: Path, begin: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return the records and the files of a scenario on a device; ``begin`` is called before each command."""
    out = folder / "out" / scenario.name.replace(" ", "-") / device.replace(":", "")
    out.mkdir(parents=True)
    records: list[Any] = []
    for line in scenario.commands:
        words = [
            word.format(films=folder / "films", manifest=folder / "manifest.jsonl", out=out, weights=weights)
            for word in line
        ]
        if line[0] == "finetune":
            words += ["--init", weights]
        elif line[0] != "pretrain":
            words += ["--weights", weights, "--dtype", "float32"]
        begin()
        code, text, problem = call([*words, "--device", device])
        if code != 0:
            raise MismatchError(f"{' '.join(line)}: exit code {code}: {problem}")
        records += [json.loads(record) for record in text.split("\n") if record]
    return {"records": records, **dict(read_files(out))}


def call(words: list[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command line."""
    out, problem = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(problem):
        code = run_app(words)
    out.seek(0)
    return int(code), out.read(), problem.getvalue()


def read_files(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a command wrote: pictures, tensors and metrics, by name."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            yield name, [json.loads(line) for line in path.read_text().split("\n") if line]
        elif path.suffix == ".png" and path.name != "losses.png":
            yield name, np.asarray(Image.open(path)).astype(np.float64) / 255
        elif path.suffix == ".safetensors" and "checkpoints" not in path.parts:
            yield name, load_file(path)


def compare(expected: Any, found: Any, where: str) -> None:
    """Raise MismatchError unless both are the same but for rounding."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            raise MismatchError(f"{where}: {sorted(expected)} on the CPU, {sorted(found)} on the card")
        for key in expected.keys() - OWN_KEYS:
            compare(expected[key], found[key], f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            compare(one, other, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray) or (isinstance(expected, float) and isinstance(found, float)):
        difference = np.abs(np.asarray(expected, np.float64) - np.asarray(found, np.float64))
        if not (difference <= ABSOLUTE + RELATIVE * np.abs(np.asarray(expected, np.float64))).all():
            raise MismatchError(f"{where}: differs by {np.nanmax(difference):.3g}")
    elif expected != found:
        raise MismatchError(f"{where}: {str(expected)[:60]} on the CPU, {str(found)[:60]} on the card")


def write_films(folder: Path) -> None:
    """Write 12 films, every other with a bright disc, and their manifest; one of the films apart."""
    (folder / "films").mkdir()
    lines = []
    for index in range(12):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[0:96, 0:96] / 96
        values = 0.2 + 0.2 * y
        for _ in range(3):
            centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
            values += 0.2 * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / 0.05)
        if index % 2 == 0:
            values[(y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.02] = 1.0
        path = folder / ("films" if index < 3 else ".") / f"film{index}.png"
        Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8)).save(path)
        split, text = "val" if index % 3 == 2 else "train", "a mass" if index % 2 == 0 else "clear lungs"
        row = {"id": f"film{index}", "file": str(path), "patient": f"p{index}", "split": split}
        labels = {"Mass": int(index % 2 == 0)}
        lines.append(json.dumps({**row, "labels": labels, "findings": f"Case {index}: {text}."}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
