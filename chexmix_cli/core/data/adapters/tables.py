"""CSV files, plain or gzipped, row by row. What a table must have is asked for; what is wrong with it has a line."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from chexmix_cli.core.data.labels import is_blank
from chexmix_cli.core.errors import DataError, Reason

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its cells by column, as they stand.

    Attributes:
        where: file name and line, for messages.
        num_cells, num_columns: differ in a row that is torn or has a stray comma.
    """

    where: str
    cells: Mapping[str, str]
    num_cells: int
    num_columns: int

    def check(self) -> None:
        """Raise ``BAD_RECORD`` unless the row has a cell for each column."""
        if self.num_cells != self.num_columns:
            raise DataError(
                Reason.BAD_RECORD, f"{self.num_cells} cells", where=self.where, expected=f"{self.num_columns}"
            )


def read_table(path: Path, required: Sequence[str] = ()) -> Iterator[TableRow]:
    """Yield the rows of a CSV with a header, blank lines left out.

    Args:
        path: UTF-8, a byte order mark allowed; gzip is known by its content, whatever the file is called.
        required: columns it must have.

    Raises:
        DataError: if it cannot be read, or lacks a column; the message lists those it has.
    """
    with _open(path) as stream:
        lines = csv.reader(stream)
        header = next(lines, None)
        columns = [name.strip() for name in header] if header else []
        check_columns(path, columns, required)
        for cells in lines:
            if cells:
                row = dict(zip(columns, cells, strict=False))
                yield TableRow(f"{path.name}:{lines.line_num}", row, len(cells), len(columns))


def read_columns(path: Path) -> list[str]:
    """Return the names in a table's header."""
    with _open(path) as stream:
        return [name.strip() for name in next(csv.reader(stream), [])]


def check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    """Raise DataError unless a table has the ``required`` columns."""
    missing = [name for name in required if name not in columns]
    if missing:
        found = ", ".join(name or "(unnamed)" for name in columns[:40]) or "none"
        raise DataError(
            Reason.BAD_RECORD,
            f"no column {missing[0]!r} (it has: {found})",
            where=path.name,
            expected=", ".join(required),
        )


def blank_to_none(cell: object) -> str | None:
    """Return a cell's text, stripped; None where it is blank, or says so in one of pandas' or JSON's words."""
    return cell.strip() if isinstance(cell, str) and not is_blank(cell) else None


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Open a table as text; whatever goes wrong while it is read becomes a DataError that names it."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            binary = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
                yield stream
    except OSError as error:  # a damaged gzip file is one, too
        reason = Reason.NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.UNREADABLE
        raise DataError(reason, f"cannot be read ({error.strerror or error})", where=path.name) from None
    except (EOFError, zlib.error):
        raise DataError(Reason.CORRUPT, "the gzip file is cut short or damaged", where=path.name) from None
    except UnicodeDecodeError as error:
        raise DataError(Reason.CORRUPT, f"not UTF-8 (byte {error.start})", where=path.name) from None
    except csv.Error as error:
        raise DataError(Reason.CORRUPT, f"not a readable CSV ({error})", where=path.name) from None


def match_name(pattern: str) -> re.Pattern[str]:
    """Return the pattern of a table's file name, plain or gzipped, upper and lower case alike."""
    return re.compile(rf"(?:{pattern})\.csv(?:\.gz)?", re.IGNORECASE)
