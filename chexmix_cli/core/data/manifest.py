"""The one manifest every training and evaluation command reads: JSON Lines, one image a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.labels import named_labels
from chexmix_cli.core.data.lines import id_text, quoted, quoted_name, read_json_lines
from chexmix_cli.core.data.review_edits import DECISION, manifest_values, table_lines
from chexmix_cli.core.data.shards.id_keys import SeenIds
from chexmix_cli.core.data.tables import is_table
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, MachineError, Reason, kind_of
from chexmix_cli.core.files import atomic_write

#: Of a manifest: female, male, other.
SEXES = ("F", "M", "O")
#: Years above this are a mistake.
OLDEST = 130
SPLITS = ("train", "val", "test")
_KEYS = ("id", "study", "patient")
#: What ``view`` may say; a view that is not known is null.
VIEWS: tuple[str, ...] = tuple(view.value for view in View if view is not View.UNKNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One image of a manifest.

    Attributes:
        id: unique name of the image.
        file: the image, absolute or relative to the manifest's folder (resolved when read).
        study, patient: grouping keys; a patient never spans two splits.
        sex: ``F``, ``M``, ``O`` (other), or None when it is not stated.
        age: in years, or None.
        source: what the image comes from, such as a data set or a hospital, or None.
        view: ``PA``, ``AP``, ``FRONTAL`` (one of the two), ``LATERAL``, ``OTHER``, or None when unknown.
        split: ``train``, ``val`` or ``test``.
        labels: finding -> 1 present, 0 absent, -1 uncertain, None not stated.
        findings, impression: report sections, None when missing.
        notes: where the values above come from, by name (``view_source``, ``findings_source``, ...); see
            docs/datasets.md. Nothing is computed from them.
    """

    id: str
    file: Path
    study: str | None = None
    patient: str | None = None
    sex: str | None = None
    age: float | None = None
    source: str | None = None
    view: str | None = None
    split: str | None = None
    labels: Mapping[str, int | None] = field(default_factory=dict)
    findings: str | None = None
    impression: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def report(self) -> str | None:
        """Return findings and impression as one text with headings, or None when both are missing."""
        sections = (("FINDINGS", self.findings), ("IMPRESSION", self.impression))
        parts = [f"{heading}: {text.strip()}" for heading, text in sections if text and text.strip()]
        return "\n".join(parts) or None


def read_manifest(path: Path, *, split: str | None = None) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest in order, those of ``split`` only if one is given.

    The exports of ``chexmix review``, JSON Lines and CSV, are read as manifests; what was rejected is no row of
    them (``core/data/review_edits.py``).

    Raises:
        DataError: on a line that is no JSON object, lacks ``id`` or ``file``, has an unknown field or a repeated id;
            the message names file and line.
    """
    seen = SeenIds()
    for where, values in table_lines(path) if is_table(path) else read_json_lines(path):
        if DECISION in values:
            kept = manifest_values(values, where)
            if kept is None:
                continue
            values = kept
        row = _row(values, path, where)
        if not seen.add(row.id):
            raise DataError(Reason.DUPLICATE, f"id {row.id!r} occurs twice", where=where)
        if split is None or row.split == split:
            yield row


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> int:
    """Write a manifest in one piece and return its number of rows.

    ``path`` appears, or is replaced, when the last row is written; whatever stops the rows before leaves it as it was.

    Raises:
        MachineError: if the file cannot be written.
    """
    count = 0
    try:
        with atomic_write(path) as file:
            for row in rows:
                file.write((row_line(row, path.parent) + "\n").encode())
                count += 1
    except OSError as error:
        raise MachineError(f"manifest cannot be written ({error.strerror})", where=str(path)) from None
    return count


def row_line(row: ManifestRow, folder: Path | None = None) -> str:
    """Return a row as its line of JSON.

    Args:
        row: the image.
        folder: of the manifest; an image under it is written relative to it, any other as an absolute path.
    """
    # Not resolved: data sets are put together of links, and what a link is called is the data set's name for it.
    file = Path(os.path.abspath(row.file))
    near = Path(os.path.abspath(folder)) if folder is not None else None
    if near is not None and file.is_relative_to(near):
        file = file.relative_to(near)
    values: dict[str, Any] = {
        "id": row.id,
        "study": row.study,
        "patient": row.patient,
        "file": file.as_posix(),
        "view": row.view,
        "split": row.split,
        "labels": dict(row.labels),
        "findings": row.findings,
        "impression": row.impression,
    }
    values |= {name: value for name in ("sex", "age", "source") if (value := getattr(row, name)) is not None}
    if row.notes:
        values["notes"] = dict(row.notes)
    # ASCII escapes: a file name that is no valid text survives, too.
    return json.dumps(values, allow_nan=False)


def checked_fields(values: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """Return the fields of a manifest's line that are there, in their types: keys as text, labels by the names of ours.

    Args:
        values: of the line; other fields are let through as they are.
        where: of the line, for messages.

    Raises:
        DataError: ``BAD_RECORD`` on a value that a manifest must not have.
    """
    found = dict(values)
    for name in _KEYS:
        found[name] = id_text(found.get(name)) or found.get(name)
    for name in (*_KEYS, "source", "file", "findings", "impression"):
        if not isinstance(found.get(name), str | None):
            raise DataError(Reason.BAD_RECORD, f"{name} is no text", where=where, expected="a text or null")
    # A typo in one of the few words of these would lose rows.
    for name, choices in (("view", VIEWS), ("split", SPLITS), ("sex", SEXES)):
        if found.get(name) is not None and found[name] not in choices:
            expected = f"{', '.join(choices)} or null"
            what = f"{name} is {quoted(found[name], choices)}"
            raise DataError(Reason.BAD_RECORD, what, where=where, expected=expected)
    age = found.get("age")
    if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= OLDEST):
        raise DataError(
            Reason.BAD_RECORD, f"age is {quoted(age)}", where=where, expected=f"years, 0 to {OLDEST}, or null"
        )
    labels = found.get("labels") or {}
    if not isinstance(labels, dict):
        raise DataError(Reason.BAD_RECORD, f"labels is {kind_of(labels)}", where=where, expected="an object")
    try:
        found["labels"] = named_labels(labels.items())
    except DataError as error:
        raise DataError(Reason.BAD_RECORD, error.what, where=where, expected=error.expected) from None
    return found


def _row(values: dict[str, Any], path: Path, where: str) -> ManifestRow:
    for name in ("id", "file"):
        if values.get(name) in (None, ""):
            raise DataError(Reason.BAD_RECORD, f"no {name}", where=where, expected=f"a text field {name!r}")
    known = set(ManifestRow.__dataclass_fields__)
    unknown = sorted(set(values) - known)
    if unknown:
        what = f"unknown field {quoted_name(unknown[0])}"
        raise DataError(Reason.BAD_RECORD, what, where=where, expected=", ".join(sorted(known)))
    found = checked_fields(values, where)
    notes = found.get("notes") or {}
    if not isinstance(notes, dict):
        raise DataError(Reason.BAD_RECORD, f"notes is {kind_of(notes)}", where=where, expected="an object")
    return ManifestRow(**{**found, "notes": notes, "file": path.parent / found["file"]})
