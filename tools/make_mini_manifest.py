"""Write the manifest that the embedded model is trained from: radiographs with template reports.

    python tools/make_mini_manifest.py /data -o manifest.jsonl [--films films]

SRC is a folder with ``radiographs/`` and ``adult_normals/``, or one of these, or an ``index.jsonl``, which is then
taken by itself: JSON Lines with ``file``, ``split``, ``dataset``, ``patient``, ``view``, ``age`` and ``labels``.
Splits are as given there; a film without patient is a patient of its own. Reports come from
``core/text/templates.py``; each is drawn by seed and file name alone, so that adding or dropping images changes no
other report.

Where experts have read a film (``expert_labels.jsonl`` in the folder) they win over text-mined labels: first the
RSNA radiologists' class, then Google's readers, then NIH's boxes.

- Normal: ``No Finding``, and nothing else.
- An opacity read by either: ``Lung Opacity``, beside the text-mined findings, in its boxes.
- None read: no ``Lung Opacity``; text-mined pneumonia, consolidation and infiltration become unknown.
- Google's pneumothorax is present or absent as read. No nodule or mass: neither. One of them: if no text names which,
  both are unknown.
- A box of NIH's places its finding, unless that is no longer present.
- ``No Finding`` is then absent if something is present or RSNA calls the film not normal, and unknown if what made it
  absent has become so. What comes of this is the manifest's ``labels``; reports are written from them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.labels import Label, finding_name
from chexmix_cli.core.errors import ChexmixError, DataError, Reason
from chexmix_cli.core.text.header import AgeGroup, age_group_of
from chexmix_cli.core.text.phrases import LUNG_OPACITY, NO_FINDING
from chexmix_cli.core.text.places import Place, place_of_box
from chexmix_cli.core.text.templates import UNIVERSES, write_report

FINDINGS = sorted(frozenset().union(*UNIVERSES.values()))
FOLDERS = ("radiographs", "adult_normals")
INDEX, EXPERTS = "index.jsonl", "expert_labels.jsonl"
RSNA_OPACITY: Mapping[str, Label] = {"Lung Opacity": 1, "No Lung Opacity / Not Normal": 0, "Normal": 0}
#: Text-mined findings that claim an opacity of the kind the radiologists were asked for.
CLAIM_OPACITY = ("Pneumonia", "Consolidation", "Infiltration")
NODULE_OR_MASS = ("Nodule", "Mass")

Labels = dict[str, Label]


def label_values(labels: list[str], dataset: str) -> Labels:
    """Return finding -> 1 or 0 for what the data set states about this image, None for the rest.

    The children's set names its films as normal or as pneumonia and nothing else: of a pneumonia it says the cause.
    """
    return {finding: (1 if finding in labels else 0) if finding in UNIVERSES[dataset] else None for finding in FINDINGS}


def expert_values(labels: Labels, expert: Mapping[str, Any]) -> Labels:
    """Return the labels of an NIH film as experts leave them: the rule of this file's head.

    Args:
        labels: text-mined, of every finding.
        expert: the film's line of expert labels.
    """
    rsna, google = expert.get("rsna_class"), google_answers(expert)
    if rsna == "Normal":
        return {**label_values([NO_FINDING], "nih14"), LUNG_OPACITY: 0}
    found = dict(labels)
    found[LUNG_OPACITY] = RSNA_OPACITY[rsna] if rsna is not None else google.get(LUNG_OPACITY)
    if found[LUNG_OPACITY] == 0:
        found.update({name: None for name in CLAIM_OPACITY if found[name] == 1})
    if google:
        found["Pneumothorax"] = google["Pneumothorax"]
        if google["Nodule or mass"] == 0:
            found.update(dict.fromkeys(NODULE_OR_MASS, 0))
        elif not any(found[name] == 1 for name in NODULE_OR_MASS):
            found.update(dict.fromkeys(NODULE_OR_MASS, None))
    others = [value for name, value in found.items() if name != NO_FINDING]
    if 1 in others or rsna is not None or 1 in google.values():
        found[NO_FINDING] = 0
    elif found[NO_FINDING] == 0:
        found[NO_FINDING] = None
    return found


def google_answers(expert: Mapping[str, Any]) -> Labels:
    """Return what Google's readers said, 1 or 0 by finding: of opacity, pneumothorax, nodule or mass, and fracture."""
    answers = expert.get("google2019", {})
    return {finding_name(name): int(said == "YES") for name, said in answers.items() if said in ("YES", "NO")}


