"""The reports of MIMIC-CXR, in each of the forms people have them in."""

from __future__ import annotations

import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chexmix_cli.core.data.adapters.layout import find_file
from chexmix_cli.core.data.adapters.reading import Report, named_sections, read_report, tidy
from chexmix_cli.core.data.adapters.text_store import TextStore
from chexmix_cli.core.data.sources import ZIP_ERRORS
from chexmix_cli.core.data.tables import match_name, read_table
from chexmix_cli.core.errors import DataError, Reason

_SECTIONED = match_name("mimic[-_]cxr[-_]sectioned")
_ZIP = re.compile(r"mimic-cxr-reports\.zip")
_MEMBER = re.compile(r"(.*?)p\d{2}/p\d+/s\d+\.txt")
_COLUMNS = ("study", "findings", "impression")
#: The longest published report has a few kilobytes.
_MAX_REPORT_BYTES = 1 << 20


class MimicReports(ABC):
    """Reports by study; a study has several images, so the last report read is kept."""

    def __init__(self) -> None:
        self._last: tuple[str, Report] | None = None

    def get(self, folder: str, study: str, fallback: str) -> Report:
        """Return a study's report, empty if there is none.

        Args:
            folder: of the patient, ``p10/p10000032``.
            study: number, without ``s``.
            fallback: ``last_paragraph`` or ``none``, for a report without findings and impression.

        Raises:
            DataError: if the report is there and cannot be read.
        """
        if self._last is None or self._last[0] != study:
            self._last = (study, self.read(folder, study, fallback))
        return self._last[1]

    @abstractmethod
    def read(self, folder: str, study: str, fallback: str) -> Report:
        """Return a study's report; see ``get``."""


class _Texts(MimicReports):
    """Free text: files, or members of the archive."""

    def read(self, folder: str, study: str, fallback: str) -> Report:
        data = self.data(f"{folder}/s{study}.txt")
        if data is None:
            return Report()
        if len(data) > _MAX_REPORT_BYTES:
            raise DataError(Reason.TOO_LARGE, "the report is too long", expected=f"at most {_MAX_REPORT_BYTES} bytes")
        try:
            return read_report(data.decode("utf-8"), fallback=fallback)
        except UnicodeDecodeError:
            raise DataError(Reason.CORRUPT, "the report is not UTF-8") from None

    @abstractmethod
    def data(self, path: str) -> bytes | None:
        """Return the bytes of ``p10/p10000032/s50414267.txt``, None if there is no such report."""


class _Files(_Texts):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root / "files" if (root / "files").is_dir() else root

    def data(self, path: str) -> bytes | None:
        try:
            with (self._root / path).open("rb") as stream:
                return stream.read(_MAX_REPORT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(Reason.UNREADABLE, f"the report cannot be read ({error.strerror})") from None


class _Archive(_Texts):
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__()
        self._archive = archive
        matches = (_MEMBER.fullmatch(member) for member in archive.namelist())
        first = next((match for match in matches if match), None)
        if first is None:
            raise DataError(Reason.BAD_RECORD, "holds no report", where=name, expected="files/p10/p.../s....txt")
        self._prefix = first[1]

    def data(self, path: str) -> bytes | None:
        try:
            with self._archive.open(self._prefix + path) as stream:
                # The archive may lie about sizes; the stream is cut where the bound is.
                return stream.read(_MAX_REPORT_BYTES + 1)
        except KeyError:
            return None
        except Exception as error:  # zipfile and its inflaters have an exception each
            raise DataError(
                Reason.CORRUPT, f"the report cannot be taken from the archive ({type(error).__name__})"
            ) from None


class _Sectioned(MimicReports):
    """The table of MIT-LCP's ``create_section_files.py``: study, impression, findings, last_paragraph, comparison."""

    def __init__(self, path: Path, store: TextStore) -> None:
        super().__init__()
        self._store = store
        for row in read_table(path, _COLUMNS):
            row.check()
            texts = [tidy(row.cells.get(name)) for name in ("findings", "impression", "last_paragraph")]
            store.put(row.cells["study"].strip().removeprefix("s"), texts)

    def read(self, folder: str, study: str, fallback: str) -> Report:
        findings, impression, last = self._store.get(study) or (None, None, None)
        report = named_sections(findings, impression, source="sectioned/{}")
        if fallback == "none" or report.findings or report.impression or last is None:
            return report
        return Report(findings=last, notes={"findings_source": "sectioned/last_paragraph"})


@contextmanager
def open_reports(place: Path) -> Iterator[MimicReports]:
    """Give the reports of a folder, an archive or a table of sections.

    In a folder are looked for, in this order: a table of sections, the archive, files.

    Raises:
        DataError: if ``place`` does not exist, or is of no known form.
    """
    if not place.exists():
        raise DataError(Reason.NOT_FOUND, "no such file or folder", where=str(place))
    table, archive = place, place
    if place.is_dir():
        table, archive = find_file(place, _SECTIONED) or place, find_file(place, _ZIP) or place
    if table.is_file() and not _is_archive(table):
        with TextStore() as store:
            yield _Sectioned(table, store)
    elif archive.is_file():
        try:
            opened = zipfile.ZipFile(archive)
        except (OSError, *ZIP_ERRORS):
            raise DataError(Reason.CORRUPT, "the archive cannot be read", where=archive.name) from None
        with opened:
            yield _Archive(opened, archive.name)
    else:
        yield _Files(place)


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except ZIP_ERRORS:  # one part of several, or a damaged one
        return True
