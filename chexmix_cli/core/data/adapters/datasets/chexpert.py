"""CheXpert: ``train.csv``, ``valid.csv`` and, where it was added, a table of the test set; 14 labels an image.

Paths in the tables begin with ``CheXpert-v1.0/`` or ``CheXpert-v1.0-small/``, whatever the folder is called; the full
release unpacks into ``CheXpert-v1.0 batch 2 (train 1)`` and the like. Only what follows is trusted:
``train/patient00001/study1/view1_frontal.jpg``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.layout import find_file, folders_named
from chexmix_cli.core.data.adapters.reading import first_view, read_age, read_sex, read_split, read_view
from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, finding_name, parse_labels
from chexmix_cli.core.data.tables import match_name, read_columns, read_table
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ImportSettings

#: Tables in the order they are read. The test labels were published later, under two names.
_TABLES = {"train": "train", "valid": "valid", "test": "test|test_labels|groundtruth"}
_PATH = re.compile(r"(?:.*/)?(train|valid|test)/(patient\d+)/(study\d+)/([^/]+)\.\w+")


def read(root: Path, settings: ImportSettings) -> Iterator[Entry | Rejection]:
    """Yield the images of all tables that are there."""
    tables = {split: find_file(root, match_name(names)) for split, names in _TABLES.items()}
    if not any(tables.values()):
        raise DataError(
            Reason.NOT_FOUND,
            "neither train.csv nor valid.csv is here",
            where=str(root),
            expected="the folder with both",
        )
    folders = ["", *folders_named(root, re.compile(r"CheXpert.*", re.IGNORECASE))]

    def make(cells: Mapping[str, str]) -> Entry:
        return _entry(cells, folders)

    for path in tables.values():
        if path is not None:
            _check_label_columns(path)
            yield from entries(read_table(path, ("Path",)), make, id_column="Path")


def split_path(path: str) -> tuple[str, str, str, str]:
    """Return split folder, patient, study and file stem of an image's path in CheXpert's tables.

    Raises:
        DataError: ``BAD_RECORD`` if the path has another form.
    """
    match = _PATH.fullmatch(path.strip().replace("\\", "/"))
    if match is None:
        raise DataError(
            Reason.BAD_RECORD,
            "the image's path has another form",
            expected="train/patient00001/study1/view1_frontal.jpg",
        )
    split, patient, study, stem = match.groups()
    return split, patient, study, stem


def stated_view(frontal_or_lateral: str | None, ap_or_pa: str | None, stem: str) -> Iterator[tuple[str, View]]:
    """Yield what columns and file name say of the view, best first.

    Where the columns contradict each other (a frontal film with the direction ``LL``) it is not known which is right.
    """
    side, direction = read_view(frontal_or_lateral), read_view(ap_or_pa)
    is_frontal = direction in (View.PA, View.AP)
    if View.UNKNOWN not in (side, direction) and is_frontal != (side is View.FRONTAL):
        return
    # "PA" says more than "frontal"; which side a lateral film shows is not kept.
    yield "AP/PA", direction if is_frontal else View.UNKNOWN
    yield "Frontal/Lateral", side
    yield "AP/PA", direction
    yield "file name", read_view(stem.partition("_")[2])


def _entry(cells: Mapping[str, str], folders: list[str]) -> Entry:
    path = cells["Path"].strip().replace("\\", "/")
    split, patient, study, stem = split_path(path)
    below = f"{patient}/{study}/{path.rpartition('/')[2]}"
    view, notes = first_view(*stated_view(cells.get("Frontal/Lateral"), cells.get("AP/PA"), stem))
    tails = itertools.product(folders, (f"{split}/{below}", below))
    return Entry(
        id=f"{split}/{patient}/{study}/{stem}",
        paths=(path, *(f"{folder}/{tail}" if folder else tail for folder, tail in tails)),
        study=f"{patient}/{study}",
        patient=patient,
        view=view,
        sex=read_sex(cells.get("Sex")),
        age=read_age(cells.get("Age")),
        source="chexpert",
        split=read_split(split),
        labels=parse_labels(cells, CHEXPERT_FINDINGS),
        notes={**notes, "label_source": "table"},
    )


def _check_label_columns(path: Path) -> None:
    """Raise DataError if a table has none of the labels: then it is another table of that name."""
    columns = read_columns(path)
    if not {finding_name(column) for column in columns} & set(CHEXPERT_FINDINGS):
        raise DataError(
            Reason.BAD_RECORD, "no column of a CheXpert finding", where=path.name, expected=", ".join(CHEXPERT_FINDINGS)
        )
