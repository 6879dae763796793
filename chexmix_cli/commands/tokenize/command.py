"""``chexmix tokenize``: radiographs to image codes, as records or as token shards."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands.records.streams import check_arguments
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.options import MODEL, RECORDS, Inputs, Preset, Ray, RunOptions, Shard
from chexmix_cli.core.errors import SettingsError, counted
from chexmix_cli.core.settings.inference import TokenizeSettings
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.commands.records.runner import Tally
    from chexmix_cli.commands.records.share import Place
    from chexmix_cli.commands.records.sinks import Sinks
    from chexmix_cli.commands.tokenize.shard_output import ShardOutput
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Job
    from chexmix_cli.library.results import Tokens

NoCodes = Annotated[bool, typer.Option("--no-codes", help="Leave the codes out of the records, to check inputs only.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="SHARDS",
        show_default=False,
        help="Write token shards into this folder; records then name shard and row instead of codes. Resumes.",
    ),
]
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option("--compare", metavar="A B", help="Compare two image presets instead: equal codes and PSNR, by study."),
]


@command(TokenizeSettings, *MODEL, *RECORDS)
def tokenize(
    call: Call[TokenizeSettings],
    inputs: Inputs = None,
    preset: Preset = None,
    out: Out = None,
    shard: Shard = None,
    ray: Ray = None,
    compare: Compare = None,
    no_codes: NoCodes = False,
) -> int:
    """Turn chest radiographs into image codes.

    One record for each study, as JSON Lines; `chexmix generate-report -` reads them.

    Examples:

        chexmix tokenize study/ --json

        chexmix tokenize *.png --weights DIR --image-preset official > codes.jsonl

        chexmix tokenize - -o shards --quarantine refused.jsonl < manifest.jsonl
    """
    from chexmix_cli.commands.records.share import take_place

    run, place = take_place(call.options, shard, ray)
    if compare is not None:
        return _compare(check_arguments(inputs), run, call.settings, compare, out)
    task = _Task(check_arguments(inputs), run, call.settings, place, no_codes)
    return task.run(out)


def _compare(
    inputs: list[str], run: RunOptions, settings: TokenizeSettings, presets: tuple[str, str], out: Path | None
) -> int:
    from chexmix_cli.commands.tokenize.compare import compare_presets

    if out is not None:
        raise SettingsError("cannot be combined with --out", where="--compare", expected="one of the two")
    return compare_presets(inputs, run, settings, presets)


@dataclass(frozen=True, slots=True)
class _Task:
    """One run of the command."""

    inputs: list[str]
    options: RunOptions
    settings: TokenizeSettings
    place: Place
    no_codes: bool

    def run(self, out: Path | None) -> int:
        from chexmix_cli.commands.records.elsewhere import elsewhere
        from chexmix_cli.commands.records.film_jobs import film_jobs
        from chexmix_cli.commands.records.parts import own
        from chexmix_cli.commands.records.runner import Loop, Tally
        from chexmix_cli.commands.records.sinks import Sinks
        from chexmix_cli.commands.tokenize.shard_output import ShardOutput

        make = partial(_Records, self.options, self.settings)
        records = make()
        model, part = records.model, self.place.part
        cluster = elsewhere(self.place.ray, self.settings.ray, make, records)
        rows, console = self.settings.shards.rows, self.options.console
        output = None if out is None else ShardOutput(out, model, rows, part)
        reader = model.reader(keep_uids=self.options.keep_uids)
        tally, jobs = Tally(), film_jobs(self.inputs, reader, counted=self.place.counts(self.options))
        with Sinks(self.options) as sinks:
            ends = _Ends(output, sinks, tally, drops_codes=self.no_codes and output is None)
            if output is not None and output.num_finished:
                console.note(f"in the shards already: {counted(output.num_finished, 'record')}")
            loop = Loop(
                process=records.process,
                describe=_describe,
                batch_size=self.settings.input.batch_size,
                sinks=sinks,
                finish=ends.finish,
                # A shard's bytes must not depend on where a run before this one stopped.
                group=0 if output is None else rows,
                num_before=0 if output is None else output.num_begun,
                settle=ends.settle,
                workers=self.settings.input.workers,
                again=None if output is None else "The same command goes on behind them",
                elsewhere=cluster,
            )
            selected = own(iter(jobs), part) if output is None else output.select(iter(jobs), ends.pass_over)
            num_finished = 0 if output is None else output.num_finished
            total = len(jobs) - num_finished if isinstance(jobs, Sized) else None
            loop.run(selected, "tokenize", tally, total=total)
            if output is not None:
                output.close()
        return tally.exit_code


class _Records:
    """Codes as records.

    Args:
        run, settings: of the command.
        device: in place of the one asked for.
    """

    def __init__(self, run: RunOptions, settings: TokenizeSettings, device: str | None = None) -> None:
        self.model = run.on(device).open_model(settings.input, needs_decoder=False)
        self._provenance = run.provenance_of(self.model)

    def process(self, films: list[Film]) -> list[Record]:
        """Return the result fields of a batch, the same in every share and behind every interruption."""
        self.model.forget()
        return [self._fields(tokens) for tokens in self.model.encode(films)]

    def _fields(self, tokens: Tokens) -> Record:
        fields = tokens.fields()
        # The codes come last: they are long, and a reader would miss what follows them.
        codes = fields.pop("codes")
        return {**fields, **self._provenance, "codes": codes}


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where finished records go, besides stdout."""

    output: ShardOutput | None
    sinks: Sinks
    tally: Tally
    drops_codes: bool

    def finish(self, job: Job[Film], record: Record) -> Record:
        """Take a record; return what stdout gets of it."""
        if self.output is not None:
            return self.output.take(job, record)
        return {key: value for key, value in record.items() if key != "codes"} if self.drops_codes else record

    def settle(self) -> None:
        """Take note that a batch is done."""
        if self.output is not None:
            self.output.settle()

    def pass_over(self, job: Job[Film], entry: Record) -> None:
        """Count a record that an earlier run has put into a shard."""
        self.tally.pass_over(entry)
        if entry["status"] != "ok":
            self.sinks.refuse(job.id, entry["error"], job.sources)


def _describe(record: Record) -> str:
    codes = record.get("codes", [])
    shown = f"{len(codes)} codes, {len(set(codes))} different" if codes else "ok"
    if "shard" in record:
        shown = f"{record['shard']} row {record['row']}"
    notes = "".join(f"\n    {note}" for note in record.get("notes", []))
    return f"{record['id']}: {record.get('view') or 'unknown view'}, {shown}{notes}"
