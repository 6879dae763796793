"""NIH ChestX-ray14: ``Data_Entry_2017[_v2020].csv``, labels joined by ``|``, images in one folder or twelve.

The label list of an image is complete: text mining looked for all 14 findings, so one that is not named is 0. The
published lists ``train_val_list.txt`` and ``test_list.txt`` split by patient; validation patients are drawn from the
first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.layout import find_file, folders_named, require_file
from chexmix_cli.core.data.adapters.reading import first_view, read_age, read_sex, read_view
from chexmix_cli.core.data.labels import NIH_FINDINGS, NO_FINDING, Label, finding_name, listed_labels
from chexmix_cli.core.data.lines import quoted
from chexmix_cli.core.data.tables import match_name, read_table
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ImportSettings

_TABLE = match_name(r"Data_Entry_2017\w*")
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID")
_LISTS = {"train_val": re.compile(r"train_val_list\.txt"), "test": re.compile(r"test_list\.txt")}
_ALL = (NO_FINDING, *NIH_FINDINGS)


def read(root: Path, settings: ImportSettings) -> Iterator[Entry | Rejection]:
    """Yield the images of the table."""
    table = require_file(root, _TABLE, "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv")
    lists = _read_lists(root) if settings.split.source == "dataset" else {}
    folders = ["images/", "", *(f"{name}/images/" for name in folders_named(root, re.compile(r"images_\d+")))]

    def make(cells: Mapping[str, str]) -> Entry:
        name = cells["Image Index"].strip()
        view, notes = first_view(("View Position", read_view(cells.get("View Position"))))
        part = lists.get(name)
        draw = ("train", "val", "test") if not lists else ("train", "val") if part == "train_val" else ()
        return Entry(
            id=PurePosixPath(name).stem,
            paths=tuple(folder + name for folder in folders),
            study=PurePosixPath(name).stem,
            patient=cells["Patient ID"].strip(),
            view=view,
            sex=read_sex(cells.get("Patient Sex") or cells.get("Patient Gender")),
            age=read_age(cells.get("Patient Age")),
            source="nih14",
            split="test" if part == "test" else None,
            draw=draw,
            labels=_labels(cells["Finding Labels"]),
            notes={**notes, "label_source": "table"},
        )

    yield from entries(read_table(table, _COLUMNS), make, id_column="Image Index")


def _labels(cell: str) -> dict[str, Label]:
    """Return all labels of an image, present or absent; none at all where the cell is blank."""
    names = [finding_name(name) for name in cell.split("|") if name.strip()]
    unknown = [name for name in names if name not in _ALL]
    if unknown:
        raise DataError(Reason.BAD_RECORD, f"a finding is {quoted(unknown[0], _ALL)}", expected=", ".join(_ALL))
    if NO_FINDING in names and len(names) > 1:
        raise DataError(Reason.BAD_RECORD, f"{NO_FINDING!r} beside a finding", expected="one or the other")
    stated = listed_labels(names, _ALL) if names else {}
    return {name: stated[name] for name in _ALL if name in stated}


def _read_lists(root: Path) -> dict[str, str]:
    """Return image name to list; empty if neither list is there."""
    found = {part: find_file(root, pattern) for part, pattern in _LISTS.items()}
    if not any(found.values()):
        return {}
    parts: dict[str, str] = {}
    for part, path in found.items():
        if path is None:
            raise DataError(
                Reason.NOT_FOUND,
                "one of the two lists of the published split is missing",
                where=str(root),
                expected="train_val_list.txt and test_list.txt",
                hint="--set split.source=hash draws a split without them",
            )
        try:
            names = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError):
            raise DataError(Reason.UNREADABLE, "cannot be read as text", where=path.name) from None
        parts.update(dict.fromkeys(names, part))
    return parts
