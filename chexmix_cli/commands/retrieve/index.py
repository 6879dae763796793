"""``chexmix retrieve index``: the images and reports of a manifest, or of token shards, into an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RunOptions, Shard
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.retrieval import IndexSettings
from chexmix_cli.library.jobs.job import Job, Record, raiser
from chexmix_cli.library.retrieval import INDEX_COMMAND, Wanted, item_fields

if TYPE_CHECKING:
    from chexmix_cli.commands.records.parts import Part
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.commands.retrieve.rows import Row
    from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter
    from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity, Kind
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.retrieval import RetrievalModel

Source = Annotated[
    str, typer.Argument(metavar="MANIFEST|SHARDS|-", help="A manifest, a folder of token shards, or records on stdin.")
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="INDEX", help="Folder of the index; an existing one is added to.", show_default=False
    ),
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="KIND", help="images or reports. Default: both, where there are both.")
]
Split = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Only rows of this split.")]
WithText = Annotated[
    bool,
    typer.Option("--with-text", help="Keep the reports' text too: it is shown by queries and read by their scorer."),
]

#: How much of a file tells it from another one of the same size.
_DIGEST_BYTES = 1 << 16


@command(IndexSettings, *MODEL, "is_json", "fail_fast", "with_paths", "quarantine")
def index(
    call: Call[IndexSettings],
    source: Source,
    out: Out,
    only: Only = None,
    split: Split = None,
    with_text: WithText = False,
    shard: Shard = None,
) -> int:
    """Embed images and reports into an index that can be searched.

    An existing index is added to: what it holds is skipped, so the same command resumes where one was
    interrupted. It belongs to one model and takes no other's vectors. Without --with-text it holds no report.
    A share writes a file of records beside the index, which `chexmix data merge` makes of all of them.

    Examples:

        chexmix retrieve index manifest.jsonl -o index

        chexmix tokenize new/ | chexmix retrieve index - -o index --only images
    """
    from chexmix_cli.commands.records.share import take_place

    if only not in (None, "images", "reports"):
        raise SettingsError(f"is {only!r}", where="--only", expected="images or reports")
    kinds: tuple[Kind, ...] = (
        ("images", "reports") if only is None else ("images",) if only == "images" else ("reports",)
    )
    run, place = take_place(call.options, shard, None)
    task = _Task(run, call.settings, source, split, kinds, with_text)
    return task.index(out) if place.part.count == 1 else task.share(out, place.part)


class _Task:
    """One run of the command.

    Args:
        run, settings: of the command.
        source: of the rows.
        split: of the rows that are taken; None takes all.
        kinds: what goes into the index.
        with_text: the reports' text, too.
    """

    def __init__(
        self,
        run: RunOptions,
        settings: IndexSettings,
        source: str,
        split: str | None,
        kinds: tuple[Kind, ...],
        with_text: bool,
    ) -> None:
        from chexmix_cli.commands.retrieve.rows import read_rows
        from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity
        from chexmix_cli.library.retrieval import RetrievalModel

        self._run, self._settings, self._split, self._kinds = run, settings, split, kinds
        self._model: OpenModel = run.open_model(settings.input)
        self._found: RetrievalModel = RetrievalModel(self._model, settings.embedding)
        made = self._found.identity()
        self._identity: IndexIdentity = IndexIdentity(**made, with_text=with_text, with_codes=settings.store.codes)
        self._rows: Iterator[Row] = read_rows(source, self._model, self._found, split, keep_uids=run.keep_uids)

    def index(self, out: Path) -> int:
        """Add all rows to an index; return the exit code."""
        from chexmix_cli.commands.records.sinks import Sinks
        from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter

        with Sinks(self._run) as sinks, IndexWriter(out, self._identity, rows=self._settings.store.rows) as writer:

            def process(rows: list[Wanted]) -> list[Record]:
                self._model.forget()
                found = self._found.items(rows, self._identity)
                for items in found:
                    for kind, item in items.items():
                        writer.add(kind, item)
                return [{"indexed": list(items)} for items in found]

            return self._loop(process, sinks, (_new_job(row, self._kinds, writer) for row in self._rows))

    def share(self, out: Path, part: Part) -> int:
        """Write what a share of the rows gives an index into a file beside it; return the exit code."""
        from chexmix_cli.commands.records.share import share_of
        from chexmix_cli.commands.records.sinks import Sinks

        def process(rows: list[Wanted]) -> list[Record]:
            self._model.forget()
            return [
                {"items": {kind: item_fields(item) for kind, item in items.items()}}
                for items in self._found.items(rows, self._identity)
            ]

        asked: dict[str, Any] = {
            "kinds": self._kinds,
            "split": self._split,
            "index": dataclasses.asdict(self._identity),
        }
        share = share_of(INDEX_COMMAND, self._run, self._settings, self._model, part, **asked)
        records = Path(f"{out}.jsonl")
        with Sinks(self._run, records, share=share) as sinks:
            return self._loop(process, sinks, (_share_job(row, self._kinds) for row in self._rows))

    def _loop(self, process: Callable[[list[Wanted]], list[Record]], sinks: Sinks, jobs: Iterator[Job[Wanted]]) -> int:
        from chexmix_cli.commands.records.parts import refuse_repeats
        from chexmix_cli.commands.records.runner import Loop

        loop = Loop(
            process=process,
            describe=_describe,
            batch_size=self._settings.input.batch_size,
            sinks=sinks,
            workers=self._settings.input.workers,
        )
        return loop.run(refuse_repeats(jobs), "index").exit_code


def _describe(record: Record) -> str:
    return f"{record['id']}: {', '.join(record.get('indexed', ())) or 'was there already'}"


def _share_job(row: Row, kinds: tuple[Kind, ...]) -> Job[Wanted]:
    """Return the job of a row for a share; files of other shares' rows are not looked at."""
    return _job(row, partial(_prepared, row, kinds), can_travel=row.job.can_travel)


