"""``chexmix tokenize``: radiographs to image codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chexmix_cli.commands import options
from chexmix_cli.commands.streams import Record, check_arguments

if TYPE_CHECKING:
    from chexmix_cli.core.settings.inference import TokenizeSettings

NoCodes = Annotated[bool, typer.Option("--no-codes", help="Leave the codes out of the records: a check of the inputs.")]


def tokenize(
    inputs: options.Inputs = None,
    preset: options.Preset = None,
    no_codes: NoCodes = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
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
    """Turn chest radiographs into image codes.

    One record a study, as JSON Lines; `chexmix generate-report -` reads them.

    Examples:

        chexmix tokenize study/ --json

        chexmix tokenize *.png --weights DIR --preset official > codes.jsonl
    """
    from chexmix_cli.core.settings.inference import TokenizeSettings

    flags = {} if preset is None else {"input": {"preset": preset}}
    resolved = options.resolve_settings(TokenizeSettings, config, assignments, flags)
    if show_config:
        typer.echo(resolved.to_json())
        return 0
    run = options.RunOptions(
        weights=weights,
        device=device,
        dtype=dtype,
        seed=0,
        is_json=is_json,
        fail_fast=fail_fast,
        provenance=provenance,
        keep_uids=keep_uids,
        console=options.make_console(quiet, verbose),
    )
    return _run(check_arguments(inputs), run, resolved.settings, no_codes)


def _run(inputs: list[str], run: options.RunOptions, settings: TokenizeSettings, no_codes: bool) -> int:
    from chexmix_cli.commands.jobs import Film, encode_films, film_jobs
    from chexmix_cli.commands.model import open_model
    from chexmix_cli.commands.runner import Loop
    from chexmix_cli.commands.streams import Writer

    model = open_model(run, settings.input, needs_decoder=False)

    def process(items: list[tuple[str, Film]]) -> list[Record]:
        films = [film for _, film in items]
        codes = encode_films(films, model)
        made = {"codebook_hash": model.weights.codebook_hash, **model.provenance()}
        return [
            {**film.fields, **made} if no_codes else {**film.fields, **made, "codes": found}
            for film, found in zip(films, codes, strict=True)
        ]

    def describe(record: Record) -> str:
        codes = record.get("codes", [])
        shown = f"{len(codes)} codes, {len(set(codes))} different" if codes else "ok"
        notes = "".join(f"\n    {note}" for note in record.get("notes", []))
        return f"{record['id']}: {record.get('view') or 'unknown view'}, {shown}{notes}"

    loop = Loop(
        process=process,
        describe=describe,
        batch_size=settings.input.batch_size,
        fail_fast=run.fail_fast,
        writer=Writer(run.is_json),
        console=run.console,
    )
    return loop.run(film_jobs(inputs, model), "tokenize").exit_code
