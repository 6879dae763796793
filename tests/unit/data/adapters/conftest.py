"""Run an import as the command does, and look at what it gave by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from chexmix_cli.core.data.adapters.entry import Rejection
from chexmix_cli.core.data.adapters.importer import ImportSummary, import_rows
from chexmix_cli.core.data.adapters.registry import kind_of
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.settings.load import resolve


class Imported:
    """What an import gave, by id."""

    def __init__(self, rows: list[ManifestRow], rejections: list[Rejection], summary: ImportSummary) -> None:
        self.rows = {row.id: row for row in rows}
        self.order = [row.id for row in rows]
        self.rejected = {rejection.id: rejection for rejection in rejections}
        self.summary = summary.to_dict()

    def __getitem__(self, row_id: str) -> ManifestRow:
        return self.rows[row_id]


@pytest.fixture
def do_import() -> Callable[..., Imported]:
    """Return a function that imports a folder: ``do_import(kind, root, {settings})``."""

    def run(kind_name: str, root: Path, settings: Mapping[str, Any] | None = None) -> Imported:
        kind = kind_of(kind_name)
        resolved = resolve(kind.settings, [("test", settings or {})]).settings
        summary, rejections = ImportSummary(), []
        rows = list(import_rows(kind.read(root, resolved), root, resolved, summary, rejections.append))
        return Imported(rows, rejections, summary)

    return run
