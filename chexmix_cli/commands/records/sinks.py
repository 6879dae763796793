"""Where the records of a run go: stdout or the file of ``--out``, and the list of files of ``--quarantine``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from chexmix_cli.commands.records.quarantine import Quarantine
from chexmix_cli.commands.records.record_file import RecordFile, check_form
from chexmix_cli.commands.records.record_page import ENDING, RecordPage
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.stopping import StopRequests
from chexmix_cli.core.errors import SettingsError, counted
from chexmix_cli.library.jobs.job import Job, Record

if TYPE_CHECKING:
    from chexmix_cli.commands.records.share import Share
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.commands.shared.options import RunOptions
    from chexmix_cli.core.data.sources import Source


class Sinks:
    """Takes each record once. A context: what was taken is whole when it ends, however it ends.

    Args:
        run: common options: ``--json``, ``--paths``, ``--quarantine``, ``--html``.
        out: file that takes the records in place of stdout.
        command: whose records they are, for the page.
        share: what of the inputs this process does; what a run with ``out`` left that was stopped is gone on with.
            None is all of them.

    Attributes:
        uses_stdout: records go to stdout.
        is_text: records are shown as text, to a person who reads along.
        page: takes pictures of the records; None where no page is asked for.
        stops: requests to stop, while the sinks are open.
    """

    def __init__(
        self, run: RunOptions, out: Path | None = None, *, command: str = "", share: Share | None = None
    ) -> None:
        self._run, self._stack, self.stops = run, ExitStack(), StopRequests()
        self._writer = Writer(run.is_json)
        is_page = out is not None and out.suffix.lower() == ENDING
        pages = [path for path in (run.html, out if is_page else None) if path is not None]
        self.page = RecordPage(pages, command) if pages else None
        self._share = share
        self._file = None if out is None or is_page else self._open(out)
        self._quarantine = None if run.quarantine is None else Quarantine(run.quarantine, run.console)
        self.uses_stdout = out is None
        self.is_text = self._writer.is_text and self.uses_stdout

    def _open(self, out: Path) -> RecordFile:
        assert self._share is not None, "records in a file belong to a share"
        check_form(out)
        if self._share.part.count > 1 and out.suffix.lower() != ".jsonl":
            expected = "a name that ends in .jsonl: `chexmix data merge` makes the table of all shares"
            raise SettingsError(f"{out.name!r} for one share of the inputs", where="--out", expected=expected)
        # A page shows films, which only a whole run has.
        return RecordFile(self._share.journal(self._share.part.file(out), is_anew=self.page is not None))

    def select(self, jobs: Iterable[Job[Any]], on_finished: Callable[[Job[Any], Record], None]) -> Iterable[Job[Any]]:
        """Return the jobs that are to be done; ``on_finished`` gets those whose record is there, with what it was."""
        if self._share is None:
            return jobs
        return self._share.select(jobs, None if self._file is None else self._file.journal, on_finished)

    @property
    def num_finished(self) -> int:
        """Return the records that an earlier run has left."""
        return 0 if self._file is None else self._file.num_records

    @property
    def console(self) -> Console:
        """Return the stderr side of the command."""
        return self._run.console

    @property
    def fail_fast(self) -> bool:
        """Return whether the first record that fails ends the run."""
        return self._run.fail_fast

    @property
    def go_on(self) -> str:
        """Return what a person is told who stops the run."""
        if self._file is not None and self.page is None:
            return "The same command goes on behind them"
        names_file = self._file is not None or self.page is not None
        return "To go on, give the inputs that are left" + (", and another file for them" if names_file else "")

    def show(self, text: str) -> None:
        """Show text on the terminal."""
        self._writer.show(text)

    def write(self, job: Job[Any], record: Record, text: str, source: Source | None) -> None:
        """Take a record.

        Args:
            job: whose record it is.
            record: as it is written.
            text: the same, for a person.
            source: its file; None where there is none.
        """
        if self._run.with_paths and source is not None:
            record = {**record, "file": path_text(source)}
        if self.page is not None:
            self.page.add(record)
        if self._file is not None:
            self._file.add(job, record)
        elif self.uses_stdout:
            self._writer.write(record, text)

    def refuse(self, record_id: str, error: dict[str, str], sources: Iterable[Source]) -> None:
        """Take note of a record that was not done."""
        if self._quarantine is not None:
            self._quarantine.add(record_id, error, sources)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.stops)
        for part in (self._file, self._quarantine):
            if part is not None:
                self._stack.enter_context(part)
        if self.page is not None:
            self._stack.callback(self.page.write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stops.hold()
        # How it ended tells a run that is done from one that is to be gone on with.
        self._stack.__exit__(kind, error, trace)
        for path in () if self.page is None else self.page.paths:
            self.console.note(f"{path}: a page")
        if self._file is not None:
            self.console.note(f"{self._file.path}: {counted(self._file.num_records, 'record')}")
        if error is None:
            self.stops.release()


def path_text(source: Source) -> str:
    """Return a file's path for its owner; of a member of an archive, both."""
    return str(source.path) if source.member is None else f"{source.path}!{source.member}"
