"""Small samples of the development data, laid out as the commands of ``tools/recorded_commands.txt`` read them.

Nothing of the toolkit is used, so that two checkouts get the same bytes. The reports are real ones of other patients
than the films, dealt out in order: they may not be shipped, and neither may a recording.
"""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

#: Films of each split, half of them with a pneumonia.
_FILMS = {"train": 20, "val": 10}
_PAIRS = 24
#: Longest report: with an image it has to fit the positions of the embedded model.
_REPORT_CHARACTERS = 320
_ODD_BYTES = 300_000


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _films(radiographs: Path, reports: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Copy films into ``folder`` and return their manifest lines: children's films, one a patient, classes in turn."""
    (folder / "films").mkdir()
    rows: list[dict[str, Any]] = []
    index = [entry for entry in read_lines(radiographs / "index.jsonl") if entry["dataset"] == "kermany"]
    for split, count in _FILMS.items():
        classes: dict[bool, dict[str, dict[str, Any]]] = {True: {}, False: {}}
        for entry in index:
            if entry["split"] == split:
                classes["Pneumonia" in entry["labels"]].setdefault(entry["patient"], entry)
        in_turn = [entry for pair in zip(*(one.values() for one in classes.values()), strict=False) for entry in pair]
        for number, entry in enumerate(in_turn[:count]):
            name, is_ill = f"{split}{number:02}", int("Pneumonia" in entry["labels"])
            shutil.copyfile(radiographs / entry["file"], folder / f"films/{name}.jpg")
            report = reports[len(rows)]
            # A line on stdin counts its path from the folder of the command, one in a file from the file's folder.
            row = {"id": name, "file": f"../in/films/{name}.jpg", "patient": entry["patient"], "split": split}
            row |= {"view": "AP", "labels": {"Pneumonia": is_ill, "No Finding": 1 - is_ill, "Edema": None}}
            rows.append(row | {"findings": report["findings"], "impression": report["impression"]})
    return rows


def _data_sets(films: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write trees as three data sets are published, the last row of each without its image."""
    files = [folder / row["file"] for row in films[:6]]
    names = [*(path.name for path in files), "gone.jpg"]
    rows = [(name, f"p{number // 2}", "PA", number % 3 - 1, "Clear lungs.") for number, name in enumerate(names)]
    write_table(folder / "folder/films.csv", ["file", "patient", "view", "Edema", "findings"], rows)
    for path in files:
        shutil.copyfile(path, folder / "folder" / path.name)
    paths = [f"patient{number:05}/study1/view1_frontal.jpg" for number in range(1, 6)]
    table = [(f"CheXpert-v1.0-small/train/{path}", "Male", 50, "Frontal", "AP", 1.0, "", -1.0) for path in paths]
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "Edema", "Fracture", "Pneumonia"]
    write_table(folder / "CheXpert-v1.0-small/train.csv", columns, table)
    names = [f"{number:08}_000.png" for number in range(1, 6)]
    entries = [(name, "Mass|Nodule" if name < "00000003" else "No Finding", name[:8], "PA") for name in names]
    columns = ["Image Index", "Finding Labels", "Patient ID", "View Position"]
    write_table(folder / "nih14/Data_Entry_2017_v2020.csv", columns, entries)
    (folder / "nih14/train_val_list.txt").write_text("".join(f"{name}\n" for name in names[:3]))
    (folder / "nih14/test_list.txt").write_text("".join(f"{name}\n" for name in names[3:]))
    for row, path, name in zip(films, paths[:-1], names, strict=False):
        for target in (folder / "CheXpert-v1.0-small/train" / path, folder / "nih14/images_001/images" / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(folder / row["file"]).save(target)


def _report_pairs(reports: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write predictions (JSON Lines and CSV) and references, every report but the first against the one before it."""
    references = [(f"r{number}", one["report"]) for number, one in enumerate(reports[:_PAIRS])]
    predictions = [(f"r{number}", reports[max(0, number - 1)]["report"]) for number in range(_PAIRS - 2)]
    write_table(folder / "references.csv", ["id", "report"], references)
    write_table(folder / "predictions.csv", ["id", "report"], predictions[::-1])
    write_lines(folder / "predictions.jsonl", [{"id": name, "report": report} for name, report in predictions])


def make_samples(shared: Path, folder: Path) -> None:
    """Write the samples into ``folder``, from the development data under ``shared``."""
    data = shared / "data"
    folder.mkdir(parents=True)
    reports = [one for one in read_lines(data / "reports/iu_reports.jsonl") if one["findings"] and one["impression"]]
    reports = [one for one in reports if len(one["report"]) < _REPORT_CHARACTERS]
    films = _films(data / "radiographs", reports, folder)
    write_lines(folder / "films.jsonl", films)
    write_lines(folder / "val.jsonl", [row for row in films if row["split"] == "val"])
    few = [row for split in _FILMS for row in [one for one in films if one["split"] == split][:6]]
    write_lines(folder / "few.jsonl", few)
    leak = films[2] | {"split": "val", "patient": films[3]["patient"]}
    again, gone = films[1] | {"file": films[0]["file"]}, films[4] | {"file": "gone.jpg"}
    write_lines(folder / "bad.jsonl", [films[0], again, leak, films[3], gone])
    write_lines(folder / "twice.jsonl", [films[0], films[0]])
    named = [{"id": Path(row["file"]).name} | {key: row[key] for key in ("findings", "impression")} for row in films]
    write_lines(folder / "film_reports.jsonl", named)
    _report_pairs(reports[len(films) :], folder)
    _data_sets(films, folder)
    mask = Image.new("L", Image.open(folder / "films/val00.jpg").size)
    ImageDraw.Draw(mask).rectangle((60, 70, 120, 110), fill=255)
    mask.save(folder / "mask.png")
    for name in ("dicom", "odd"):
        (folder / name).mkdir()
    for path in sorted((data / "dicom/chest").iterdir()):
        shutil.copyfile(path, folder / "dicom" / path.name)
    odd = [*sorted((data / "dicom/other").iterdir()), *sorted((data / "dicom_odd").glob("*.dcm"))]
    for path in odd:
        if path.stat().st_size < _ODD_BYTES:
            shutil.copyfile(path, folder / "odd" / path.name)
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        archive.write(folder / "dicom/SIIM_CR_JPEGbaseline.dcm", "study/1.dcm")
        archive.writestr("study/readme.txt", "no film")
