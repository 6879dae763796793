"""Small inputs of every kind, and copies of them that differ in all that must not matter."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from dataset_trees import write_csv
from PIL import Image

from chexmix_cli.core.weights.files import HEAD_FILE
from tests.cli.conftest import film_pixels, write_dicom
from tests.determinism.commands import NO_DROPOUT

#: Films of the manifest; every third is for validation.
NUM_FILMS = 9
#: What commands write is in here.
OUT = "out"
#: The time of each file in the copies of the other run.
_OTHER_TIME_S = 1_000_000_000

#: Makes a head, which is put beside the weights in ``headed``.
_HEAD = "finetune --task classify --method probe --preset debug --manifest manifest.jsonl --init weights -o head"
_ONE_STEP = "--set train.steps=1 --set documents.variants=1"
#: Command lines that make what others read, with the file that their records go to.
MADE: tuple[tuple[str, str], ...] = (
    ("codes.jsonl", "tokenize films --weights weights"),
    ("", "tokenize - -o shards --weights weights --set shards.rows=4 < manifest.jsonl"),
    ("", "tokenize - -o parts --weights weights --set shards.rows=2 --shard 0/2 < manifest.jsonl"),
    ("", "tokenize - -o parts --weights weights --set shards.rows=2 --shard 1/2 < manifest.jsonl"),
    ("", "retrieve index manifest.jsonl -o index --with-text --weights weights"),
    ("findings.jsonl", "classify - --weights headed < manifest.jsonl"),
    # Fine-tuning has the dropout of the weights it begins with.
    (
        "",
        f"pretrain --stage 1 --preset debug --manifest shards --init weights {NO_DROPOUT} {_ONE_STEP} -o calm",
    ),
    ("", "evaluate report reports.jsonl --references manifest.jsonl -o before.json {few}"),
    ("", "evaluate report other-reports.jsonl --references manifest.jsonl -o after.json {few}"),
)
_FEW = "--set bootstrap.resamples=100 --set external.run=false"


def write_inputs(folder: Path, weights: Path, run: Callable[[str, Path, str], None]) -> None:
    """Write the folder that every command runs in a copy of.

    Args:
        folder: made.
        weights: of the small model.
        run: runs a command line to its end in the folder, and gives its records to a file if that has a name.
    """
    for name in ("films", "some", "studies", OUT):
        (folder / name).mkdir(parents=True)
    shutil.copytree(weights, folder / "weights")
    lines, reports = [], []
    for number in range(NUM_FILMS):
        name, has_effusion = f"{number:02d}.png", number // 2 % 2
        Image.fromarray(film_pixels(number, 64)).save(folder / "films" / name)
        text = f"Film {number}. {'Large effusion.' if has_effusion else 'Clear lungs.'}"
        line = {"id": name, "file": f"films/{name}", "split": "val" if number % 3 == 2 else "train"}
        labels = {"Pleural Effusion": has_effusion, "Edema": number % 2}
        lines.append({**line, "patient": f"p{number}", "labels": labels, "findings": text})
        reports.append({"id": name, "status": "ok", "report": f"FINDINGS: {text} The heart is large."})
    others = [
        {**one, "report": f"FINDINGS: {'Edema.' if number % 2 else ''} Clear lungs."}
        for number, one in enumerate(reports)
    ]
    for name, records in (("manifest", lines), ("reports", reports), ("other-reports", others)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    for number in (1, 2):
        write_dicom(folder / "studies" / f"study-{number}.dcm", number, study=str(number))
    # Films of several kinds, one of them damaged.
    shutil.copytree(folder / "studies", folder / "some", dirs_exist_ok=True)
    for number in range(4):
        shutil.copy(folder / "films" / f"{number:02d}.png", folder / "some")
    (folder / "some" / "cut.png").write_bytes((folder / "films" / "00.png").read_bytes()[:300])
    with zipfile.ZipFile(folder / "some" / "films.zip", "w") as archive:
        archive.write(folder / "films" / "05.png", "05.png")
    _write_tree(folder)
    run(_HEAD, folder, "")
    shutil.copytree(weights, folder / "headed")
    shutil.copy(folder / "head" / HEAD_FILE, folder / "headed")
    for records, words in MADE:
        run(words.format(few=_FEW), folder, records)


def _write_tree(folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir()
    rows = [(f"{n}.png", f"p{n // 2}", "PA", n % 2, f"Film {n}. Clear lungs.") for n in range(6)]
    for number, row in enumerate(rows):
        Image.fromarray(film_pixels(number, 64)).save(tree / str(row[0]))
    write_csv(
        tree / "films.csv", ["file", "patient", "view", "Edema", "findings"], [*rows, ("gone.png", "p9", "PA", 0, "")]
    )
    studies = {
        "one": {"key_image_path": "00.png", "image_path": [], "report": "Clear."},
        "two": {"key_image_path": "01.png", "image_path": ["01.png", "02.png"], "report": "Effusion."},
    }
    (folder / "rexrank.json").write_text(json.dumps(studies))


def copy_inputs(template: Path, folder: Path, *, is_other: bool) -> None:
    """Copy the inputs; those of the other run in the opposite order, and all of one time that is long ago."""
    paths = sorted(template.rglob("*"), reverse=is_other)
    for path in paths:
        target = folder / path.relative_to(template)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if is_other:
            os.utime(target, (_OTHER_TIME_S, _OTHER_TIME_S))
