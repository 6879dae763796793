"""Records in a file whose ending says its form: JSON Lines, or a table for Excel, R or pandas.

A table has a row for each record and the same columns for every command: what identifies the film, the report, what is
in conflict, a column for each finding with its probability. Cells are text or numbers, never formulas: a report that
begins with ``=`` stays a report (CWE-1236).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chexmix_cli.commands.records.output_paths import write_file
from chexmix_cli.core.data.tables import kept_as_text
from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.library.jobs.job import Job, Record
from chexmix_cli.library.jobs.journal import Journal

#: Columns in front of the findings', in order; ``file`` is there with ``--paths``.
COLUMNS = (
    *("id", "file", "study", "view", "age_group", "status", "error", "error_message"),
    *("report", "findings", "impression", "conflicts", "notes", "unlike", "unlike_from"),
)
_LAST = "mark"
#: Characters a cell of Excel holds.
_CELL = 32_767


class RecordFile:
    """Takes records: JSON Lines as they come; a table is written of those of the journal when the file is closed.

    Args:
        journal: of the run, which may go on with that of one that was stopped.

    Attributes:
        path: of the file.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal, self.path = journal, journal.out

    @property
    def num_records(self) -> int:
        """Return the records in the file, those of earlier runs too."""
        return self.journal.num_finished

    def add(self, job: Job[Any], record: Record) -> None:
        """Take the record of a job."""
        self.journal.add(job, record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.path.suffix.lower() in FORMS:
                # Of a run that is stopped, too: what was done is there, and the journal goes on.
                write_table(self.path, self.journal.read())
            if error is None:
                self.journal.finish()
        finally:
            self.journal.close()


def check_form(path: Path) -> None:
    """Refuse a name that no file of records can have: now, not behind an hour of work.

    Raises:
        SettingsError: on an ending that is none of ``FORMS`` or ``.jsonl``.
        MachineError: if the ending's package is not installed.
    """
    ending = path.suffix.lower()
    if ending not in (".jsonl", *FORMS):
        known = ", ".join((".jsonl", *FORMS, ".html"))
        raise SettingsError(f"{path.name!r} has the ending {ending or 'of no file'}", where="--out", expected=known)
    _require_package(ending)


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write records as the table that a name asks for.

    Raises:
        MachineError: if it cannot be written.
    """
    rows = [flat(record) for record in records]
    write_file(path, FORMS[path.suffix.lower()](columns_of(rows), rows))


def flat(record: Mapping[str, Any]) -> Record:
    """Return a record as a row: text, numbers, and None where it says nothing."""
    sections, typicality = record.get("sections", {}), record.get("typicality", {})
    error = record.get("error", {})
    probabilities = record.get("probabilities") or record.get("head", {}).get("probabilities", {})
    row = {name: record.get(name) for name in ("id", "file", "study", "view", "age_group", "status", "report", _LAST)}
    row |= {"error": error.get("code"), "error_message": error.get("message")}
    row |= {name: sections.get(name) for name in ("findings", "impression")}
    row |= {name: "; ".join(record.get(name, [])) or None for name in ("conflicts", "notes")}
    row |= {"unlike": typicality.get("score"), "unlike_from": typicality.get("threshold")}
    return row | {f"p({name})": value for name, value in probabilities.items()}


def columns_of(rows: Sequence[Record]) -> list[str]:
    """Return the columns of a table: those that say something in a row, and those that identify it."""
    used = {name for row in rows for name, value in row.items() if value is not None}
    findings = dict.fromkeys(name for row in rows for name in row if name.startswith("p("))
    always = {"id", "view", "status"}
    first = [name for name in COLUMNS if name in always or name in used]
    return [*first, *findings, *([_LAST] if _LAST in used else [])]


def _csv(columns: Sequence[str], rows: Sequence[Record]) -> bytes:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([kept_as_text(row.get(name)) for name in columns] for row in rows)
    # Excel takes UTF-8 for UTF-8 only behind a byte order mark.
    return b"\xef\xbb\xbf" + written.getvalue().encode("utf-8", errors="replace")


def _excel(columns: Sequence[str], rows: Sequence[Record]) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    book = Workbook()
    sheet = book.active
    sheet.title = "studies"
    for y, row in enumerate([dict(zip(columns, columns, strict=True)), *rows], start=1):
        for x, name in enumerate(columns, start=1):
            value = row.get(name)
            cell = sheet.cell(y, x)
            if isinstance(value, str):
                cell.value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", value)[:_CELL]
                cell.data_type = "s"  # a text that looks like a formula is none
                cell.alignment = Alignment(wrap_text=name in ("report", "findings", "impression"), vertical="top")
            elif value is not None:
                cell.value = value
                cell.number_format = "0.000"
    for x, name in enumerate(columns, start=1):
        sheet.cell(1, x).font = Font(bold=True)
        sheet.column_dimensions[get_column_letter(x)].width = 60 if name == "report" else max(10, len(name) + 2)
    sheet.freeze_panes = "B2"
    sheet.auto_filter.ref = sheet.dimensions
    written = io.BytesIO()
    book.save(written)
    return written.getvalue()


def _parquet(columns: Sequence[str], rows: Sequence[Record]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    numbers = {"unlike", "unlike_from"}
    table = pyarrow.table(
        {
            name: pyarrow.array(
                [row.get(name) for row in rows],
                type=pyarrow.float64() if name in numbers or name.startswith("p(") else pyarrow.string(),
            )
            for name in columns
        }
    )
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


#: Ending to what makes the file's bytes of columns and rows.
FORMS: Mapping[str, Callable[[Sequence[str], Sequence[Record]], bytes]] = {
    ".csv": _csv,
    ".xlsx": _excel,
    ".parquet": _parquet,
}
_PACKAGES = {".xlsx": "openpyxl", ".parquet": "pyarrow"}


def _require_package(ending: str) -> None:
    from importlib.util import find_spec

    package = _PACKAGES.get(ending)
    if package is not None and find_spec(package) is None:
        hint = "pip install 'chexmix[tables]', or a name that ends in .csv"
        raise MachineError(f"{ending} needs the package {package}", where="--out", hint=hint)
