"""Large JSON files piece by piece: the members of an object and the items of a list, without the whole in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from chexmix_cli.core.data.lines import JSON_DECODER, as_text, is_text
from chexmix_cli.core.errors import DataError, Reason

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


class JsonStream:
    """A JSON file read from front to back.

    ``members`` and ``items`` go through an object or list; for each member, its value has to be taken (by ``value``,
    ``items`` or ``members``) before the next is asked for. A file that is damaged is a ``DataError``.

    Args:
        path: encodings as for all lines.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._buffer, self._at = "", 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            reason = Reason.NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.UNREADABLE
            raise DataError(reason, f"cannot be read ({error.strerror})", where=self._name) from None
        self._stream = as_text(self._file)

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def peek(self) -> str:
        """Return the next character that is no white space, empty at the end of the file."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _SPACE:
                    return self._buffer[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next."""
        self._take("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise self._damaged("a key is no text")
            self._take(":")
            yield key
            if self.peek() != "}":
                self._take(",")
        self._take("}")

    def items(self) -> Iterator[Any]:
        """Yield the items of the list that comes next, each decoded."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self._take(",")
        self._take("]")

    def value(self) -> Any:
        """Return the next value, decoded whole."""
        self.peek()
        while True:
            start = self._at
            try:
                value, end = JSON_DECODER.raw_decode(self._buffer, start)
            except json.JSONDecodeError as error:
                if not self._read_on():
                    raise self._damaged(error.msg) from None
                continue
            except (ValueError, RecursionError):
                raise self._damaged("a number out of range, or values too deep in each other") from None
            # A number at the end of the buffer may go on in the file.
            if end < len(self._buffer) or not self._read_on():
                self._at += end - start
                return value

    def _take(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise self._damaged(f"{found or 'end of file'!r} where {character!r} belongs")
        self._at += 1

    def _read_on(self) -> bool:
        """Add to the buffer what is about as long as it, so that a long value is decoded few times over."""
        try:
            more = self._stream.read(max(_CHUNK, len(self._buffer) - self._at))
        except UnicodeDecodeError as error:
            raise self._damaged(f"not {error.encoding.upper()}") from None
        if not is_text(more):
            raise self._damaged("not UTF-8")
        self._buffer, self._at = self._buffer[self._at :] + more, 0
        return bool(more)

    def _damaged(self, what: str) -> DataError:
        return DataError(Reason.CORRUPT, f"not readable as JSON ({what})", where=self._name)
