"""CheXpert Plus: ``df_chexpert_plus_240401.csv`` with reports by section, ``PNG/`` images, CheXbert labels apart.

The table names ``.jpg`` files; what is published are ``.png`` (and ``.dcm``) of the same names. Labels are in
``chexbert_labels/{report,findings,impression}_fixed.json``, one object an image, by its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from chexmix_cli.core.data.adapters.datasets.chexpert import split_path, stated_view
from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.label_table import LabelTable
from chexmix_cli.core.data.adapters.layout import find_file, require_file
from chexmix_cli.core.data.adapters.reading import (
    Report,
    first_view,
    named_sections,
    read_age,
    read_report,
    read_sex,
    read_split,
)
from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS
from chexmix_cli.core.data.lines import read_json_lines
from chexmix_cli.core.data.tables import blank_to_none, match_name, read_table
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ChexpertPlusImport

_TABLE = match_name(r"df_chexpert_plus_\d+")
_FOLDERS = ("PNG/", "PNG/PNG/", "", "images/")


def read(root: Path, settings: ChexpertPlusImport) -> Iterator[Entry | Rejection]:
    """Yield the images of the table."""
    table = require_file(root, _TABLE, "df_chexpert_plus_240401.csv")
    labels = _read_labels(root, settings.labels)

    def make(cells: Mapping[str, str]) -> Entry:
        return _entry(cells, labels)

    yield from entries(read_table(table, ("path_to_image",)), make, id_column="path_to_image")


def _entry(cells: Mapping[str, str], labels: LabelTable | None) -> Entry:
    folder, patient, study, stem = split_path(cells["path_to_image"])
    key = f"{folder}/{patient}/{study}/{stem}"
    view, notes = first_view(*stated_view(cells.get("frontal_lateral"), cells.get("ap_pa"), stem))
    found = None if labels is None else labels.get(key)
    if labels is not None and found is not None:
        notes["label_source"] = labels.source
    return Entry(
        id=key,
        paths=tuple(_paths(key, blank_to_none(cells.get("path_to_dcm")))),
        study=f"{patient}/{study}",
        patient=blank_to_none(cells.get("deid_patient_id")) or patient,
        view=view,
        sex=read_sex(cells.get("sex")),
        age=read_age(cells.get("age")),
        source="chexpert-plus",
        split=read_split(cells.get("split")) or read_split(folder),
        labels=found or {},
        **_report(cells).fields(**notes),
    )


def _paths(key: str, dicom: str | None) -> Iterator[str]:
    for suffix in (".png", ".jpg"):
        yield from (f"{folder}{key}{suffix}" for folder in _FOLDERS)
    yield from (f"{folder}{dicom or key + '.dcm'}" for folder in ("DICOM/", ""))


def _report(cells: Mapping[str, str]) -> Report:
    """Return the table's own sections, or those that our parser finds where it has neither."""
    report = named_sections(cells.get("section_findings"), cells.get("section_impression"), source="section_{}")
    if report.findings or report.impression:
        return report
    return read_report(cells.get("report"))


def _read_labels(root: Path, part: str) -> LabelTable | None:
    path = None if part == "none" else find_file(root, re.compile(rf"{part}_fixed\.jsonl?"))
    if path is None:
        return None
    labels = LabelTable(CHEXPERT_FINDINGS, path.name)
    for where, values in read_json_lines(path):
        image = values.get("path_to_image")
        if not isinstance(image, str):
            raise DataError(
                Reason.BAD_RECORD,
                "no labels of an image",
                where=where,
                expected='a line {"path_to_image": ..., "Edema": ...}',
            )
        labels.put("/".join(split_path(image)), values)
    return labels
