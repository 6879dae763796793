"""Reports as files hold them: JSON Lines (ours, manifests), ReXrank's JSON, CSV and TSV; one form for all.

Read as they are: nothing is cut or reworded. What a table writes for nothing (``nan``, ``None``, blank, a JSON null) is
an empty text, never a word of a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chexmix_cli.core.data.labels import is_blank
from chexmix_cli.core.data.lines import id_text, parse_json, quoted, read_json_lines, read_text
from chexmix_cli.core.data.tables import is_table, list_columns, read_columns, read_table
from chexmix_cli.core.errors import DataError, Reason, kind_of
from chexmix_cli.core.settings.choices import Section
from chexmix_cli.core.text.sections import split_sections

_IDS = ("id", "study_id", "study", "report_id")
_TEXTS = ("model_prediction", "prediction", "generated_report", "report", "text")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "findings": ("findings", "section_findings"),
    "impression": ("impression", "section_impression"),
}
_PATIENTS = ("patient", "subject_id", "patient_id", "deid_patient_id")
#: Sections that are no part of what a reader of the image says.
_NOT_READ = frozenset({"indication", "comparison", "technique", "notification"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportText:
    """One report of a file.

    Attributes:
        id: of the record.
        report: a whole report, or None.
        findings, impression: sections that stand in fields of their own, or None.
        patient: what the file groups by, or None.
        failed: code and message of a record that came in as an error.
    """

    id: str
    report: str | None = None
    findings: str | None = None
    impression: str | None = None
    patient: str | None = None
    failed: tuple[str, str] | None = None

    def text(self, section: Section) -> str:
        """Return the text of a section without its heading, empty where there is none.

        ``both`` is everything but indication, comparison, technique and notification. A report without any heading is
        the section that is asked for.
        """
        if self.findings is None and self.impression is None:
            return _section_of(self.report or "", section)
        wanted = {"findings": (self.findings,), "impression": (self.impression,)}.get(
            section, (self.findings, self.impression)
        )
        return "\n".join(part.strip() for part in wanted if part and part.strip())

    @property
    def whole(self) -> str:
        """The whole text, with the headings it has or would have; empty where there is none."""
        if self.findings is None and self.impression is None:
            return self.report or ""
        parts = (("FINDINGS", self.findings), ("IMPRESSION", self.impression))
        return "\n".join(f"{heading}: {part.strip()}" for heading, part in parts if part and part.strip())


def read_reports(path: Path, *, prefers: Literal["prediction", "reference"]) -> list[ReportText]:
    """Return the reports of a file, by its ending: ``.json`` (ReXrank), ``.csv``, ``.tsv``, else JSON Lines.

    Args:
        path: the file.
        prefers: which text is taken where a record has both, as ReXrank's output has.

    Raises:
        DataError: if it cannot be read, a record has no id or no text field, or an id occurs twice.
    """
    if path.suffix.lower() == ".json":
        records = _json_records(path)
    elif is_table(path):
        records = _table_records(path)
    else:
        records = read_json_lines(path)
    return as_reports(records, prefers=prefers)


def as_reports(
    records: Iterable[tuple[str, Mapping[str, Any]]], *, prefers: Literal["prediction", "reference"]
) -> list[ReportText]:
    """Return records (with where each stands) as reports; errors as :func:`read_reports`."""
    found: dict[str, ReportText] = {}
    for where, record in records:
        report = _report(record, where, prefers)
        if report.id in found:
            raise DataError(Reason.DUPLICATE, f"id {report.id!r} occurs twice", where=where)
        found[report.id] = report
    return list(found.values())


def read_scores(path: Path, ids: Sequence[str]) -> dict[str, list[float | None]]:
    """Return the columns of numbers of a CSV or TSV by name, for the reports ``ids``; None where it has none.

    Raises:
        DataError: if it cannot be read, or a cell of a column of numbers is none.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for where, record in _table_records(path):
        row_id = next((record[name] for name in _IDS if record.get(name)), None)
        if row_id is None:
            raise DataError(Reason.BAD_RECORD, "no id", where=where, expected=" or ".join(_IDS))
        rows[str(row_id)] = record
    names = [name for name in next(iter(rows.values()), {}) if name not in (*_IDS, *_TEXTS)]
    return {name: [_number(rows.get(item, {}).get(name), name, path.name) for item in ids] for name in names if name}


def _number(cell: Any, name: str, where: str) -> float | None:
    if cell is None or is_blank(cell):
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(Reason.BAD_RECORD, f"{name} is {quoted(cell)}", where=where, expected="a number")
    return value


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the studies of ReXrank's JSON, an object of objects by study, or of a list of records."""
    values = parse_json(read_text(path), path.name)
    if isinstance(values, dict):
        values = [value if not isinstance(value, dict) else {"id": key, **value} for key, value in values.items()]
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(
            Reason.BAD_RECORD,
            "no reports",
            where=path.name,
            expected="an object of studies by id, or a list of records",
        )
    for number, value in enumerate(values, start=1):
        yield f"{path.name}: report {number}", value


def _table_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    columns = read_columns(path)
    if not set(_IDS) & set(columns):
        raise DataError(
            Reason.BAD_RECORD, f"no id ({list_columns(columns)})", where=path.name, expected=" or ".join(_IDS)
        )
    for row in read_table(path):
        row.check()
        yield row.where, dict(row.cells)


def _report(record: Mapping[str, Any], where: str, prefers: str) -> ReportText:
    record_id = next((found for name in _IDS if (found := id_text(record.get(name))) is not None), None)
    if record_id is None:
        raise DataError(Reason.BAD_RECORD, "no id", where=where, expected=" or ".join(_IDS))
    patient = next((found for name in _PATIENTS if (found := id_text(record.get(name))) is not None), None)
    if record.get("status") == "error":
        error = record.get("error")
        values = error if isinstance(error, dict) else {}
        code, message = str(values.get("code", Reason.UPSTREAM)), str(values.get("message", "it is not said why"))
        return ReportText(id=record_id, patient=patient, failed=(code, message))
    texts = _TEXTS if prefers == "prediction" else ("report", "text")
    has_prediction = prefers == "prediction" and any(name in record for name in _TEXTS[:3])
    whole = next((name for name in texts if name in record), None)
    parts = {part: next((name for name in names if name in record), None) for part, names in _PARTS.items()}
    if whole is None and not any(parts.values()):
        # A model without a text tokenizer gives ids only: there is nothing to score.
        raise DataError(
            Reason.BAD_RECORD, "no report", where=where, expected=f"a field {', '.join(texts)}, findings or impression"
        )
    given = {part: _text(record[name], where, name) for part, name in parts.items() if name is not None}
    if has_prediction or not any(given.values()):
        given = {}
    return ReportText(
        id=record_id,
        report=None if whole is None else _text(record[whole], where, whole),
        patient=patient,
        findings=given.get("findings"),
        impression=given.get("impression"),
    )


def _text(value: Any, where: str, name: str) -> str | None:
    """Return a text, or None for what says nothing."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(Reason.BAD_RECORD, f"{name} is {kind_of(value)}", where=where, expected="a text")
    return None if is_blank(value) else value


def _section_of(report: str, section: Section) -> str:
    parts = [(name, body) for name, body in split_sections(report) if body]
    if all(name == "preamble" for name, _ in parts):
        wanted = [body for _, body in parts]
    elif section == "both":
        wanted = [body for name, body in parts if name not in _NOT_READ]
    else:
        wanted = [body for name, body in parts if name == section]
    return "\n".join(wanted)
