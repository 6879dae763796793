"""PadChest: one CSV, 16-bit PNG in numbered folders, reports in Spanish, labels as a Python list in a cell.

The published reports are stemmed and without punctuation; they are kept as they are and marked. ``Projection`` was
curated (by hand or by a network, see ``MethodProjection``) and goes before the DICOM header's view. Labels name what is
present; what a list leaves out is not stated, unless ``absent_is_zero`` names it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.layout import require_file
from chexmix_cli.core.data.adapters.reading import first_view, read_sex, read_view, tidy
from chexmix_cli.core.data.labels import Label, listed_labels
from chexmix_cli.core.data.tables import blank_to_none, match_name, read_table
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ListedImport

_TABLE = match_name(r"PADCHEST_chest_x_ray_images_labels_160K.*?")
_COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Labels")
_LANGUAGE = "es, stemmed"


def read(root: Path, settings: ListedImport) -> Iterator[Entry | Rejection]:
    """Yield the images of the table."""
    table = require_file(root, _TABLE, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv")

    def make(cells: Mapping[str, str]) -> Entry:
        return _entry(cells, settings)

    yield from entries(read_table(table, _COLUMNS), make, id_column="ImageID")


def _entry(cells: Mapping[str, str], settings: ListedImport) -> Entry:
    name, folder = cells["ImageID"].strip(), (blank_to_none(cells["ImageDir"]) or "").removesuffix(".0")
    if not name:
        raise DataError(Reason.BAD_RECORD, "no ImageID")
    view, notes = first_view(*_stated_views(cells))
    if view is not View.UNKNOWN and notes["view_source"] == "Projection":
        notes |= _noted("view_method", cells.get("MethodProjection"))
    report = tidy(cells.get("Report"))
    if report is not None:
        notes |= {"findings_source": "Report", "language": _LANGUAGE}
    return Entry(
        id=PurePosixPath(name).stem,
        paths=(f"{folder}/{name}", name, f"images/{name}", f"images/{folder}/{name}"),
        study=blank_to_none(cells["StudyID"]),
        patient=blank_to_none(cells["PatientID"]),
        view=view,
        sex=read_sex(cells.get("PatientSex_DICOM")),
        source="padchest",
        labels=_labels(cells["Labels"], settings.absent_is_zero),
        findings=report,
        notes={**notes, "label_source": "Labels", **_noted("label_method", cells.get("MethodLabel"))},
    )


def _stated_views(cells: Mapping[str, str]) -> Iterator[tuple[str, View]]:
    # Beside views it says COSTAL and EXCLUDE, both of them neither frontal nor lateral, and UNK.
    yield "Projection", read_view(cells.get("Projection"))
    yield "ViewPosition_DICOM", read_view(cells.get("ViewPosition_DICOM"))


def _noted(name: str, cell: str | None) -> dict[str, str]:
    text = blank_to_none(cell)
    return {} if text is None else {name: text}


def _labels(cell: str, absent_is_zero: tuple[str, ...]) -> dict[str, Label]:
    """Return the labels of a cell such as ``['pneumonia', ' costophrenic angle blunting']``; blank states nothing."""
    text = blank_to_none(cell)
    if text is None:
        return {}
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(Reason.BAD_RECORD, "Labels is no list", expected="a list such as ['pneumonia']")
    present = [name.strip() for name in names if name.strip()]
    return listed_labels(present, absent_is_zero) if present else {}
