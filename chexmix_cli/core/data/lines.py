"""Text as lines, and lines as JSON: the one reader of files and of stdin, for every command.

A line ends with LF, CR LF or CR and with nothing else: U+2028, U+2029, U+0085 and form feeds stand inside texts, in
JSON strings too (RFC 8259, section 7). UTF-8 is read with or without a byte order mark, UTF-16 and UTF-32 with one, and
UTF-16 without one where its zero bytes show it; gzip is known by its content. What is wrong has the number of its line.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from chexmix_cli.core.errors import DataError, Reason

_GZIP_MAGIC = b"\x1f\x8b"
#: Tables that are no text, by how they begin. Records are written as either, but read as text alone.
_NO_TEXT = {b"PK\x03\x04": "an Excel workbook, or another zip archive", b"PAR1": "a Parquet file"}
#: The marks of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")
#: What bytes that are no UTF-8 become; see ``TextLine.text``.
_ESCAPED = re.compile("[\udc80-\udcff]")


def _constant(name: str) -> None:
    if name != "NaN":
        raise ValueError("an infinite number")


#: ``NaN``, which Python and pandas write for nothing, is null.
JSON_DECODER = json.JSONDecoder(parse_constant=_constant)


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line.

    Attributes:
        number: from 1.
        where: what it is called in messages: the file and the number.
        text: with its line end. Bytes that are no UTF-8 are escaped as Python's ``surrogateescape`` does, so that the
            name of a file comes through; :meth:`checked` refuses them.
    """

    number: int
    where: str
    text: str

    def checked(self) -> str:
        """Return the text.

        Raises:
            DataError: ``BAD_RECORD`` if it holds bytes that are no text.
        """
        if not is_text(self.text):
            raise DataError(Reason.BAD_RECORD, "not UTF-8", where=self.where)
        return self.text

    def parsed(self) -> dict[str, Any]:
        """Return the line's JSON object.

        Raises:
            DataError: ``BAD_RECORD`` if it is none. The message quotes nothing of the line.
        """
        value = parse_json(self.checked(), self.where, expected="JSON Lines: one object a line")
        if isinstance(value, dict):
            return value
        raise DataError(
            Reason.BAD_RECORD,
            "a JSON array, not a JSON object" if isinstance(value, list) else "not a JSON object",
            where=self.where,
            expected="JSON Lines: one object a line",
            hint="jq -c '.[]' makes lines of an array" if isinstance(value, list) else None,
        )


def read_lines(stream: BinaryIO, name: str) -> Iterator[TextLine]:
    """Yield the lines of a stream, blank ones too; each as soon as it is there."""
    number = 0
    try:
        for number, text in enumerate(as_text(stream), start=1):
            yield TextLine(number, f"{name}:{number}", text)
    except UnicodeDecodeError as error:
        what = f"not {error.encoding.upper()}"
        raise DataError(Reason.BAD_RECORD, what, where=f"{name}:{number + 1}") from None


