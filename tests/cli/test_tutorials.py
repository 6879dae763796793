"""Tutorials and the like: a page's shell commands, run in order in a folder that holds what the page says one needs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import data_store
import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = DOCS / "tutorials"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def film(path: Path, *, has_mass: bool, seed: int) -> None:
    """Draw a picture of a size that is quick to read; a mass is a bright disc."""
    y, x = np.mgrid[0:96, 0:96] / 96
    rng = np.random.default_rng(seed)
    values = 60 + 60 * y + 40 * np.exp(-((x - 0.5) ** 2) / 0.05) + rng.normal(0, 3, (96, 96))
    if has_mass:
        values[(y - 0.35) ** 2 + (x - rng.uniform(0.3, 0.7)) ** 2 < 0.02] = 250
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path)


def films(folder: Path, count: int) -> list[dict[str, object]]:
    """Draw films and return what is known of each."""
    rows = []
    for number in range(count):
        has_mass = number % 2 == 0
        film(folder / "films" / f"film{number:02}.png", has_mass=has_mass, seed=number)
        rows.append({"file": f"film{number:02}.png", "patient": f"p{number}", "Mass": int(has_mass)})
    return rows


def some_films(folder: Path) -> None:
    films(folder, 2)
    shutil.copy(DOCS / "images" / "demo-film.jpg", folder / "films" / "child.jpg")


def labelled(folder: Path) -> None:
    rows = [row | {"sex": "FM"[n // 2 % 2], "age": 30 + n} for n, row in enumerate(films(folder, 24))]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def reported(folder: Path) -> None:
    lines = [
        {
            "id": f"film{n:02}",
            "file": str(folder / "films" / str(row["file"])),
            "patient": row["patient"],
            "split": "val" if n % 3 == 2 else "train",
            "findings": "A mass is seen." if row["Mass"] else "The lungs are clear.",
        }
        for n, row in enumerate(films(folder, 12))
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    film(folder / "films" / "query.jpg", has_mass=True, seed=99)


def systems(folder: Path) -> None:
    texts = {"a": "A mass is seen in case {}.", "b": "No mass is seen in case {}.", "c": "A mass is seen in case {}."}
    names = {"references.jsonl": texts["a"], **{f"system-{name}.jsonl": text for name, text in texts.items()}}
    for name, text in names.items():
        lines = [{"id": str(n), "report": text.format(n)} for n in range(12)]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def edited(folder: Path) -> None:
    """Stand in for the reader: what the page exports after every study was gone through."""
    lines = [
        {"id": path.name, "file": f"films/{path.name}", "split": "val" if n else "train", "decision": "edited"}
        | {"report": "FINDINGS: The lungs are clear.\nIMPRESSION: Normal.", "labels": {"Pneumonia": 0}}
        for n, path in enumerate(sorted((folder / "films").iterdir()))
    ]
    (folder / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def a_study(folder: Path) -> None:
    shutil.copy(Path(data_store.__file__).parent / "data" / "RG1_J2KR.dcm", folder / "film.dcm")
    shutil.copy(DOCS / "images" / "demo-film.jpg", folder / "film.jpg")


#: Page to what it says one needs, and to the files that it promises.
TUTORIALS: dict[str, tuple[tuple[Callable[[Path], None], ...], str]] = {
    "radiologist": ((some_films, edited), "reports.csv review.html runs/mine/model/model.safetensors"),
    "data-scientist": ((labelled,), "head/head.safetensors roc.html result.json findings.csv"),
    "ml-engineer": ((reported,), "shards/shards.json runs/two/model/model.safetensors"),
    "benchmark": ((systems,), "table.tex a.json"),
    "retrieval": ((reported,), "found.html alike.html"),
    "inpainting": ((some_films,), "filled.html filled.jsonl filled"),
    "../clinical": ((a_study,), "documents all/film.jpg-fhir.json all/film.jpg-pdf.dcm result.json"),
    "shell": ((some_films,), "tokens.jsonl reports.jsonl result.json settings.json completion.bash help.txt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs(name, repository, tmp_path):
    needs, promised = TUTORIALS[name]
    for need in needs:
        need(tmp_path)
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    programme = tmp_path / "bin" / "chexmix"
    programme.parent.mkdir()
    programme.write_text(f'#!/bin/sh\nexec {sys.executable} -m chexmix_cli "$@"\n')
    programme.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programme.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    script = "set -euo pipefail\n" + "\n".join(BLOCK.findall(page))
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for file in promised.split():
        assert (tmp_path / file).exists(), f"{file}: {done.stderr[-1000:]}"


def test_every_tutorial_is_run():
    assert {page.stem for page in PAGES.glob("*.md")} == {name for name in TUTORIALS if "/" not in name}
