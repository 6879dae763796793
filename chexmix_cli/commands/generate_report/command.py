"""``chexmix generate-report``: radiographs, or their codes, to reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.output_paths import OutputPaths
from chexmix_cli.commands.records.streams import Record, check_arguments
from chexmix_cli.commands.shared import options
from chexmix_cli.core.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.commands.records.film_jobs import Film
    from chexmix_cli.commands.shared.model import OpenModel
    from chexmix_cli.core.infer.reports.writer import Report
    from chexmix_cli.core.settings.inference import GenerateReportSettings

#: In every record (DESIGN: reports are marked preliminary and unverified).
MARK = "AI-generated, preliminary, unverified; not for clinical use"

Picture = Annotated[
    Path | None,
    typer.Option(
        "--picture", metavar="PNG|DIR", help="Draw radiograph, round trip and report; a folder for one picture a study."
    ),
]

Explain = Annotated[
    bool, typer.Option("--explain", help="Say what each sentence hangs on; with --picture also as heat maps.")
]

Quantize = Annotated[
    str | None,
    typer.Option("--quantize", metavar="int8", help="Hold the decoder in 8 bits: half of bfloat16's memory (CPU)."),
]

Stats = Annotated[
    bool, typer.Option("--stats", help="Say at the end, on stderr, how fast tokens came and how near memory's limit.")
]


def generate_report(
    inputs: options.Inputs = None,
    preset: options.Preset = None,
    picture: Picture = None,
    explain: Explain = False,
    quantize: Quantize = None,
    stats: Stats = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    config: options.Config = None,
    assignments: options.Assignments = None,
    show_config: options.ShowConfig = False,
    is_json: options.Json = False,
    fail_fast: options.FailFast = False,
    provenance: options.Provenance = False,
    keep_uids: options.KeepUids = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Write a report for each chest radiograph study.

    Inputs are DICOM or image files, folders, globs or zip archives; or, with -, paths, manifest lines or the records of
    `chexmix tokenize` on stdin.

    Examples:

        chexmix generate-report study/ --picture report.png --explain

        chexmix tokenize studies/ | chexmix generate-report - > reports.jsonl
    """
    from chexmix_cli.core.settings.inference import GenerateReportSettings

    flags: dict[str, Any] = {} if preset is None else {"input": {"preset": preset}}
    if quantize is not None:
        flags["quantize"] = quantize
    resolved = options.resolve_settings(GenerateReportSettings, config, assignments, flags)
    if show_config:
        typer.echo(resolved.to_json())
        return 0
    run = options.RunOptions(
        weights=weights,
        device=device,
        dtype=dtype,
        seed=seed,
        is_json=is_json,
        fail_fast=fail_fast,
        provenance=provenance,
        keep_uids=keep_uids,
        console=options.make_console(quiet, verbose),
    )
    show = _Show(picture=picture, is_explained=explain, has_stats=stats)
    return _run(check_arguments(inputs), run, resolved.settings, show)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Show:
    """What is shown beside the records."""

    picture: Path | None
    is_explained: bool
    has_stats: bool


def _run(
    inputs: list[str],
    run: options.RunOptions,
    settings: GenerateReportSettings,
    shown: _Show,
) -> int:
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.streams import Writer
    from chexmix_cli.commands.shared.model import open_model

    model = open_model(run, settings.input, needs_decoder=True, quantize=settings.quantize)
    if shown.is_explained and model.reports.tokenizer is None:
        raise WeightsError("has no text tokenizer, which --explain needs", where=str(model.weights.path))
    writer = Writer(run.is_json)
    if writer.is_text:
        run.console.note(MARK)
    reporter = _Reporter(model, settings, shown, show=writer.show if writer.is_text else None)
    loop = Loop(
        process=reporter.process,
        describe=reporter.describe,
        # A person at a terminal reads along, so reports come one by one there.
        batch_size=1 if writer.is_text else settings.input.batch_size,
        fail_fast=run.fail_fast,
        writer=writer,
        console=run.console,
        workers=settings.input.workers,
    )
    tally = loop.run(film_jobs(inputs, model), "reports")
    if shown.has_stats and tally.num_ok:
        from chexmix_cli.commands.generate_report.decoding_stats import show_costs
        from chexmix_cli.core.infer.decoding.costs import decode_costs

        show_costs(decode_costs(model.reports.engine, settings.decode), run.console, is_json=run.is_json)
    return tally.exit_code


