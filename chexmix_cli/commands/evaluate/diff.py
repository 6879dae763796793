"""``chexmix evaluate diff``: results side by side, on a terminal, as records, or as a table for a paper."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.evaluate.output import Html
from chexmix_cli.commands.records.output_paths import write_file
from chexmix_cli.commands.records.streams import Writer
from chexmix_cli.commands.shared.command import Call, command
from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.data.tables import kept_as_text
from chexmix_cli.core.errors import DataError, ExitCode, Reason, SettingsError
from chexmix_cli.core.settings.evaluation import DiffSettings

if TYPE_CHECKING:
    from chexmix_cli.core.evals.result import Evaluation

Results = Annotated[
    list[Path], typer.Argument(metavar="RESULT RESULT...", help="Results of chexmix evaluate, as JSON; two or more.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write it there: .jsonl, .csv or .tex (a table for booktabs)."),
]
Record = Mapping[str, Any]
#: A difference that chance makes less often than this is marked.
_SIGNIFICANT = 0.05


@command(DiffSettings, "is_json")
def diff(
    call: Call[DiffSettings],
    results: Results,
    out: Out = None,
    html: Html = None,
) -> int:
    """Compare results: how the numbers differ from the first one's, and in which fields of their protocols.

    Numbers of the same items are tested in pairs, by a bootstrap over patients. Numbers whose protocols differ are
    shown with the fields that do, and are not tested. A terminal shows the headline; -v all numbers.

    Examples:

        chexmix evaluate diff before.json after.json

        chexmix evaluate diff a.json b.json c.json -o table.tex
    """
    from chexmix_cli.core.evals.diff import compare

    if len(results) < 2:
        raise SettingsError(f"{len(results)} result", where="RESULT", expected="two or more")
    write = None if out is None else _form(out)
    first, *others = found = [_read(path) for path in results]
    kinds = dict.fromkeys(one.task for one in found)
    if len(kinds) > 1:
        raise SettingsError(
            f"results of different kinds: {', '.join(kinds)}", where="evaluate diff", expected="results of one task"
        )
    names = _names(results)
    compared = [compare(first, other, call.settings.bootstrap) for other in others]
    if html is not None:
        from chexmix_cli.core.present.pages.comparison import comparison_page

        write_file(html, comparison_page(names, _rows(compared), headline=_headline(first)).encode())
    if out is not None and write is not None:
        write_file(out, write(names, compared).encode())
        return ExitCode.DONE
    writer = Writer(call.options.is_json)
    if writer.is_text:
        shown = None if call.console.is_verbose else _headline(first)
        writer.show(_drawn(names, compared, shown) + "\n")
    else:
        for record in _records(names, compared):
            writer.write(dict(record), "")
    return ExitCode.DONE


def _read(path: Path) -> Evaluation:
    from chexmix_cli.core.evals.result import read_evaluation

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, RecursionError):
        raise DataError(Reason.BAD_RECORD, "not JSON", where=path.name, expected="a result") from None
    return read_evaluation(values, path.name)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what to call each result: its file's name, with the folder where two have the same."""
    stems = [path.stem for path in paths]
    return [str(path.with_suffix("")) if stems.count(path.stem) > 1 else path.stem for path in paths]


def _headline(first: Evaluation) -> dict[str, str]:
    """Return the ids of the numbers to be shown first, each with a short name."""
    from chexmix_cli.core.evals.diff import label
    from chexmix_cli.core.evals.headline import headline, told_apart

    shown = headline(first)
    return {label(one): f"{one.name} {what}".strip() for one, what in zip(shown, told_apart(shown), strict=True)}


def _records(names: Sequence[str], compared: Sequence[Sequence[Record]]) -> list[Record]:
    """Return all records; of more than one pair, each says which result it is about."""
    if len(compared) == 1:
        return list(compared[0])
    return [{**record, "of": name} for name, records in zip(names[1:], compared, strict=True) for record in records]


def _rows(compared: Sequence[Sequence[Record]]) -> list[dict[str, Any]]:
    """Return a row for each number of the first result: its value, and each other result's record."""
    others = [
        {record["id"]: {**record, "is_significant": _is_significant(record)} for record in records}
        for records in compared
    ]
    return [
        {"id": record["id"], "first": record["first"], "others": [other.get(record["id"]) for other in others]}
        for record in compared[0]
    ]


