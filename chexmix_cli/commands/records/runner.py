"""The record loop every inference command runs: one record in, one out, same order, nothing lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

from chexmix_cli.commands.records.job import RECORD_ERRORS, Job, Prepared, attempt
from chexmix_cli.commands.records.streams import Record, Writer, error_record
from chexmix_cli.commands.records.workers import prepare_ahead
from chexmix_cli.commands.shared.console import Console
from chexmix_cli.core.errors import ChexmixError, ExitCode

if TYPE_CHECKING:
    pass

#: Records, in batches, that wait for a batch to fill: many errors behind one good input must not pile up.
_MOST_WAITING = 16


def _keep(job: Job[Prepared], record: Record) -> Record:
    return record


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
        finish: gets every record, and the job it came from, before it is written; returns what is written.
        group: a batch ends with every so many records, whatever its size; 0 is never.
        workers: processes that prepare inputs ahead; 0 prepares each here when its turn comes.
    """

    process: Callable[[list[tuple[str, Prepared]]], list[Record]]
    describe: Callable[[Record], str]
    batch_size: int
    fail_fast: bool
    writer: Writer
    console: Console
    finish: Callable[[Job[Prepared], Record], Record] = _keep
    group: int = 0
    workers: int = 0

    def run(self, jobs: Iterator[Job[Prepared]], label: str, tally: Tally | None = None) -> Tally:
        """Process all jobs and write a record each; return the tally, which may have begun before."""
        tally = Tally() if tally is None else tally
        waiting: list[tuple[Job[Prepared], Prepared | ChexmixError]] = []
        with self.console.progress(label, among_records=True) as move, closing(self._prepared(jobs)) as prepared:
            for number, item in enumerate(prepared, start=1):
                waiting.append(item)
                num_good = sum(not isinstance(found, ChexmixError) for _, found in waiting)
                has_failed = num_good < len(waiting)
                # Nothing waits without need: an error with nothing in front of it is out at once.
                is_due = num_good in (0, self.batch_size) or len(waiting) == _MOST_WAITING * self.batch_size
                if is_due or (has_failed and self.fail_fast) or (self.group and number % self.group == 0):
                    self._flush(waiting, tally)
                move(number, None)
            self._flush(waiting, tally)
        tally.report(self.console)
        return tally

    def _prepared(
        self, jobs: Iterator[Job[Prepared]]
    ) -> Generator[tuple[Job[Prepared], Prepared | ChexmixError], None, None]:
        if self.workers:
            yield from prepare_ahead(jobs, self.workers, ahead=2 * self.workers + self.batch_size)
        else:
            for job in jobs:
                found = attempt(job)
                yield job, found

    def _flush(self, waiting: list[tuple[Job[Prepared], Prepared | ChexmixError]], tally: Tally) -> None:
        good = [(job.id, item) for job, item in waiting if not isinstance(item, ChexmixError)]
        results = iter(self._process(good))
        for job, item in waiting:
            result = item if isinstance(item, ChexmixError) else next(results)
            if isinstance(result, ChexmixError):
                if self.fail_fast:
                    raise result
                record = self.finish(job, error_record(job.id, result))
                tally.codes[record["error"]["code"]] += 1
                text = f"{job.id}: not done ({record['error']['code']}): {record['error']['message']}"
            else:
                record = self.finish(job, {"id": job.id, "status": "ok", **result})
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
