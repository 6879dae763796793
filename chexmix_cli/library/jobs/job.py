"""One record to come, and how batches of them are worked off: every input gives a result or its error, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from chexmix_cli.core.errors import ChexmixError, DataError, ShapeError, VocabularyError

if TYPE_CHECKING:
    from chexmix_cli.core.data.sources import Source

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
#: One line of JSON, as commands read and write it.
Record = dict[str, Any]

#: Errors that concern one record. Everything else (no memory, damaged weights) ends the run.
RECORD_ERRORS = (DataError, ShapeError, VocabularyError)


@dataclass(frozen=True, slots=True)
class Job(Generic[Prepared]):
    """One record to come: its id, and how to get its input, or why there is none.

    Attributes:
        id: of the record.
        prepare: gives the input; raises one of ``RECORD_ERRORS`` if there is none.
        can_travel: ``prepare`` can be pickled and is worth a process of its own.
        study: what it belongs to, where records of one study must stay together; None is the record itself.
        sources: the files it comes from. Not for records or logs.
        line: the record or manifest line it came in as.
        order: its index in the list of all inputs, once :func:`numbered`.
    """

    id: str
    prepare: Callable[[], Prepared]
    can_travel: bool = False
    study: str | None = None
    sources: tuple[Source, ...] = ()
    line: Record | None = None
    order: int = 0


def raiser(error: DataError) -> Callable[[], NoReturn]:
    """Return the ``prepare`` of a job that has no input."""

    def fail() -> NoReturn:
        raise error

    return fail


def attempt(job: Job[Prepared]) -> Prepared | ChexmixError:
    """Return a job's input, or why there is none."""
    try:
        return job.prepare()
    except RECORD_ERRORS as error:
        return error
