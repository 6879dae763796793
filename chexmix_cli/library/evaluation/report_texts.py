"""Reports to compare, from whatever holds them: files of records and tables, or DICOM structured reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from chexmix_cli.core.data.report_files import ReportText


def read_texts(path: Path, *, prefers: Literal["prediction", "reference"]) -> list[ReportText]:
    """Return the reports of a file, by what it is, or of a folder of DICOM structured reports.

    Args:
        path: of ``core/data/report_files.py: read_reports`` or ``core/present/documents/read.py: sr_records``.
        prefers: which text is taken where a record has both.

    Raises:
        DataError: if it cannot be read.
    """
    from chexmix_cli.core.data.report_files import as_reports, read_reports
    from chexmix_cli.core.present.documents.read import is_sr, sr_records

    return as_reports(sr_records(path), prefers=prefers) if is_sr(path) else read_reports(path, prefers=prefers)
