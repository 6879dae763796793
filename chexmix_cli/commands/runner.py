"""The record loop every inference command runs: one record in, one out, same order, nothing lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from chexmix_cli.commands.console import Console
from chexmix_cli.commands.streams import Record, Writer, error_record
from chexmix_cli.core.errors import ChexmixError, DataError, ExitCode, ShapeError, VocabularyError

Prepared = TypeVar("Prepared")

#: Errors that concern one record. Everything else (no memory, damaged weights) ends the command.
RECORD_ERRORS = (DataError, ShapeError, VocabularyError)


@dataclass(frozen=True, slots=True)
class Job(Generic[Prepared]):
    """One record to come: its id, and how to get its input, or why there is none."""

    id: str
    prepare: Callable[[], Prepared]


@dataclass(slots=True)
class Tally:
    """How many records came out well, and why the others did not."""

    num_ok: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> ExitCode:
        """Return 0 if all are well, 3 if some are, 1 if none is."""
        if not self.codes:
            return ExitCode.DONE
        return ExitCode.PARTIAL if self.num_ok else ExitCode.FAILED

    def report(self, console: Console) -> None:
        """Say on stderr what was not done, by reason."""
        if self.codes:
            failed = sum(self.codes.values())
            console.note(f"{self.num_ok} of {self.num_ok + failed} records done; {failed} not:")
            console.table(
                "not done", ("code", "records"), [(code, str(count)) for code, count in sorted(self.codes.items())]
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop(Generic[Prepared]):
    """What a command does with its records.

    Attributes:
        process: turns prepared inputs (with their ids) into result fields, in order.
        describe: the readable form of a finished record.
        batch_size: inputs processed together.
        fail_fast: raise the first record's error, once the records before it are written, instead of going on.
    """

    process: Callable[[list[tuple[str, Prepared]]], list[Record]]
    describe: Callable[[Record], str]
    batch_size: int
    fail_fast: bool
    writer: Writer
    console: Console

    def run(self, jobs: Iterator[Job[Prepared]], label: str) -> Tally:
        """Process all jobs and write a record each; return the tally."""
        tally = Tally()
        waiting: list[tuple[str, Prepared | ChexmixError]] = []
        with self.console.progress(label, among_records=True) as move:
            for number, job in enumerate(jobs, start=1):
                waiting.append((job.id, self._prepare(job)))
                num_good = sum(not isinstance(item, ChexmixError) for _, item in waiting)
                has_failed = num_good < len(waiting)
                # Nothing waits without need: an error with nothing in front of it is out at once.
                if num_good in (0, self.batch_size) or (has_failed and self.fail_fast):
                    self._flush(waiting, tally)
                move(number, None)
            self._flush(waiting, tally)
        tally.report(self.console)
        return tally

    def _prepare(self, job: Job[Prepared]) -> Prepared | ChexmixError:
        try:
            return job.prepare()
        except RECORD_ERRORS as error:
            return error

    def _flush(self, waiting: list[tuple[str, Prepared | ChexmixError]], tally: Tally) -> None:
        good = [(record_id, item) for record_id, item in waiting if not isinstance(item, ChexmixError)]
        results = iter(self._process(good))
        for record_id, item in waiting:
            result = item if isinstance(item, ChexmixError) else next(results)
            if isinstance(result, ChexmixError):
                if self.fail_fast:
                    raise result
                record = error_record(record_id, result)
                tally.codes[record["error"]["code"]] += 1
                text = f"{record_id}: not done ({record['error']['code']}): {record['error']['message']}"
            else:
                record = {"id": record_id, "status": "ok", **result}
                tally.num_ok += 1
                text = self.describe(record)
            self.writer.write(record, text)
        waiting.clear()

    def _process(self, items: list[tuple[str, Prepared]]) -> list[Record | ChexmixError]:
        if not items:
            return []
        try:
            return list(self.process(items))
        except RECORD_ERRORS as error:
            if len(items) == 1:
                return [error]
        # One of them spoils the batch: each gets its own chance.
        return [result for item in items for result in self._process([item])]
