"""The one manifest every training and evaluation command reads: JSON Lines, one image a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import DataError, Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One image of a manifest.

    Attributes:
        id: unique name of the image.
        file: the image, absolute or relative to the manifest's folder (resolved when read).
        study, patient: grouping keys; a patient never spans two splits.
        view: ``PA``, ``AP``, ``LATERAL`` or None when unknown.
        split: ``train``, ``val`` or ``test``.
        labels: finding -> 1 present, 0 absent, -1 uncertain, None not stated.
        findings, impression: report sections, None when missing.
    """

    id: str
    file: Path
    study: str | None = None
    patient: str | None = None
    view: str | None = None
    split: str | None = None
    labels: Mapping[str, int | None] = field(default_factory=dict)
    findings: str | None = None
    impression: str | None = None

    @property
    def report(self) -> str | None:
        """Return findings and impression as one text with headings, or None when both are missing."""
        sections = (("FINDINGS", self.findings), ("IMPRESSION", self.impression))
        parts = [f"{heading}: {text.strip()}" for heading, text in sections if text and text.strip()]
        return "\n".join(parts) or None


def read_manifest(path: Path, *, split: str | None = None) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest in order, those of ``split`` only if one is given.

    Raises:
        DataError: on a line that is no JSON object, lacks ``id`` or ``file``, has an unknown field or a repeated id;
            the message names file and line.
    """
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"manifest cannot be read ({error.strerror})", where=str(path)) from None
    seen: set[str] = set()
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parse(line, path, f"{path.name}:{number}")
            if row.id in seen:
                raise DataError(Reason.DUPLICATE, f"id {row.id!r} occurs twice", where=f"{path.name}:{number}")
            seen.add(row.id)
            if split is None or row.split == split:
                yield row


def _parse(line: str, path: Path, where: str) -> ManifestRow:
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(Reason.BAD_RECORD, f"not JSON ({error.msg})", where=where) from None
    if not isinstance(values, dict):
        raise DataError(Reason.BAD_RECORD, "not a JSON object", where=where)
    known = set(ManifestRow.__dataclass_fields__)
    for name in ("id", "file"):
        if not isinstance(values.get(name), str) or not values[name]:
            raise DataError(Reason.BAD_RECORD, f"no {name}", where=where, expected=f"a text field {name!r}")
    unknown = sorted(set(values) - known)
    if unknown:
        raise DataError(
            Reason.BAD_RECORD, f"unknown field {unknown[0]!r}", where=where, expected=", ".join(sorted(known))
        )
    labels = values.get("labels") or {}
    for finding, value in labels.items():
        if value not in (1, 0, -1, None):
            raise DataError(
                Reason.BAD_RECORD, f"label {finding!r} is {value!r}", where=where, expected="1, 0, -1 or null"
            )
    return ManifestRow(**{**values, "labels": labels, "file": path.parent / values["file"]})