def json_objects(lines: Iterable[TextLine]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of JSON Lines with where each stands; blank lines are passed over.

    Raises:
        DataError: ``BAD_RECORD`` on a line that holds none.
    """
    for line in lines:
        if line.text.strip():
            yield line.where, line.parsed()


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a file of JSON Lines; errors as :func:`json_objects` and :func:`open_lines`."""
    with open_lines(path) as lines:
        yield from json_objects(lines)


@contextmanager
def open_lines(path: Path) -> Iterator[Iterator[TextLine]]:
    """Give the lines of a file.

    Raises:
        DataError: ``NOT_FOUND``, ``UNREADABLE``, ``UNKNOWN_FORMAT`` for a workbook or a Parquet file, or ``CORRUPT`` if
            its gzip data are damaged; also while it is read.
    """
    with open_binary(path) as stream:
        yield read_lines(stream, path.name)


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Give the bytes of a file, gzip undone; errors as :func:`open_lines`."""
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            if head in _NO_TEXT:
                raise DataError(
                    Reason.UNKNOWN_FORMAT,
                    f"is {_NO_TEXT[head]}",
                    where=path.name,
                    expected="text: JSON Lines, CSV or TSV",
                    hint="save the table as CSV, or have chexmix write -o FILE.csv or FILE.jsonl",
                )
            is_gzip = head.startswith(_GZIP_MAGIC)
            raw.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if is_gzip else raw
    except gzip.BadGzipFile:
        raise DataError(Reason.CORRUPT, "the gzip file is damaged", where=path.name) from None
    except (EOFError, zlib.error):
        raise DataError(Reason.CORRUPT, "the gzip file is cut short or damaged", where=path.name) from None
    except OSError as error:
        reason = Reason.NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.UNREADABLE
        raise DataError(reason, f"cannot be read ({error.strerror or error})", where=path.name) from None


def read_text(path: Path) -> str:
    """Return a file as one text; errors as :func:`open_lines`, and ``BAD_RECORD`` if it is none."""
    with open_lines(path) as lines:
        return "".join(line.checked() for line in lines)


#: Of what does not even begin like JSON.
TABLE_HINT = "of a table, chexmix data import folder makes a manifest"


def parse_json(text: str, where: str, *, expected: str | None = None) -> Any:
    """Return a JSON value, ``NaN`` as null.

    Raises:
        DataError: ``BAD_RECORD`` if it is none, or holds an infinite number.
    """
    try:
        return JSON_DECODER.decode(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else "not JSON"
        hint = None if text.lstrip("\ufeff \t")[:1] in ("{", "[", "") else TABLE_HINT
        raise DataError(Reason.BAD_RECORD, what, where=where, expected=expected, hint=hint) from None


def id_text(value: object) -> str | None:
    """Return an id, or another key, as text; None if it is none.

    Numbers are taken as they are written without a fraction: pandas makes 17 of "17", and 17.0 where a cell is missing.
    From 2**53 on a float has lost digits.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def quoted(value: object, choices: Iterable[str] = ()) -> str:
    """Return a value as messages may quote it: short numbers, and words near to those that it may be.

    Anything else could be a patient's name or birth date in the wrong column, or a report.

    Args:
        value: of a field.
        choices: words that the field may have.
    """
    if isinstance(value, str):
        known = [choice.lower() for choice in choices]
        if re.fullmatch(r"[-+.\d]{0,6}", value) or get_close_matches(value.lower(), known, 1):
            return repr(value)
        return f"a text of {len(value)} characters"
    if value in ([], {}, ()) or re.fullmatch(r"[\w.+-]{0,6}", repr(value)):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def quoted_name(name: str) -> str:
    """Return the name of a field or finding as messages may quote it: single words."""
    return repr(name) if re.fullmatch(r"[\w.+-]{0,16}", name) else f"a text of {len(name)} characters"


def as_text(stream: BinaryIO) -> TextIO:
    """Return a stream as text, line ends as they are; bytes that are none are escaped, see :func:`is_text`."""
    head = stream.read(4)
    joined = io.BufferedReader(_Joined(head, stream))
    return io.TextIOWrapper(joined, encoding=_encoding(head), errors="surrogateescape", newline="")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends."""
    return _LINE_END.split(text)


def is_text(text: str) -> bool:
    """Return whether a text holds no escaped bytes."""
    return text.isascii() or not _ESCAPED.search(text)


def _encoding(head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if len(head) > 1 and bool(head[0]) != bool(head[1]):
        return "utf-16-le" if head[0] else "utf-16-be"
    return "utf-8"


class _Joined(io.RawIOBase):
    """The first bytes of a stream that cannot be rewound, and the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._rest.read1(len(buffer))  # type: ignore[attr-defined]
        self._head = b""
        buffer[: len(data)] = data
        return len(data)
