"""``chexmix data``: published data sets to manifests, and what is wrong with a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.data.shards import info, merge
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.core.errors import ExitCode, MachineError, counted
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.settings.datasets import CheckSettings
from chexmix_cli.core.settings.load import Layer, Resolved, resolve
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.data.adapters.entry import Rejection
    from chexmix_cli.core.data.adapters.importer import ImportSummary
    from chexmix_cli.core.data.manifest import ManifestRow

app = typer.Typer(help="Make manifests of published data sets, and check them.")

Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="mimic-cxr, mimic-cxr-jpg, chexpert, chexpert-plus, rexgradient, padchest, openi, nih14, r2gen or folder.",
    ),
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The data set's folder, as unpacked.")]
Output = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Manifest to write. Default: its lines to stdout."),
]
Rejects = Annotated[
    Path | None,
    typer.Option("--quarantine", metavar="FILE", help="List the images that are left out, with the reason."),
]
Manifest = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="A manifest: JSON Lines, one image a line; or a folder of films.")
]


def _import_settings(kind: str, layers: Sequence[Layer]) -> Resolved[Any]:
    from chexmix_cli.core.data.adapters.registry import kind_of

    return resolve(kind_of(kind).settings, layers)


@app.command("import")
@command(_import_settings, "is_json")
def import_dataset(
    call: Call[Any],
    kind: Kind,
    root: Root,
    output: Output = None,
    rejects: Rejects = None,
) -> int:
    """Write the manifest of a data set; report what it holds, and which images are left out.

    An image that is missing, or whose row cannot be read, is left out and counted, and the exit code is 3.

    Examples:

        chexmix data import chexpert CheXpert-v1.0-small/ -o chexpert.jsonl

        chexmix data import mimic-cxr-jpg mimic-cxr-jpg/2.1.0 --set reports=mimic-cxr/2.1.0 -o mimic.jsonl
    """
    from chexmix_cli.core.data.adapters.importer import ImportSummary, import_rows
    from chexmix_cli.core.data.adapters.registry import kind_of
    from chexmix_cli.core.data.manifest import write_manifest

    settings, console, writer = call.settings, call.console, Writer(call.options.is_json)
    summary = ImportSummary()
    to_stdout = output is None or str(output) == "-"
    with _reject_file(rejects) as on_reject, console.progress("import", among_records=to_stdout) as move:
        entries = kind_of(kind).read(root, settings)
        rows = _counted(import_rows(entries, root, settings, summary, on_reject), move)
        if output is None or str(output) == "-":
            _write_rows(rows, writer)
        else:
            write_manifest(output, rows)
    if to_stdout:
        _note_summary(summary, console)
    else:
        from chexmix_cli.commands.data.tables import import_tables

        record = {"id": str(output), "status": "ok", "kind": kind, **summary.to_dict()}
        writer.write(record, import_tables(record))
    return ExitCode.PARTIAL if summary.num_rejected else ExitCode.DONE


@app.command("check")
@command(CheckSettings, "is_json")
def check(
    call: Call[CheckSettings],
    manifest: Manifest,
) -> int:
    """Look for mistakes in a manifest, or a folder of films: leaks, duplicates, unreadable images, empty texts.

    Every image is decoded, and its header checked as other commands check it; --set images.read=exists only checks
    that it exists. The exit code is 3 if there are problems, 0 if there are none; docs/datasets.md says what counts as
    one.

    Examples:

        chexmix data check chexpert.jsonl

        chexmix data check mimic.jsonl --set images.read=exists --json

        chexmix data check vindr-cxr/train
    """
    from chexmix_cli.commands.data.tables import check_tables
    from chexmix_cli.core.data.checks.check_manifest import check_manifest

    writer = Writer(call.options.is_json)
    with call.console.progress("images") as move:
        result = check_manifest(manifest, call.settings, move)
    record = {"id": str(manifest), "status": "ok", **result}
    writer.write(record, check_tables(record))
    return ExitCode.PARTIAL if result["problems"] else ExitCode.DONE


def _counted(rows: Iterator[ManifestRow], move: Callable[[int, int | None], None]) -> Iterator[ManifestRow]:
    for number, row in enumerate(rows, start=1):
        yield row
        move(number, None)


def _write_rows(rows: Iterator[ManifestRow], writer: Writer) -> None:
    from chexmix_cli.core.data.manifest import row_line

    for row in rows:
        line: Record = json.loads(row_line(row))
        stated = sum(label is not None for label in row.labels.values())
        report = f"report of {len(row.report.split())} words" if row.report else "no report"
        writer.write(
            line, f"{row.id}: {row.view or 'unknown view'}, {row.split or 'no split'}, {stated} labels, {report}"
        )


@contextmanager
def _reject_file(path: Path | None) -> Iterator[Callable[[Rejection], None]]:
    """Give a function that keeps rejections; the file is complete when the import ends, however it ends."""
    if path is None:
        yield lambda rejection: None
        return
    failure: BaseException | None = None
    try:
        with atomic_write(path) as file:

            def keep(rejection: Rejection) -> None:
                error = {"code": rejection.code, "message": rejection.message}
                line = json.dumps({"id": rejection.id, "status": "error", "error": error})
                file.write(f"{line}\n".encode())

            try:
                yield keep
            except BaseException as error:
                failure = error
    except OSError as error:
        raise MachineError(f"cannot be written ({error.strerror})", where=str(path)) from None
    if failure is not None:
        raise failure


def _note_summary(summary: ImportSummary, console: Console) -> None:
    if summary.num_rejected:
        console.note(f"{counted(summary.rows, 'image')} written; {summary.num_rejected} left out:")
        rows: list[tuple[str, ...]] = [(code, str(found["count"])) for code, found in _by_code(summary)]
        console.table("not written", ("code", "images"), rows)


def _by_code(summary: ImportSummary) -> list[tuple[str, dict[str, Any]]]:
    return sorted(summary.rejected.items())


app.command("merge")(merge)
app.command("info")(info)
