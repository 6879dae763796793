"""Write the manifest that the embedded model is trained from: radiographs with template reports.

    python tools/make_mini_manifest.py /data/radiographs -o manifest.jsonl

SRC is a folder with ``index.jsonl`` (or that file): JSON Lines with ``file``, ``split``, ``dataset``, ``patient``,
``view``, ``age`` and ``labels``. Reports come from ``core/text/templates.py``; each is drawn by seed and file name
alone, so that adding or dropping images changes no other report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import ChexmixError, DataError, Reason
from chexmix_cli.core.text.phrases import NO_FINDING
from chexmix_cli.core.text.templates import UNIVERSES, AgeGroup, write_report

ADULT_AGE_YEARS = 18
FINDINGS = sorted(frozenset().union(*UNIVERSES.values()))


def label_values(labels: list[str], dataset: str) -> dict[str, int | None]:
    """Return finding -> 1 or 0 for what the data set states about this image, None for the rest.

    The children's set names its films as normal or as pneumonia and nothing else: of a pneumonia it says the cause.
    """
    return {finding: (1 if finding in labels else 0) if finding in UNIVERSES[dataset] else None for finding in FINDINGS}


def age_group(dataset: str, age: str | int | None) -> AgeGroup | None:
    """Return what is known of the patient's age: the Kermany films are children's, elsewhere the age in years tells."""
    if dataset == "kermany":
        return "child"
    if age is None:
        return None
    return "adult" if int(age) >= ADULT_AGE_YEARS else "child"


def manifest_row(entry: Mapping[str, Any], folder: Path, output: Path, seed: int) -> dict[str, Any]:
    """Return the manifest line of one index entry.

    Raises:
        DataError: if the data set has no known findings, or the labels contradict each other.
    """
    dataset, file = entry["dataset"], entry["file"]
    if dataset not in UNIVERSES:
        raise DataError(Reason.BAD_RECORD, f"data set {dataset!r}", where=file, expected=", ".join(UNIVERSES))
    findings, impression = write_report(
        entry["labels"],
        universe=UNIVERSES[dataset],
        view=entry["view"],
        age_group=age_group(dataset, entry["age"]),
        rng=random.Random(f"{seed}:{file}"),
    )
    image = (folder / file).resolve()
    near = image.is_relative_to(output.parent.resolve())
    return {
        "id": Path(file).stem,
        "file": os.path.relpath(image, output.parent.resolve()) if near else str(image),
        "patient": f"{dataset}:{entry['patient']}",
        "view": entry["view"],
        "split": entry["split"],
        "labels": label_values(entry["labels"], dataset),
        "findings": findings,
        "impression": impression,
    }


def read_index(source: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of an index file."""
    with source.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def main(arguments: list[str] | None = None) -> int:
    """Write the manifest and say what it holds; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with index.jsonl, or the file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="manifest to write")
    parser.add_argument("--seed", type=int, default=0, help="draws the wording of the reports")
    options = parser.parse_args(arguments)
    source = options.source / "index.jsonl" if options.source.is_dir() else options.source
    try:
        rows = [manifest_row(entry, source.parent, options.output, options.seed) for entry in read_index(source)]
    except (ChexmixError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_name(options.output.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(options.output)
    normal = sum(row["labels"][NO_FINDING] == 1 for row in rows)
    print(f"{options.output}: {len(rows)} images, {normal} without findings", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
