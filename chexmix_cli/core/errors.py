"""Exit codes and typed errors: the only place where either is defined. Imports nothing heavy."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Process exit status of every command (documented in docs/commands/index.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    ENVIRONMENT = 4
    BUG = 70
    INTERRUPTED = 130


class Reason(StrEnum):
    """Why one input gave no result: the ``error.code`` of a record."""

    NOT_CHEST = "NOT_CHEST"
    NOT_RADIOGRAPH = "NOT_RADIOGRAPH"
    LATERAL_ONLY = "LATERAL_ONLY"
    NO_PIXELS = "NO_PIXELS"
    SHORT_PIXELS = "SHORT_PIXELS"
    NEEDS_PLUGIN = "NEEDS_PLUGIN"
    UNSUPPORTED_PIXELS = "UNSUPPORTED_PIXELS"
    TOO_SMALL = "TOO_SMALL"
    TOO_LARGE = "TOO_LARGE"
    BLANK = "BLANK"
    BURNED_IN_TEXT = "BURNED_IN_TEXT"
    CORRUPT = "CORRUPT"
    UNKNOWN_FORMAT = "UNKNOWN_FORMAT"
    UNREADABLE = "UNREADABLE"
    NOT_FOUND = "NOT_FOUND"
    DUPLICATE = "DUPLICATE"
    BAD_RECORD = "BAD_RECORD"
    WRONG_TOKENS = "WRONG_TOKENS"
    UPSTREAM = "UPSTREAM"
    NOT_STORED = "NOT_STORED"


class ChexmixError(Exception):
    """Base of every error a user can cause or meet; ``str()`` is the one-line message.

    Args:
        what: what is wrong, with the offending value.
        where: the file, key or record it concerns; never a patient's name, date or UID.
        expected: what would have been right.
        hint: the next thing to do, printed on a line of its own.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(
        self, what: str, *, where: str | None = None, expected: str | None = None, hint: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.hint = what, where, expected, hint
        message = what if where is None else f"{where}: {what}"
        super().__init__(message if expected is None else f"{message}; expected {expected}")

    @property
    def with_hint(self) -> str:
        """Return the message and the hint in one line, as records hold them."""
        return str(self) if self.hint is None else f"{self}; hint: {self.hint}"

    def __reduce__(self) -> tuple[Callable[..., ChexmixError], tuple[object, ...]]:
        """Pickle whole, for worker processes: the default would call the constructor with the message alone."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[ChexmixError], arguments: tuple[object, ...], state: dict[str, object]) -> ChexmixError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class SettingsError(ChexmixError):
    """A flag, setting or configuration file is wrong."""

    exit_code = ExitCode.USAGE


class VocabularyError(ChexmixError):
    """A token id or image code lies outside its range, or a sequence is malformed."""


class ShapeError(ChexmixError):
    """A tensor has the wrong shape or dtype for the operation."""


class WeightsError(ChexmixError):
    """A weights directory or file is missing, incomplete, altered or of another layout."""


class DataError(ChexmixError):
    """One input cannot be used; ``reason`` is the machine-readable code of its record.

    Args:
        reason: why, as a code a user can act on.
        detail: a suffix of the code, such as the plugin that ``NEEDS_PLUGIN`` misses.
    """

    def __init__(
        self,
        reason: Reason,
        what: str,
        *,
        detail: str | None = None,
        where: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, where=where, expected=expected, hint=hint)
        self.reason, self.detail = reason, detail

    @property
    def code(self) -> str:
        """Return the record's error code, for example ``NEEDS_PLUGIN:python-gdcm``."""
        return self.reason.value if self.detail is None else f"{self.reason.value}:{self.detail}"


class TrainingError(ChexmixError):
    """Training cannot start or go on: bad data, non-finite loss, damaged checkpoint."""


class MachineError(ChexmixError):
    """The machine lacks what was asked for: a GPU, a package, memory, disk space."""

    exit_code = ExitCode.ENVIRONMENT


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in "1 record", "2 studies"; ``noun`` is of one."""
    nouns = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else nouns}"


def with_article(name: str) -> str:
    """Return a name of a type as a sentence has it."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def kind_of(value: object) -> str:
    """Return what type of value was found in a file."""
    return with_article(type(value).__name__)


def missing_package(package: str, extra: str, *, where: str | None = None) -> MachineError:
    """Return the error of a package that is not installed, with the extra of chexmix that brings it."""
    return MachineError(f"the package {package} is not installed", where=where, hint=f"pip install 'chexmix[{extra}]'")


def require_same(made: object, wanted: Mapping[str, Any], *, what: str, where: str, hint: str) -> None:
    """Refuse what was made by other weights or settings than those in use.

    Args:
        made: says in its attributes what it was made by.
        wanted: what is in use, by the names of attributes.
        what: it is, in the plural or with an article, for the message.
        where: it stands.
        hint: what to do.

    Raises:
        DataError: ``WRONG_TOKENS``, which names both values of the first that differs.
    """
    for name, value in wanted.items():
        own = getattr(made, name)
        if own != value:
            expected = f"{name} {value}, which is in use"
            raise DataError(Reason.WRONG_TOKENS, f"{what} of {name} {own}", where=where, expected=expected, hint=hint)


class WorkerBugError(Exception):
    """Something unexpected in another process, with its :func:`told_traceback` as the message."""


def told_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of those before it, without the messages of others.

    Lines of code hold no values; the message of a foreign exception may quote a header or name a patient's file. It is
    there only if the environment variable ``CHEXMIX_DEBUG`` is set.
    """
    if os.environ.get("CHEXMIX_DEBUG"):
        return "".join(traceback.format_exception(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = f"{told_traceback(before)}\nThen:\n\n" if before is not None else ""
    kind = type(error).__name__
    said = f"{kind}: {error}" if isinstance(error, ChexmixError | WorkerBugError) else kind
    return f"{earlier}Traceback (most recent call last):\n{''.join(traceback.format_tb(error.__traceback__))}{said}\n"