def _drawn(names: Sequence[str], compared: Sequence[Sequence[Record]], shown: Mapping[str, str] | None) -> str:
    """Return the comparison as a table: of two results with interval and remark, of more a column each."""
    if len(names) == 2:
        records = [one for one in compared[0] if shown is None or one["id"] in shown]
        rows = [
            (_named(one["id"], shown), *(_cell(one[key]) for key in ("first", "second", "difference")), _interval(one),
             _cell(one["p_value"]), one["remark"])
            for one in records
        ]  # fmt: skip
        table = draw_table(("metric", *names, "difference", "95 %", "p", ""), rows)
    else:
        chosen = [row for row in _rows(compared) if shown is None or row["id"] in shown]
        rows = [
            (_named(row["id"], shown), _cell(row["first"]), *(_marked(one) for one in row["others"])) for row in chosen
        ]
        table = draw_table(("metric", *names), rows)
        table += f"\n\n*: differs from {names[0]}, p < {_SIGNIFICANT} (paired, by patient); (...): other protocol"
    num_more = 0 if shown is None else len(compared[0]) - len(shown)
    return table + (f"\n\n{num_more} more numbers: -v, or -o FILE" if num_more > 0 else "")


def _named(number: str, shown: Mapping[str, str] | None) -> str:
    return number if shown is None else shown[number]


def _marked(record: Record | None) -> str:
    """Return the second value of a record, marked where it differs beyond chance or is of another protocol."""
    if record is None or record["second"] is None:
        return "-"
    if record["changed"]:
        return f"({_cell(record['second'])})"
    return _cell(record["second"]) + ("*" if _is_significant(record) else "")


def _is_significant(record: Record) -> bool:
    return record["p_value"] is not None and record["p_value"] < _SIGNIFICANT


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(record: Record) -> str:
    return "" if record["interval"] is None else "{:.4g} to {:.4g}".format(*record["interval"])


def _lines(names: Sequence[str], compared: Sequence[Sequence[Record]]) -> str:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in _records(names, compared))


def _csv(names: Sequence[str], compared: Sequence[Sequence[Record]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(
        ["metric", kept_as_text(names[0])]
        + [
            kept_as_text(f"{name}{what}")
            for name in names[1:]
            for what in ("", " difference", " low", " high", " p", " remark")
        ]
    )
    for row in _rows(compared):
        cells: list[Any] = [row["id"], row["first"]]
        for one in row["others"]:
            if one is None:
                cells += [None] * 6
                continue
            low, high = one["interval"] or (None, None)
            cells += [one["second"], one["difference"], low, high, one["p_value"], one["remark"]]
        writer.writerow(cells)
    return "\ufeff" + written.getvalue()


def _latex(names: Sequence[str], compared: Sequence[Sequence[Record]]) -> str:
    """Return a table for the package booktabs: a row for each number that has a value, a column for each result."""
    rows = [row for row in _rows(compared) if row["first"] is not None]
    shared = set.intersection(*(set(row["id"].split("|")[1:]) for row in rows)) if rows else set()
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(names)}}}",
        "\\toprule",
        " & ".join(["metric", *map(_escaped, names)]) + r" \\",
        "\\midrule",
    ]
    for row in rows:
        name, *fields = row["id"].split("|")
        what = ", ".join(field.partition(":")[2] for field in fields if field not in shared)
        cells = [_escaped(f"{name} ({what})" if what else name), f"{row['first']:.3f}"]
        cells += [_latex_cell(one) for one in row["others"]]
        lines.append(" & ".join(cells) + r" \\")
    common = ", ".join(sorted(shared))
    note = f"% $^*$: differs from {names[0]}, p < {_SIGNIFICANT} (paired bootstrap by patient); () other protocol"
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", note, f"% all: {common}", ""])


def _latex_cell(record: Record | None) -> str:
    if record is None or record["second"] is None:
        return "--"
    value = f"{record['second']:.3f}"
    return f"({value})" if record["changed"] else value + ("$^*$" if _is_significant(record) else "")


def _escaped(text: str) -> str:
    for letter in "\\&%$#_{}":
        text = text.replace(letter, "\\textbackslash{}" if letter == "\\" else f"\\{letter}")
    return text.replace("~", "\\textasciitilde{}").replace("^", "\\textasciicircum{}")


_FORMS: Mapping[str, Callable[[Sequence[str], Sequence[Sequence[Record]]], str]] = {
    ".jsonl": _lines,
    ".csv": _csv,
    ".tex": _latex,
}


def _form(path: Path) -> Callable[[Sequence[str], Sequence[Sequence[Record]]], str]:
    """Return what writes a file's form.

    Raises:
        SettingsError: if its ending names none.
    """
    ending = path.suffix.lower()
    if ending not in _FORMS:
        raise SettingsError(f"{path.name!r}", where="--out", expected=f"a name that ends in {', '.join(_FORMS)}")
    return _FORMS[ending]
