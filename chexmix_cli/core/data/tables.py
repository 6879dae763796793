"""CSV and TSV, plain or gzipped, row by row. What a table must have is asked for; what is wrong with it has a line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chexmix_cli.core.data.labels import is_blank
from chexmix_cli.core.data.lines import TextLine, open_lines, split_lines
from chexmix_cli.core.errors import DataError, Reason

#: The csv module's own bound, 131,072 characters, is below what reports and lists of labels have been seen to take.
_MOST_IN_CELL = 1 << 26
_MOST_NAMED, _LONGEST_NAME = 40, 60
#: What stands in a row of data and in no header: numbers, dates, names as DICOM writes them, files, sentences.
_DATA = re.compile(
    r"""[-+\d.:/ ]*\d[-+\d.:/ ]*|.*[\^{}"].*|.*\.(?:png|jpe?g|tiff?|dcm|dicom)|.*\s\S+[.!?]""",
    re.IGNORECASE | re.DOTALL,
)
#: What a spreadsheet takes for a formula (CWE-1236), and what was kept from it by apostrophes.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")

csv.field_size_limit(_MOST_IN_CELL)


class _Rows(Protocol):
    """What ``csv.reader`` returns; its class has another name in each Python."""

    @property
    def line_num(self) -> int:
        """Return how many lines were read."""

    def __next__(self) -> list[str]: ...

    def __iter__(self) -> Iterator[list[str]]: ...


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its cells by column, as they stand.

    Attributes:
        where: file name and line, for messages.
        cells: by column; a column without a name, such as the index that pandas writes, is left out, as is the
            apostrophe in front of what a spreadsheet would take for a formula.
        num_cells, num_columns: differ in a row that is torn or has a stray comma.
        problem: why it cannot be read at all, or None.
    """

    where: str
    cells: Mapping[str, str]
    num_cells: int
    num_columns: int
    problem: str | None = None

    def check(self) -> None:
        """Raise ``BAD_RECORD`` unless the row has a cell for each column."""
        if self.problem is not None:
            raise DataError(Reason.BAD_RECORD, self.problem, where=self.where)
        if self.num_cells != self.num_columns:
            raise DataError(
                Reason.BAD_RECORD, f"{self.num_cells} cells", where=self.where, expected=f"{self.num_columns}"
            )


def read_table(path: Path, required: Sequence[str] = ()) -> Iterator[TableRow]:
    """Yield the rows of a table with a header, blank lines left out.

    Args:
        path: a CSV, or a TSV by its name; encodings as for all lines.
        required: columns it must have.

    Raises:
        DataError: if it cannot be read, has two columns of one name, lacks a column (the message lists those it
            has), or has a quote that opens in one row and takes in the rows behind it.
    """
    with open_lines(path) as lines:
        reader = _reader(lines, path)
        columns = _header(reader, path)
        check_columns(path, columns, required)
        while True:
            start = reader.line_num + 1
            where = f"{path.name}:{start}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                if reader.line_num > start:
                    raise _swallowed(where) from None
                problem = "a quote opens or ends within a cell"
                yield TableRow(where, {}, 0, len(columns), problem)
                continue
            if reader.line_num > start and _has_row_inside(cells, len(columns), _delimiter(path)):
                raise _swallowed(where)
            if cells:
                pairs = zip(columns, cells, strict=False)
                row = {name: _as_text(cell) for name, cell in pairs if name}
                yield TableRow(where, row, len(cells), len(columns))


def read_columns(path: Path) -> list[str]:
    """Return the names in a table's header."""
    with open_lines(path) as lines:
        return [name for name in _header(_reader(lines, path), path) if name]


def check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    """Raise DataError unless a table has the ``required`` columns."""
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            Reason.BAD_RECORD,
            f"no column {missing[0]!r} ({list_columns(columns)})",
            where=path.name,
            expected=", ".join(required),
        )


def list_columns(columns: Sequence[str]) -> str:
    """Return what columns a table has, for a message; a first row that may be no header is not quoted."""
    if len(columns) == 1:
        return "it has one column"
    if any(len(name) > _LONGEST_NAME or _DATA.fullmatch(name) for name in columns):
        return "its first row looks like data: is there a header?"
    return "it has: " + (", ".join(name or "(unnamed)" for name in columns[:_MOST_NAMED]) or "none")


def blank_to_none(cell: object) -> str | None:
    """Return a cell's text, stripped; None where it is blank, or says so in one of pandas' or JSON's words."""
    return cell.strip() if isinstance(cell, str) and not is_blank(cell) else None


def match_name(pattern: str) -> re.Pattern[str]:
    """Return the pattern of a table's file name, plain or gzipped, upper and lower case alike."""
    return re.compile(rf"(?:{pattern})\.csv(?:\.gz)?", re.IGNORECASE)


def is_table(path: Path) -> bool:
    """Return whether a file's name is that of a CSV or TSV."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _reader(lines: Iterator[TextLine], path: Path) -> _Rows:
    # Strict: else a quote that is never closed takes in the rest of the file without a word.
    return csv.reader((line.checked() for line in lines), delimiter=_delimiter(path), strict=True)


def _header(reader: _Rows, path: Path) -> list[str]:
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error:
        raise _swallowed(f"{path.name}:1") from None
    name, count = Counter(name for name in columns if name).most_common(1)[0] if any(columns) else ("", 1)
    if count > 1:
        what = f"{count} columns are called {name!r}" if not _DATA.fullmatch(name) else "a column's name comes twice"
        raise DataError(Reason.BAD_RECORD, what, where=path.name, expected="a header of different names")
    return columns


def _swallowed(where: str) -> DataError:
    return DataError(
        Reason.CORRUPT,
        "a quote opens in this row and takes in the lines behind it",
        where=where,
        expected='a cell with quotes in it as "3"" tube"',
    )


def _has_row_inside(cells: Sequence[str], num_columns: int, delimiter: str) -> bool:
    """Tell whether a cell of several lines holds what looks like rows of this table: a quote closed too late.

    Such a line has as many cells as the table, the first of them built like that of its own row (``a.png``,
    ``s50414267``). Lines of a report are not: they begin with words.
    """
    shape = _shape(cells[0])
    if num_columns < 2 or shape.isalpha():
        return False
    parts = (line.split(delimiter) for cell in cells for line in split_lines(cell)[1:])
    return any(len(part) >= num_columns and _shape(part[0]) == shape for part in parts)


def kept_as_text(value: object) -> object:
    """Return a cell for a CSV: what spreadsheets would compute gets an apostrophe, which :func:`read_table` drops."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _as_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _shape(cell: str) -> str:
    """Return a text with each run of digits as 9 and each run of letters as a."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell.strip().strip('"')))
