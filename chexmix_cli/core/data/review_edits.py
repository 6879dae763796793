"""What ``chexmix review`` exports, as rows of a manifest: a reader's decisions on drafts.

A line has ``id``, ``file``, ``decision`` (``accepted``, ``edited`` or ``rejected``), ``report`` as the reader leaves
it, ``model_prediction`` as the model wrote it, ``labels``, ``split`` and, where they are known, ``study``, ``patient``
and ``view``. A CSV has a column ``labels.NAME`` for each finding. A rejected draft has no report: there is no
text to learn from, or to compare with, and its line is no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.lines import TABLE_HINT, quoted, quoted_name
from chexmix_cli.core.data.tables import blank_to_none, list_columns, read_columns, read_table
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.text.sections import read_sections

#: The field that tells such a line from a manifest's own.
DECISION = "decision"
_DECISIONS = ("accepted", "edited", "rejected")
_KEPT = ("id", "file", "study", "patient", "view", "split", "labels")
_FIELDS = frozenset({*_KEPT, DECISION, "report", "model_prediction"})
_LABEL = "labels."


def manifest_values(values: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Return an exported line as the values of a manifest's line; None for a draft that was rejected.

    Raises:
        DataError: ``BAD_RECORD`` on a decision, a field or a report that is none.
    """
    if values[DECISION] not in _DECISIONS:
        what = f"{DECISION} is {quoted(values[DECISION], _DECISIONS)}"
        raise DataError(Reason.BAD_RECORD, what, where=where, expected=", ".join(_DECISIONS))
    unknown = sorted(set(values) - _FIELDS)
    if unknown:
        expected = ", ".join(sorted(_FIELDS))
        raise DataError(Reason.BAD_RECORD, f"unknown field {quoted_name(unknown[0])}", where=where, expected=expected)
    report = values.get("report")
    if not isinstance(report, str | None):
        raise DataError(Reason.BAD_RECORD, "report is no text", where=where, expected="a text or null")
    if values[DECISION] == "rejected":
        return None
    found = {name: values[name] for name in _KEPT if name in values}
    if not report:
        return found
    sections = read_sections(report)
    if sections.findings is None and sections.impression is None:
        return found | {"findings": report.strip()}
    return found | {"findings": sections.findings, "impression": sections.impression}


def table_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of an exported CSV or TSV with where each stands.

    Raises:
        DataError: if it cannot be read or is another table.
    """
    columns = read_columns(path)
    if not {"id", "file", DECISION} <= set(columns):
        raise DataError(
            Reason.BAD_RECORD,
            f"a table, and no export of chexmix review ({list_columns(columns)})",
            where=path.name,
            expected="JSON Lines: one object a line",
            hint=TABLE_HINT,
        )
    for row in read_table(path):
        row.check()
        values: dict[str, Any] = {"labels": {}}
        for name, cell in row.cells.items():
            value = blank_to_none(cell)
            if not name.startswith(_LABEL):
                values[name] = value
            elif value is not None:
                values["labels"][name.removeprefix(_LABEL)] = value
        yield row.where, values
