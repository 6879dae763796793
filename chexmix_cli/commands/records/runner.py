"""The record loop every inference command runs: one record in, one out, same order, nothing lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from chexmix_cli.commands.records.elsewhere import Elsewhere, with_sources
from chexmix_cli.commands.records.sinks import Sinks
from chexmix_cli.commands.records.streams import error_record
from chexmix_cli.commands.shared.console import Console
from chexmix_cli.core.errors import ChexmixError, ExitCode, counted
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.jobs.job import Job, Prepared, Record

if TYPE_CHECKING:
    from chexmix_cli.core.data.sources import Source


def _keep(job: Job[Prepared], record: Record) -> Record:
    return record


def _nothing() -> None:
    pass


def _forget(job: Job[Prepared]) -> None:
    pass


@dataclass(slots=True)
class Tally:
    """How many records succeeded, and why the others failed."""

    num_ok: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> ExitCode:
        """Return 0 if all are well, 3 if some are, 1 if none is."""
        if not self.codes:
            return ExitCode.DONE
        return ExitCode.PARTIAL if self.num_ok else ExitCode.FAILED

    def pass_over(self, entry: Record) -> None:
        """Count a record that an earlier run has written: ``status``, and ``error`` if it failed."""
        if entry["status"] == "ok":
            self.num_ok += 1
        else:
            self.codes[entry["error"]["code"]] += 1

    def report(self, console: Console) -> None:
        """Say on stderr what failed, by reason."""
        if self.codes:
            failed = sum(self.codes.values())
            console.note(f"{self.num_ok} of {counted(self.num_ok + failed, 'record')} done; {failed} not:")
            console.table(
                "not done", ("code", "records"), [(code, str(count)) for code, count in sorted(self.codes.items())]
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop(Generic[Prepared]):
    """What a command does with its records.

    Attributes:
        process: turns prepared inputs into result fields, in order.
        describe: the readable form of a finished record.
        batch_size: inputs processed together.
        sinks: where records go. With ``--fail-fast`` the first record's error is raised, once the records before it are
            written, instead of going on.
        finish: gets every record, and the job it came from, before it is written; returns what is written.
        group: a batch ends with every so many records, too; 0 is never.
        num_before: records of the first group that an earlier run has written.
        settle: called behind every batch, when its records are written: a run may go on from there.
        workers: processes that prepare inputs ahead; 0 prepares each here when its turn comes.
        again: what a person who stops the run is told of going on; None leaves it to the sinks.
        is_named_before: ``process`` shows a film's name itself, ahead of its result.
        on_finished: gets a job whose record an earlier run has written.
        elsewhere: works the batches off in place of ``process``, on a cluster.
    """

    process: Callable[[list[Prepared]], list[Record]]
    describe: Callable[[Record], str]
    batch_size: int
    sinks: Sinks
    finish: Callable[[Job[Prepared], Record], Record] = _keep
    group: int = 0
    num_before: int = 0
    settle: Callable[[], None] = _nothing
    workers: int = 0
    again: str | None = None
    is_named_before: bool = False
    on_finished: Callable[[Job[Prepared]], None] = _forget
    elsewhere: Elsewhere | None = None

    def run(
        self, jobs: Iterable[Job[Prepared]], label: str, tally: Tally | None = None, *, total: int | None = None
    ) -> Tally:
        """Process all jobs and write a record each; return the tally, which may have begun before.

        Args:
            jobs: those that have a length are shown with it, and with the time that is left.
            label: of the bar.
            tally: to go on with.
            total: of the jobs, where they have no length and it is known.
        """
        tally = Tally() if tally is None else tally
        num_finished = self.sinks.num_finished
        if num_finished:
            self.sinks.console.note(f"in the file already: {counted(num_finished, 'record')}")
        total = len(jobs) - num_finished if isinstance(jobs, Sized) else total
        batches = self._batches(iter(self.sinks.select(jobs, partial(self._pass_over, tally))))
        console, stdout = self.sinks.console, self.sinks.uses_stdout
        try:
            with console.progress(label, among_records=stdout) as move, closing(batches) as results:
                for number, (job, result) in enumerate(results, start=1):
                    # One that failed is of no batch: it, too, is counted, noted and written together.
                    with self.sinks.stops.held():
                        self._write(job, result, tally)
                    move(number, total)
        except KeyboardInterrupt:
            num_done = tally.num_ok + sum(tally.codes.values())
            console.note(
                f"stopped; written before that: {counted(num_done, 'record')}. {self.again or self.sinks.go_on}"
            )
            raise
        tally.report(console)
        return tally

    def _pass_over(self, tally: Tally, job: Job[Prepared], entry: Record) -> None:
        tally.pass_over(entry)
        if "error" in entry:
            self.sinks.refuse(job.id, entry["error"], job.sources)
        self.on_finished(job)

    def _batches(self, jobs: Iterator[Job[Prepared]]) -> Generator[tuple[Job[Prepared], Any], None, None]:
        cut = {"batch_size": self.batch_size, "group": self.group, "num_before": self.num_before}
        if self.elsewhere is None:
            yield from run_batches(
                jobs,
                self._process,
                **cut,
                workers=self.workers,
                stops_at_error=self.sinks.fail_fast,
                settled=self._settle,
            )
            return
        with closing(self.elsewhere.batches(jobs, **cut)) as batches:
            for batch in batches:
                self.sinks.stops.hold()
                yield from batch
                self._settle()

    def _process(self, prepared: list[Prepared]) -> list[tuple[Record, Source | None]]:
        records = with_sources(self.process, prepared)
        # They are finished: no request to stop comes between them and where they go.
        self.sinks.stops.hold()
        return records

    def _settle(self) -> None:
        self.settle()
        self.sinks.stops.release()

    def _write(self, job: Job[Prepared], result: tuple[Record, Source | None] | ChexmixError, tally: Tally) -> None:
        if isinstance(result, ChexmixError):
            if self.sinks.fail_fast:
                raise result
            record = self.finish(job, error_record(job.id, result))
            self.sinks.refuse(job.id, record["error"], job.sources)
            tally.codes[record["error"]["code"]] += 1
            # Of a study that failed, the first file: any of them leads to it.
            source = next(iter(job.sources), None)
            error = record["error"]
            text = f"{_named(source, job.id)}{job.id}: not done ({error['code']}): {error['message']}"
        else:
            fields, source = result
            record = self.finish(job, {"id": job.id, "status": "ok", **fields})
            tally.num_ok += 1
            text = ("" if self.is_named_before else _named(source, job.id)) + self.describe(record)
        self.sinks.write(job, record, text, source)


def _named(source: Source | None, record_id: str) -> str:
    """Return the line with a file's name that goes before a text, unless the text begins with it anyway."""
    return "" if source is None or source.name == record_id else f"{source.name}\n"
