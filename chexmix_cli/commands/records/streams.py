"""Records in and out: JSON Lines on stdin and stdout."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from chexmix_cli.core.errors import ChexmixError, DataError, Reason, SettingsError
from chexmix_cli.library.job import Record
from chexmix_cli.library.results import error_code


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
    """Yield the lines of stdin: JSON objects as records, everything else as paths; empty lines are passed over."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Names of files need not be UTF-8; so read, they still open. A byte order mark is no part of the first line.
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    for number, text in enumerate(sys.stdin, start=1):
        line = text.rstrip("\r\n")
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            yield Line(number, path=line)
            continue
        try:
            yield Line(number, record=json.loads(line, parse_constant=_refuse_constant))
        except (ValueError, RecursionError) as error:
            what = f"not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else "not JSON"
            yield Line(number, problem=DataError(Reason.BAD_RECORD, what, where=f"stdin line {number}"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def error_record(record_id: str, error: ChexmixError) -> Record:
    """Return the record of an input that gave no result."""
    message = str(error) if error.hint is None else f"{error}; hint: {error.hint}"
    return {"id": record_id, "status": "error", "error": {"code": error_code(error), "message": message}}


class Writer:
    """Writes records to stdout: JSON Lines, or readable text on a terminal.

    Args:
        is_json: JSON also on a terminal.
    """

    def __init__(self, is_json: bool) -> None:
        self.is_text = sys.stdout.isatty() and not is_json

    def write(self, record: Record, text: str) -> None:
        """Write one record, as JSON or as ``text``; flushed, so that the next command in a pipe can start."""
        if self.is_text:
            self.show(f"{text}\n")
        else:
            # ASCII escapes: the line is whole in every locale, also where a file's name is no valid text.
            sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
            sys.stdout.flush()

    def show(self, text: str) -> None:
        """Write text for a terminal; what would steer the terminal, or what it cannot show, becomes ``?``."""
        encoding = sys.stdout.encoding or "utf-8"
        safe = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
        sys.stdout.write(safe.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
