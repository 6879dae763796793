"""``chexmix generate-report``: radiographs, or their codes, to reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.output_paths import OutputPaths
from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import (
    MODEL,
    RECORDS,
    Bits,
    Inputs,
    Preset,
    Ray,
    RecordsOut,
    RunOptions,
    Shard,
)
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.inference import GenerateReportSettings

if TYPE_CHECKING:
    from chexmix_cli.commands.records.share import Place
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.data.dicom.web import DicomwebServer
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Job, Record

Picture = Annotated[
    Path | None,
    typer.Option(
        "--picture", metavar="PNG|DIR", help="Draw radiograph, round trip and report; a folder for one picture a study."
    ),
]

Explain = Annotated[bool, typer.Option("--explain", help="Say what each sentence depends on.")]

Documents = Annotated[
    Path | None,
    typer.Option(
        "--documents",
        metavar="DIR",
        help="Write each report as DICOM SR there, or as documents.kinds says. They name the patient as the film's file"
        " does (mode 0600).",
    ),
]

Store = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="Store each report's documents on a DICOMweb server (STOW-RS), under the study."
    ),
]

Stats = Annotated[
    bool, typer.Option("--stats", help="Say at the end, on stderr, how fast tokens came and how near memory's limit.")
]


@command(GenerateReportSettings, *MODEL, "seed", *RECORDS, "html")
def generate_report(
    call: Call[GenerateReportSettings],
    inputs: Inputs = None,
    out: RecordsOut = None,
    preset: Preset = None,
    picture: Picture = None,
    explain: Explain = False,
    documents: Documents = None,
    store: Store = None,
    quantize: Bits = None,
    stats: Stats = False,
    shard: Shard = None,
    ray: Ray = None,
) -> int:
    """Write a report for each chest radiograph study.

    Inputs are DICOM or image files, folders, globs or zip archives; or, with -, paths, manifest lines or the records of
    `chexmix tokenize` on stdin.

    Examples:

        chexmix generate-report study/ --picture report.png --explain

        chexmix generate-report studies/ -o reports.xlsx --paths

        chexmix generate-report studies/ -o reports.jsonl --documents documents/

        chexmix generate-report study/ --store https://pacs.example/dicom-web

        chexmix tokenize studies/ | chexmix generate-report - > reports.jsonl
    """
    from chexmix_cli.commands.records.share import take_place

    show = _Show(picture=picture, documents=documents, store=store, is_explained=explain, has_stats=stats)
    run, place = take_place(call.options, shard, ray, out)
    return _run(check_arguments(inputs), run, call.settings, show, place)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Show:
    """What is shown besides the records."""

    picture: Path | None
    documents: Path | None
    store: str | None
    is_explained: bool
    has_stats: bool


def _run(
    inputs: list[str],
    run: RunOptions,
    settings: GenerateReportSettings,
    shown: _Show,
    place: Place,
) -> int:
    from chexmix_cli.commands.records.elsewhere import elsewhere
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.record_page import with_films
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.share import share_of
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.core.weights.files import HEAD_FILE, TYPICAL_FILE
    from chexmix_cli.library.reports import MARK

    make = partial(_Records, run, settings, shown)
    records = make()
    model = records.model
    cluster = elsewhere(place.ray, settings.ray, make, records, _only_here(run, settings, shown, place))
    depends = [model.weights.path / HEAD_FILE, model.weights.path / TYPICAL_FILE]
    flags = {
        "explain": shown.is_explained,
        "picture": shown.picture,
        "documents": shown.documents,
        "store": shown.store,
    }
    share = share_of("generate-report", run, settings, model, place.part, depends, **flags)
    with Sinks(run, place.out, command="generate-report", share=share) as sinks:
        if sinks.is_text:
            run.console.note(MARK)
            records.show = sinks.show
        loop = Loop(
            process=with_films(records.process, sinks.page, model.images),
            describe=records.describe,
            # A person at a terminal reads along, so reports come one by one there.
            batch_size=1 if sinks.is_text else settings.input.batch_size,
            sinks=sinks,
            is_named_before=True,
            workers=settings.input.workers,
            on_finished=records.pass_over,
            elsewhere=cluster,
        )
        reader = model.reader(keep_uids=run.keep_uids, keeps_picture=records.needs_picture)
        tally = loop.run(film_jobs(inputs, reader, counted=place.counts(run)), "reports")
    records.report(run.console)
    if shown.has_stats and tally.num_ok:
        from chexmix_cli.commands.generate_report.decoding_stats import show_costs
        from chexmix_cli.core.infer.decoding.costs import decode_costs

        show_costs(decode_costs(model.reports.engine, settings.decode), run.console, is_json=run.is_json)
    return tally.exit_code


def _only_here(run: RunOptions, settings: GenerateReportSettings, shown: _Show, place: Place) -> dict[str, object]:
    """Return the flags that write or show something beside the records, where the model is."""
    return {
        "--html": run.html or place.is_page,
        "--picture": shown.picture,
        "--documents": shown.documents,
        "--store": shown.store,
        "--stats": shown.has_stats,
        "explain.folder": shown.is_explained and settings.explain.folder,
    }


def _server(shown: _Show, settings: GenerateReportSettings) -> DicomwebServer | None:
    """Return the server of ``--store``, or None; SettingsError if nothing that is made can be stored there."""
    from chexmix_cli.core.data.dicom.web import DicomwebServer

    if shown.store is None:
        return None
    server = DicomwebServer(shown.store, where="--store")
    if set(settings.documents.kinds) == {"fhir"}:
        raise SettingsError("is fhir alone", where="documents.kinds", expected="a kind of DICOM document for --store")
    return server


class _Records:
    """Reports as records, with their pictures.

    Args:
        run, settings, shown: of the command.
        device: in place of the one asked for.

    Attributes:
        needs_picture: films must keep the picture they were made of.
        show: shows text as it comes, where a person reads along.
    """

    def __init__(
        self, run: RunOptions, settings: GenerateReportSettings, shown: _Show, device: str | None = None
    ) -> None:
        from chexmix_cli.commands.generate_report.document_files import DocumentFiles
        from chexmix_cli.library.documents import DocumentMaker
        from chexmix_cli.library.reports import Reporter

        self.model = run.on(device).open_model(settings.input, quantize=settings.quantize)
        explain = settings.explain if shown.is_explained else None
        maps = None if explain is None else explain.folder
        self._reporter = Reporter(self.model, settings.decode, explain, seed=run.seed)
        self._provenance = run.provenance_of(self.model)
        self._pictures = None if shown.picture is None else OutputPaths(shown.picture, (".png",))
        self._maps = None if maps is None else OutputPaths(maps, (".png",))
        maker = None
        if shown.documents is not None or shown.store is not None:
            maker = DocumentMaker(self._reporter, settings.documents)
        self.needs_picture = maker is not None and maker.needs_picture
        self._documents = None if maker is None else DocumentFiles(maker, shown.documents, _server(shown, settings))
        self.show: Callable[[str], None] | None = None
        self._num_reports = self._num_in_conflict = 0

    def process(self, films: list[Film]) -> list[Record]:
        """Return the result fields of a batch, the same in every share and behind every interruption."""
        self.model.forget()
        results = self._reporter(films, on_text=self._on_text(films))
        records = [{**result.fields(), **self._provenance} for result in results]
        if self._documents is not None:
            self._documents.write(results, records)
        for result, record in zip(results, records, strict=True):
            self._num_reports += 1
            self._num_in_conflict += bool(result.conflicts)
            if self._pictures is not None:
                path = self._pictures.path(result.id)
                self._reporter.draw(result, path)
                record["picture"] = str(path)
            if result.sentences is not None:
                record["sentences"] = [sentence.to_dict() for sentence in result.sentences]
                if self._maps is not None:
                    path = self._maps.path(result.id)
                    self._reporter.draw_evidence(result, path)
                    record["evidence_picture"] = str(path)
        return records

    def pass_over(self, job: Job[Film]) -> None:
        """Leave the names alone of what an earlier run has drawn and written."""
        if self._documents is not None:
            self._documents.pass_over(job.id)
        if self._pictures is not None:
            self._pictures.path(job.id)
        if self._maps is not None:
            self._maps.path(job.id)

    def report(self, console: Console) -> None:
        """Say on stderr in how many reports something is in conflict."""
        if self._num_in_conflict:
            share = f"{self._num_in_conflict} of {self._num_reports} reports"
            console.note(f"{share} are in conflict with themselves, the classifier or the file: see conflicts")

    def describe(self, record: Record) -> str:
        """Return what follows a report on a terminal, where its text is already."""
        notes = "".join(f"\n    note: {note}" for note in record.get("notes", []))
        if "comparisons" in record:
            notes += f"\n    claims a comparison, and no earlier study was given: {', '.join(record['comparisons'])}"
        notes += "".join(f"\n    conflict: {conflict}" for conflict in record.get("conflicts", []))
        notes += "".join(f"\n    {_evidence_line(sentence)}" for sentence in record.get("sentences", []))
        drawn = f"\n    picture: {record['picture']}" if "picture" in record else ""
        drawn += "".join(f"\n    {kind}: {path}" for kind, path in record.get("documents", {}).items())
        text = "" if "report" in record else f"{len(record['token_ids'])} token ids; there is no text tokenizer"
        return f"{text}{notes}{drawn}\n"

    def _on_text(self, films: list[Film]) -> Callable[[int, str], None] | None:
        show = self.show
        if show is None:
            return None
        film = films[0]
        named = "" if film.source is None or film.source.name == film.id else f"{film.source.name}\n"
        show(f"{named}{film.id} ({film.view or 'unknown view'})\n")
        return lambda _, piece: show(piece)


def _evidence_line(sentence: Record) -> str:
    return f"{sentence['badge']}: {sentence['text']}"