def _new_job(row: Row, kinds: tuple[Kind, ...], writer: IndexWriter) -> Job[Wanted]:
    """Return the job of a row for an index; what the index holds is not read."""
    try:
        wanted = _wanted(row, kinds)
        if wanted.image_digest is not None and writer.holds("images", wanted.id, wanted.image_digest):
            wanted = replace(wanted, image_digest=None)
        if wanted.text_digest is not None and writer.holds("reports", wanted.id, wanted.text_digest):
            wanted = replace(wanted, text=None, text_digest=None)
    except DataError as error:
        return _job(row, raiser(error), can_travel=False)
    can_travel = row.job.can_travel and wanted.image_digest is not None
    return _job(row, partial(_with_film, row.job.prepare, wanted), can_travel=can_travel)


def _job(row: Row, prepare: Callable[[], Wanted], *, can_travel: bool) -> Job[Wanted]:
    job = row.job
    return Job(job.id, prepare, can_travel=can_travel, study=job.study, sources=job.sources, line=job.line)


def _prepared(row: Row, kinds: tuple[Kind, ...]) -> Wanted:
    return _with_film(row.job.prepare, _wanted(row, kinds))


def _with_film(prepare: Callable[[], Film], wanted: Wanted) -> Wanted:
    return wanted if wanted.image_digest is None else replace(wanted, film=prepare())


def _wanted(row: Row, kinds: tuple[Kind, ...]) -> Wanted:
    """Return what of a row goes into an index, its film not yet read.

    Raises:
        DataError: if its text is wanted alone, and there is none.
    """
    from chexmix_cli.core.infer.retrieval.index_writer import digest_of

    wanted = Wanted(id=row.job.id)
    if "images" in kinds:
        wanted = replace(wanted, image_digest=digest_of(_image_content(row.job)))
    if "reports" in kinds:
        if row.text is None and kinds == ("reports",):
            raise DataError(Reason.BAD_RECORD, "has no text", expected="the section that is indexed")
        if row.text is not None:
            digest = digest_of(" ".join(map(str, row.text)).encode())
            wanted = replace(wanted, text=row.text, text_digest=digest)
    return wanted


def _image_content(job: Job[Film]) -> bytes:
    """Return what tells an image from another one: its codes, or the beginning of its file and the file's size."""
    line = job.line or {}
    if "codes" in line:
        return str(line["codes"]).encode()
    path = Path(str(line.get("file", "")))
    try:
        with path.open("rb") as file:
            return f"{path.stat().st_size} ".encode() + file.read(_DIGEST_BYTES)
    except OSError:
        return b""  # reading the image will say what is wrong
