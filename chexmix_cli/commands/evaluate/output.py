"""What every ``chexmix evaluate`` does with its result: JSON or tables, a file, plots, a page; its shared options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.output_paths import write_file
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.console import Console
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.options import RunOptions
    from chexmix_cli.core.evals.result import Evaluation, Measurement

Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the result there instead of to stdout.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with tables, plots and cases: one file.")
]
Plots = Annotated[Path | None, typer.Option("--plots", metavar="DIR", help="Write each plot as a PNG.")]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Rows to evaluate. Default: test, or val if there are no test rows."),
]


def read_ratios(text: str) -> list[float]:
    """Return what ``--mask-ratio`` names: numbers with commas between them.

    Raises:
        SettingsError: if one is not a number.
    """
    return [_mask_ratio(part) for part in text.split(",")]


def _mask_ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{text!r} is not a number", where="--mask-ratio", expected="such as 0.2,0.5,0.8") from None


def deliver(
    evaluation: Evaluation,
    options: RunOptions,
    *,
    out: Path | None,
    html: Path | None,
    plots: Path | None = None,
    manifest: Path | None = None,
) -> ExitCode:
    """Write a result everywhere it was asked for; return 3 if some items could not be used, else 0.

    The result goes to stdout (JSON, or tables on a terminal), or as JSON to ``out``.

    Args:
        evaluation: the result.
        options: of the command: JSON on a terminal too, stderr, where the files of items that could not be used go.
        out, html, plots: files and a folder.
        manifest: says which files those are.

    Raises:
        MachineError: if a file cannot be written.
    """
    record, console = _with_headline(evaluation), options.console
    if plots is not None or html is not None:
        _draw(evaluation, html=html, plots=plots)
    writer = Writer(options.is_json)
    if out is not None:
        write_file(out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    if out is None or writer.is_text:
        writer.write(record, (summary if console.is_verbose else short_summary)(evaluation))
    if options.quarantine is not None:
        _quarantine(evaluation, options.quarantine, manifest, console)
    if evaluation.failed:
        console.note(f"{len(evaluation.failed)} items could not be used:")
        console.table(
            "not used",
            ("id", "code", "message"),
            [(one["id"], one["code"], one["message"]) for one in evaluation.failed],
        )
        return ExitCode.PARTIAL
    return ExitCode.DONE


def _quarantine(evaluation: Evaluation, path: Path, manifest: Path | None, console: Console) -> None:
    """List the items that could not be used with the files that the manifest has of them."""
    from chexmix_cli.commands.records.quarantine import Quarantine
    from chexmix_cli.core.data.manifest import read_manifest
    from chexmix_cli.core.data.sources import Source

    failed = {one["id"]: {"code": one["code"], "message": one["message"]} for one in evaluation.failed}
    rows = read_manifest(manifest) if failed and manifest is not None else ()
    files = {row.id: Source.named(row.file) for row in rows if row.id in failed}
    with Quarantine(path, console) as quarantine:
        for item_id, error in failed.items():
            quarantine.add(item_id, error, [files[item_id]] if item_id in files else [])


def _with_headline(evaluation: Evaluation) -> dict[str, Any]:
    """Return a result as JSON has it, the numbers of the headline marked."""
    from chexmix_cli.core.evals.headline import headline

    record, shown = evaluation.to_dict(), {id(one) for one in headline(evaluation)}
    for one, metric in zip(evaluation.measurements, record["metrics"], strict=True):
        if id(one) in shown:
            metric["headline"] = True
    return record


def short_summary(evaluation: Evaluation) -> str:
    """Return the headline of a result as a table, and how many numbers there are besides."""
    from chexmix_cli.core.evals.headline import headline, told_apart

    shown = headline(evaluation)
    rows = [
        (one.name, what, _number(one.value), _interval(one), str(one.n))
        for one, what in zip(shown, told_apart(shown), strict=True)
    ]
    parts = [f"{evaluation.task}: {_data_line(evaluation.data)}"]
    parts.append(draw_table(("metric", "of", "value", "95 %", "n"), rows))
    num_others = len(evaluation.measurements) - len(shown)
    others = [f"{num_others} more numbers, each with its protocol: -v, -o FILE or --html FILE"] if num_others else []
    if evaluation.missing:
        others.append(f"not computed, with -v why: {', '.join(one['what'] for one in evaluation.missing)}")
    return "\n\n".join([*parts, *(["\n".join(others)] if others else [])])


def summary(evaluation: Evaluation) -> str:
    """Return a result as tables, for a terminal."""
    rows = [
        (one.name, *(_field_cell(one),), _number(one.value), _interval(one), str(one.n), one.reason or "")
        for one in evaluation.measurements
    ]
    parts = [f"{evaluation.task}: {_data_line(evaluation.data)}"]
    parts.append(draw_table(("metric", "protocol", "value", "95 %", "n", ""), rows))
    if evaluation.missing:
        parts.append(draw_table(("not computed", "why"), [(one["what"], one["reason"]) for one in evaluation.missing]))
    return "\n\n".join(parts)


def _draw(evaluation: Evaluation, *, html: Path | None, plots: Path | None) -> None:
    from chexmix_cli.core.present.plots import curve_png

    drawn = {curve.name: curve_png(curve) for curve in evaluation.curves}
    if plots is not None:
        for name, png in drawn.items():
            write_file(plots / f"{name}.png", png)
    if html is not None:
        from chexmix_cli.core.present.pages import evaluation_page

        write_file(html, evaluation_page(_with_headline(evaluation), evaluation.cases, drawn).encode())


def _field_cell(measurement: Measurement) -> str:
    return "  ".join(f"{name}={value}" for name, value in measurement.fields.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(measurement: Measurement) -> str:
    return "" if measurement.interval is None else "{:.4g} to {:.4g}".format(*measurement.interval)


def _data_line(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if isinstance(value, str | int))
