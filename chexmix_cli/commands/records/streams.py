"""Records in and out: JSON Lines on stdin and stdout."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chexmix_cli.commands.shared.wrapping import LineBreaker, terminal_width
from chexmix_cli.core.data.lines import TextLine, json_objects, read_lines
from chexmix_cli.core.errors import ChexmixError, DataError, Reason, SettingsError
from chexmix_cli.library.jobs.job import Record
from chexmix_cli.library.results import error_code

#: What tables and JSON have between and around their values.
_DATA_MARKS = frozenset(',;\t|"{}[]')
#: The first line of an array, or of an object that does not end in it.
_WHOLE_JSON = re.compile(r'\s*(?:\[\s*(?:[\[{"\]]|$)|\{\s*$)')


@dataclass(frozen=True, slots=True)
class Line:
    """One line of stdin: a record, a path, or what is wrong with it."""

    number: int
    record: Record | None = None
    path: str | None = None
    problem: DataError | None = None


def check_arguments(arguments: Sequence[str] | None) -> list[str]:
    """Return the inputs of a command; ``["-"]``, which is stdin, stands alone."""
    if not arguments:
        raise SettingsError("no input", where="IN", expected="files, folders, globs, zip archives, or - for stdin")
    if "-" in arguments and len(arguments) > 1:
        raise SettingsError(
            "- cannot be combined with other inputs", where="IN", expected="- alone, or files and folders"
        )
    return list(arguments)


def read_stdin() -> Iterator[Line]:
    """Yield the lines of stdin: JSON objects as records, others as paths; empty lines are passed over.

    A line of a table, or of JSON that is no object, is a problem, not a path, unless there is such a file. JSON that
    goes over several lines, or is one array, is one problem, and the end.
    """
    is_first = True
    for line in _stdin_lines():
        text = line.text.lstrip("\ufeff").rstrip("\r\n")
        if not text.strip():
            continue
        if is_first and _WHOLE_JSON.match(text) and not os.path.lexists(text):
            yield Line(line.number, problem=_whole_json(line.where))
            return
        is_first = False
        if not text.lstrip().startswith("{"):
            yield Line(line.number, problem=_no_path(line.where)) if _is_data(text) else Line(line.number, path=text)
            continue
        try:
            yield Line(line.number, record=line.parsed())
        except DataError as error:
            yield Line(line.number, problem=error)


def stdin_records() -> Iterator[tuple[str, Record]]:
    """Yield the records on stdin with where each stands.

    Raises:
        DataError: ``BAD_RECORD`` on a line that is none.
    """
    return json_objects(_stdin_lines())


def _stdin_lines() -> Iterator[TextLine]:
    return read_lines(sys.stdin.buffer, "stdin")


def _whole_json(where: str) -> DataError:
    return DataError(
        Reason.BAD_RECORD,
        "JSON of another form: an array, or an object over several lines",
        where=where,
        expected="JSON Lines: one object a line",
        hint="jq -c '.[]' makes lines of an array, jq -c . of objects",
    )


def _no_path(where: str) -> DataError:
    return DataError(
        Reason.BAD_RECORD,
        "neither a record nor a path that exists",
        where=where,
        expected="JSON Lines (one object a line), or a path a line",
        hint="chexmix data import makes a manifest of a table",
    )


def _is_data(text: str) -> bool:
    """Tell whether a line that leads to no file is a piece of a table or of JSON, not the name of a missing file."""
    if not _DATA_MARKS.intersection(text) or os.path.lexists(text):
        return False
    return not glob.has_magic(text) or next(glob.iglob(text, recursive=True), None) is None


def error_record(record_id: str, error: ChexmixError) -> Record:
    """Return the record of an input that gave no result."""
    return {"id": record_id, "status": "error", "error": {"code": error_code(error), "message": error.with_hint}}


class Writer:
    """Writes records to stdout: JSON Lines, or readable text on a terminal.

    Args:
        is_json: JSON also on a terminal.
    """

    def __init__(self, is_json: bool) -> None:
        width = terminal_width(sys.stdout)
        self.is_text = width is not None and not is_json
        self._lines = LineBreaker(width or 0)

    def write(self, record: Record, text: str) -> None:
        """Write one record, as JSON or as ``text``; flushed, so that the next command in a pipe can start."""
        if self.is_text:
            self.show(f"{text}\n")
        else:
            # ASCII escapes: the line is whole in every locale, also where a file's name is no valid text.
            sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
            sys.stdout.flush()

    def show(self, text: str) -> None:
        """Write text for a terminal, which may come in pieces; the last ends with a line.

        What would steer the terminal, or what it cannot show, becomes ``?``.
        """
        encoding = sys.stdout.encoding or "utf-8"
        safe = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
        safe = self._lines.feed(safe)
        sys.stdout.write(safe.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
