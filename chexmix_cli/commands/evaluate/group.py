"""``chexmix evaluate``: metrics and protocols. One file a task; this one holds the table of them and ``diff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chexmix_cli.commands.evaluate.classification import evaluate_classification
from chexmix_cli.commands.evaluate.inpainting import evaluate_inpainting
from chexmix_cli.commands.evaluate.report import evaluate_report
from chexmix_cli.commands.evaluate.retrieval import evaluate_retrieval
from chexmix_cli.commands.evaluate.table import table
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.tables import draw_table
from chexmix_cli.core.errors import DataError, ExitCode, Reason
from chexmix_cli.core.settings.evaluation import DiffSettings

app = typer.Typer(help="Measure reports, classification, retrieval or inpainting.")

Result = Annotated[Path, typer.Argument(metavar="RESULT", help="A result of chexmix evaluate, as JSON.")]


@app.command("diff")
@command(DiffSettings, "is_json")
def diff(
    call: Call[DiffSettings],
    first: Result,
    second: Result,
) -> int:
    """Compare two results: how the numbers differ, and in which fields of their protocols.

    Numbers of the same items are tested in pairs, by a bootstrap over patients. Numbers whose protocols differ are
    shown with the fields that do, and are not tested.

    Examples:

        chexmix evaluate diff before.json after.json
    """
    from chexmix_cli.core.evals.diff import compare

    records = compare(_read(first), _read(second), call.settings.bootstrap)
    writer = Writer(call.options.is_json)
    if writer.is_text:
        writer.show(_drawn(records) + "\n")
        return ExitCode.DONE
    for record in records:
        writer.write(record, "")
    return ExitCode.DONE


def _read(path: Path) -> Any:
    from chexmix_cli.core.evals.result import read_evaluation

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error.strerror})", where=str(path)) from None
    except ValueError:
        raise DataError(Reason.BAD_RECORD, "not JSON", where=path.name, expected="a result") from None
    return read_evaluation(values, path.name)


def _drawn(records: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = []
    for record in records:
        interval = record["interval"]
        rows.append(
            (
                record["id"],
                cell(record["first"]),
                cell(record["second"]),
                cell(record["difference"]),
                "" if interval is None else "{:.4g} to {:.4g}".format(*interval),
                cell(record["p_value"]),
                record["remark"],
            )
        )
    return draw_table(("metric", "first", "second", "difference", "95 %", "p", ""), rows)


app.command("table")(table)
app.command("classification")(evaluate_classification)
app.command("inpainting")(evaluate_inpainting)
app.command("report")(evaluate_report)
app.command("retrieval")(evaluate_retrieval)
