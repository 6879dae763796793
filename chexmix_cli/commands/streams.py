"""Records in and out: JSON Lines on stdin and stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chexmix_cli.core.errors import ChexmixError, DataError, Reason, SettingsError

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of stdin: a record, a path, or what is wrong with it."""

    number: int
    record: Record | None = None
    path: str | None = None
    problem: DataError | None = None


def check_arguments(arguments: Sequence[str]) -> bool:
    """Return whether the inputs come from stdin; ``-`` stands alone."""
    if "-" not in arguments:
        return False
    if len(arguments) > 1:
        raise SettingsError("- stands beside other inputs", where="IN", expected="- alone, or files and folders")
    return True


def read_stdin() -> Iterator[Line]:
    """Yield the lines of stdin: JSON objects as records, everything else as paths; empty lines are passed over."""
    for number, text in enumerate(sys.stdin, start=1):
        text = text.strip()
        if not text:
            continue
        if not text.startswith("{"):
            yield Line(number, path=text)
            continue
        try:
            yield Line(number, record=json.loads(text))
        except json.JSONDecodeError as error:
            problem = DataError(Reason.BAD_RECORD, f"not JSON ({error.msg})", where=f"stdin line {number}")
            yield Line(number, problem=problem)


def error_record(record_id: str, error: ChexmixError) -> Record:
    """Return the record of an input that gave no result."""
    code = error.code if isinstance(error, DataError) else type(error).__name__.removesuffix("Error").upper()
    message = str(error) if error.hint is None else f"{error}; hint: {error.hint}"
    return {"id": record_id, "status": "error", "error": {"code": code, "message": message}}


class Writer:
    """Writes records to stdout: JSON Lines, or readable text on a terminal.

    Args:
        is_json: JSON also on a terminal.
    """

    def __init__(self, is_json: bool) -> None:
        self.is_text = sys.stdout.isatty() and not is_json

    def write(self, record: Record, text: str) -> None:
        """Write one record, as JSON or as ``text``; flushed, so that the next command in a pipe can start."""
        line = text if self.is_text else json.dumps(record, ensure_ascii=False, allow_nan=False)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
