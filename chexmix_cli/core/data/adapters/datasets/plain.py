"""A table of your own: one CSV, one image a row, whose columns are named by settings or bear one of the usual names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.layout import require_file
from chexmix_cli.core.data.adapters.reading import (
    Report,
    first_view,
    named_sections,
    read_age,
    read_report,
    read_sex,
    read_split,
    read_view,
)
from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, NIH_FINDINGS, finding_name, parse_labels
from chexmix_cli.core.data.tables import blank_to_none, check_columns, list_columns, read_columns, read_table
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ColumnSettings, TableImport

#: Field to the names its column usually has; upper and lower case are the same.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "path", "image", "image_path", "filename", "file_name"),
    "id": ("id", "image_id", "dicom_id"),
    "patient": ("patient", "patient_id", "patientid", "subject_id", "subject"),
    "study": ("study", "study_id", "studyid"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "sex": ("sex", "gender", "patient_sex"),
    "age": ("age", "patient_age", "age_years"),
    "source": ("source", "dataset", "site", "hospital"),
    "split": ("split", "subset"),
    "findings": ("findings", "section_findings"),
    "impression": ("impression", "section_impression"),
    "report": ("report", "text"),
}
_FINDINGS = tuple(dict.fromkeys((*CHEXPERT_FINDINGS, *NIH_FINDINGS)))
_ANY_TABLE = re.compile(r"[^.].*\.csv(\.gz)?", re.IGNORECASE)


def read(root: Path, settings: TableImport) -> Iterator[Entry | Rejection]:
    """Yield the images of the table."""
    path = settings.table or require_file(root, _ANY_TABLE, "a CSV, or --set table=FILE")
    columns = resolve_columns(path, read_columns(path), settings.columns)
    folder = path.parent.relative_to(root).as_posix() if path.is_relative_to(root) else "."

    def make(cells: Mapping[str, str]) -> Entry:
        return _entry(cells, columns, folder)

    yield from entries(read_table(path), make, id_column=columns.id or columns.file or "")


def resolve_columns(path: Path, header: Sequence[str], settings: ColumnSettings) -> ColumnSettings:
    """Return the column of each field; None for one that the table has no column for.

    Raises:
        DataError: if a column that the settings name is not there, or none for ``file``.
    """
    named = dataclasses.asdict(settings)
    wanted = [name for name in (*(named[field] for field in USUAL_NAMES), *settings.labels) if name is not None]
    check_columns(path, header, wanted)
    by_name = {name.lower(): name for name in reversed(header)}
    columns = {
        field: named[field] or next((by_name[name] for name in names if name in by_name), None)
        for field, names in USUAL_NAMES.items()
    }
    if columns["file"] is None:
        raise DataError(
            Reason.BAD_RECORD,
            f"no column for the image's file ({list_columns(header)})",
            where=path.name,
            expected=", ".join(USUAL_NAMES["file"]),
            hint="--set columns.file=NAME",
        )
    stated = {finding_name(name) for name in header}
    labels = settings.labels or tuple(name for name in _FINDINGS if name in stated)
    return ColumnSettings(**columns, labels=labels)


def _entry(cells: Mapping[str, str], columns: ColumnSettings, folder: str) -> Entry:
    def cell(column: str | None) -> str | None:
        return None if column is None else blank_to_none(cells.get(column))

    file = cell(columns.file)
    if file is None:
        raise DataError(Reason.BAD_RECORD, "no file")
    view, notes = first_view((f"column {columns.view}", read_view(cell(columns.view))))
    labels = parse_labels(cells, columns.labels)
    if labels:
        notes["label_source"] = "table"
    return Entry(
        # As a walk through the folder names it (core/data/studies/walking.py): predictions find their rows.
        id=cell(columns.id) or PurePosixPath(file.replace("\\", "/")).as_posix(),
        paths=(file, f"{folder}/{file}", f"images/{file}"),
        study=cell(columns.study),
        patient=cell(columns.patient),
        view=view,
        sex=read_sex(cell(columns.sex)),
        age=read_age(cell(columns.age)),
        source=cell(columns.source),
        split=read_split(cell(columns.split)),
        # A table with a column of splits leaves out an image by leaving it blank.
        draw=() if columns.split is not None else ("train", "val", "test"),
        labels=labels,
        **_report(cells, columns).fields(**notes),
    )


def _report(cells: Mapping[str, str], columns: ColumnSettings) -> Report:
    findings = None if columns.findings is None else cells.get(columns.findings)
    impression = None if columns.impression is None else cells.get(columns.impression)
    report = named_sections(findings, impression, source="column {}")
    if report.findings or report.impression or columns.report is None:
        return report
    return read_report(cells.get(columns.report), source=f"column {columns.report}", fallback="whole")