def expert_places(labels: Labels, expert: Mapping[str, Any]) -> dict[str, list[Place]]:
    """Return where findings that are present lie, by the boxes drawn for them.

    A finding with a box that lies on neither side (see ``place_of_box``) has no place: what is left would be a part.
    """
    boxes: dict[str, list[list[float]]] = {LUNG_OPACITY: expert.get("opacity_boxes_xywh_1024") or []}
    for name, *box in expert.get("nih_bbox_xywh_1024") or []:
        boxes.setdefault(finding_name(name), []).append([float(value) for value in box])
    found = {}
    for name, drawn in boxes.items():
        places = [place_of_box(*box) for box in drawn]
        if labels.get(name) == 1 and None not in places:
            found[name] = [place for place in places if place is not None]
    return found


def age_group(dataset: str, age: str | int | None) -> AgeGroup | None:
    """Return what is known of the patient's age: the Kermany films are children's, elsewhere the age in years tells."""
    if dataset == "kermany":
        return "child"
    return age_group_of(None if age is None else int(age))


def manifest_row(
    entry: Mapping[str, Any], expert: Mapping[str, Any] | None, image: Path, output: Path, seed: int
) -> dict[str, Any]:
    """Return the manifest line of one index entry.

    Args:
        entry: of the index.
        expert: what experts said of the film, or None.
        image: what the manifest is to call the film's file.
        output: the manifest.
        seed: draws the wording.

    Raises:
        DataError: if the data set has no known findings, or the labels contradict each other.
    """
    dataset, file = entry["dataset"], entry["file"]
    if dataset not in UNIVERSES:
        raise DataError(Reason.BAD_RECORD, f"data set {dataset!r}", where=file, expected=", ".join(UNIVERSES))
    named = list(entry["labels"])
    unknown = sorted(set(named) - UNIVERSES[dataset])
    if unknown:
        raise DataError(
            Reason.BAD_RECORD, f"label {unknown[0]!r} is not among the source's", expected=", ".join(UNIVERSES[dataset])
        )
    labels = label_values(named, dataset)
    places: dict[str, list[Place]] = {}
    if expert is not None:
        labels = expert_values(labels, expert)
        places = expert_places(labels, expert)
    stem, near = Path(file).stem, image.is_relative_to(output.parent.resolve())
    findings, impression = write_report(
        [name for name, value in labels.items() if value == 1],
        universe=[name for name, value in labels.items() if value is not None],
        view=entry["view"],
        age_group=age_group(dataset, entry.get("age")),
        rng=random.Random(f"{seed}:{file if image.stem == stem else image.stem}"),
        places=places,
    )
    read = dataset == "rsna_normal" or expert is not None
    return {
        "id": image.stem,
        "file": os.path.relpath(image, output.parent.resolve()) if near else str(image),
        "patient": f"{dataset}:{entry['patient'] or stem}",
        "view": entry["view"],
        "split": entry["split"],
        "labels": labels,
        "findings": findings,
        "impression": impression,
        "notes": {"labels_source": "radiologists" if read else "data set"},
    }


def sources(path: Path) -> list[Path]:
    """Return the folders with an index of a folder that was given."""
    return [path / name for name in FOLDERS if (path / name / INDEX).is_file()] or [path]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of an index file, or of a file of expert labels."""
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def manifest_rows(
    index: Path, experts: Path | None, output: Path, films: Path | None, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the manifest lines of one index.

    Args:
        index: the file.
        experts: what experts said of its films; need not be there.
        output: the manifest.
        films: folder that ``make_mini_films.py`` wrote: ``<id>.jpg`` in place of each film, and changed copies of
            training films, ``<id>.1.jpg`` and so on, each with a report of its own wording; or None.
        seed: draws the wording.
    """
    said = {line["file"]: line for line in read_lines(experts)} if experts is not None and experts.is_file() else {}
    for entry in read_lines(index):
        stem = Path(entry["file"]).stem
        images = [index.parent / entry["file"]]
        if films is not None:
            images = [films / f"{stem}.jpg", *copies(films, stem)]
        for image in images:
            yield manifest_row(entry, said.get(entry["file"]), image.resolve(), output, seed)


def copies(films: Path, stem: str) -> Iterator[Path]:
    """Yield the changed copies of a film, in order of their numbers."""
    for number in itertools.count(1):
        path = films / f"{stem}.{number}.jpg"
        if not path.is_file():
            return
        yield path


def main(arguments: list[str] | None = None) -> int:
    """Write the manifest and say what it holds; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the sources' folders or index.jsonl, or the file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="manifest to write")
    parser.add_argument("--films", type=Path, help="folder that make_mini_films.py wrote")
    parser.add_argument("--seed", type=int, default=0, help="draws the wording of the reports")
    options = parser.parse_args(arguments)
    try:
        given = options.source
        files = [(f / INDEX, f / EXPERTS) for f in sources(given)] if given.is_dir() else [(given, None)]
        rows = [
            row
            for index, experts in files
            for row in manifest_rows(index, experts, options.output, options.films, options.seed)
        ]
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