class _Reporter:
    """Turns films into report records, and draws them."""

    def __init__(
        self,
        model: OpenModel,
        settings: GenerateReportSettings,
        shown: _Show,
        *,
        show: Callable[[str], None] | None,
    ) -> None:
        self._model, self._settings, self._explain = model, settings, shown.is_explained
        self._pictures = None if shown.picture is None else OutputPaths(shown.picture, (".png",))
        folder = settings.explain.folder
        self._maps = None if folder is None else OutputPaths(folder, (".png",))
        #: Shows text as it comes, where a person reads along.
        self._show = show
        self._drafter = model.drafter(settings.decode)

    def process(self, items: list[tuple[str, Film]]) -> list[Record]:
        """Return the result fields of a batch."""
        from chexmix_cli.commands.records.film_jobs import encode_films

        films = [film for _, film in items]
        codes = encode_films(films, self._model)
        found = self._model.reports.write(
            codes,
            self._settings.decode,
            seed=self._model.options.seed,
            on_text=self._on_text(items),
            drafter=self._drafter,
        )
        records: list[Record] = []
        for film, report in zip(films, found, strict=True):
            record: Record = {**film.fields, "token_ids": report.token_ids}
            if report.text is not None:
                record["report"] = report.text
                record |= _sections(report.text)
            if report.comparisons:
                record["comparisons"] = report.comparisons
            if report.num_not_text:
                record["notes"] = [
                    *record.get("notes", []),
                    f"{report.num_not_text} tokens are no text and are left out",
                ]
            record |= {"finish": report.finish.value, "logprob": report.logprob, "mark": MARK}
            records.append({**record, **self._model.provenance()})
        if self._pictures is not None:
            for (record_id, film), image_codes, record in zip(items, codes, records, strict=True):
                path = self._pictures.path(record_id)
                self._draw(path, film, image_codes, record.get("report", "(no text tokenizer)"))
                record["picture"] = str(path)
        if self._explain:
            for (record_id, film), image_codes, report, record in zip(items, codes, found, records, strict=True):
                self._add_evidence(record_id, film, image_codes, report, record)
        return records

    def _add_evidence(self, record_id: str, film: Film, codes: list[int], report: Report, record: Record) -> None:
        """Add each sentence's evidence to a record, and draw it where pictures go."""
        from chexmix_cli.core.infer.reports.evidence import find_evidence
        from chexmix_cli.core.present.evidence import evidence_picture

        tokenizer = self._model.reports.tokenizer
        assert tokenizer is not None, "checked before the first record"
        settings = self._settings.explain
        sentences = find_evidence(self._model.reports.engine.decoder, tokenizer, codes, report, settings)
        record["sentences"] = [sentence.to_dict() for sentence in sentences]
        if self._pictures is not None:
            path = self._pictures.beside(Path(record["picture"]), "evidence")
        elif self._maps is not None:
            path = self._maps.path(record_id)
        else:
            return
        note = f"model {self._model.weights.name}"
        evidence_picture(self._original(film, codes), sentences, path=path, note=note)
        record["evidence_picture"] = str(path)

    def describe(self, record: Record) -> str:
        """Return what follows a report on a terminal, where its text is already."""
        notes = "".join(f"\n    note: {note}" for note in record.get("notes", []))
        if "comparisons" in record:
            notes += f"\n    claims a comparison, and no earlier study was given: {', '.join(record['comparisons'])}"
        notes += "".join(f"\n    {_evidence_line(sentence)}" for sentence in record.get("sentences", []))
        drawn = f"\n    picture: {record['picture']}" if "picture" in record else ""
        text = "" if "report" in record else f"{len(record['token_ids'])} token ids; there is no text tokenizer"
        return f"{text}{notes}{drawn}\n"

    def _on_text(self, items: list[tuple[str, Film]]) -> Callable[[int, str], None] | None:
        show = self._show
        if show is None:
            return None
        record_id, film = items[0]
        show(f"{record_id} ({film.fields.get('view') or 'unknown view'})\n")
        return lambda _, piece: show(piece)

    def _draw(self, path: Path, film: Film, codes: list[int], report: str) -> None:
        from chexmix_cli.core.present.picture import report_picture

        roundtrip = self._model.images.decode([codes])[0]
        original = self._original(film, codes)
        report_picture(original, roundtrip, report, path=path, note=f"model {self._model.weights.name}")

    def _original(self, film: Film, codes: list[int]) -> NDArray[np.uint8]:
        """Return the film as the model was given it, or what its codes show where only they came in."""
        from chexmix_cli.core.data.images.geometry import to_levels

        if film.pixels is None:
            shown: NDArray[np.uint8] = self._model.images.decode([codes])[0]
            return shown
        levels_YXC = to_levels(film.pixels.transpose(1, 2, 0))
        return levels_YXC[..., 0] if levels_YXC.shape[2] == 1 else levels_YXC


def _evidence_line(sentence: Record) -> str:
    verdict = "text prior only" if sentence["text_prior_only"] else "hangs on the image"
    lost = f"{-sentence['drop']:+.2f} nats a token without the image"
    return f"{sentence['logprob']:.2f} nats a token, {lost}, {verdict}: {sentence['text']}"


def _sections(report: str) -> Record:
    """Return the field with the findings and the impression of a report that has such headings."""
    from chexmix_cli.core.text.sections import read_sections

    sections = read_sections(report)
    named = {"findings": sections.findings, "impression": sections.impression}
    return {"sections": named} if any(named.values()) else {}
