"""MIMIC-CXR (DICOM and reports) and MIMIC-CXR-JPG (JPEG, metadata, split and label tables).

Layout: ``files/p10/p10000032/s50414267/<dicom_id>.dcm`` or ``.jpg``; tables ``mimic-cxr-2.0.0-metadata.csv[.gz]``,
``-split``, ``-chexpert``, ``-negbio`` (named 2.0.0 in folders of version 2.1.0 too); ``cxr-record-list.csv[.gz]`` with
the DICOM files; reports in ``files/p10/p10000032/s50414267.txt``, in ``mimic-cxr-reports.zip``, or in the
``mimic_cxr_sectioned.csv`` that MIT-LCP's script makes of them. Reports come with MIMIC-CXR, tables with -JPG:
``reports`` and ``tables`` name the folder of the other one. Neither states sex or age: where MIMIC-IV's
``patients.csv[.gz]`` lies beside the tables, they are taken from there, the age as of the year of the study.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chexmix_cli.core.data.adapters.datasets.mimic_reports import MimicReports, open_reports
from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.label_table import LabelTable
from chexmix_cli.core.data.adapters.layout import find_file
from chexmix_cli.core.data.adapters.reading import first_view, read_age, read_sex, read_split, read_view
from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, Label
from chexmix_cli.core.data.tables import match_name, read_table
from chexmix_cli.core.data.views import View, view_of_words
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import MimicImport

#: Version numbers differ between releases, and do not follow the folder's.
_VERSION = r"mimic-cxr-\d+(?:\.\d+)*-"
_METADATA = match_name(_VERSION + "metadata")
_SPLIT = match_name(_VERSION + "split")
_RECORDS = match_name("cxr-record-list")
_PATIENTS = match_name("patients")
_KEYS = ("dicom_id", "subject_id", "study_id")
_NUMBER = re.compile(r"\d{3,}")
_DATE = re.compile(r"(\d{4})\d{4}(?:\.0)?")

Make = Callable[[Mapping[str, str]], Entry]


def read_dicom(root: Path, settings: MimicImport) -> Iterator[Entry | Rejection]:
    """Yield the images of MIMIC-CXR; without a metadata table their views are left to the DICOM headers."""
    return _read(root, settings, suffix=".dcm")


def read_jpg(root: Path, settings: MimicImport) -> Iterator[Entry | Rejection]:
    """Yield the images of MIMIC-CXR-JPG."""
    return _read(root, settings, suffix=".jpg")


def _read(root: Path, settings: MimicImport, *, suffix: str) -> Iterator[Entry | Rejection]:
    tables = settings.tables or root
    metadata, main = find_file(tables, _METADATA), None
    if metadata is None and suffix == ".dcm":
        main = find_file(root, _RECORDS)
    main = main or metadata
    if main is None:
        raise DataError(
            Reason.NOT_FOUND,
            "no list of the images is here",
            where=str(tables),
            expected="mimic-cxr-2.0.0-metadata.csv.gz" + (" or cxr-record-list.csv.gz" if suffix == ".dcm" else ""),
            hint="it comes with MIMIC-CXR-JPG: --set tables=DIR names its folder",
        )
    with ExitStack() as stack:
        reports = stack.enter_context(open_reports(settings.reports or root))
        maker = _Maker(
            settings,
            suffix,
            reports,
            _read_splits(tables),
            _read_labels(tables, settings.labels),
            _read_patients(tables),
        )
        yield from entries(read_table(main, _KEYS), maker.make, id_column="dicom_id")


@dataclass(frozen=True, slots=True)
class _Patient:
    """A line of MIMIC-IV's patients: sex, and the age in one of the shifted years."""

    sex: str | None = None
    age: float | None = None
    year: int | None = None

    def age_in(self, date: str | None) -> float | None:
        """Return the age in the year of a study's date (YYYYMMDD, shifted by as much); None where it is not known."""
        found = _DATE.fullmatch((date or "").strip())
        if found is None or self.age is None or self.year is None:
            return None
        return read_age(str(self.age + int(found[1]) - self.year))


_NOBODY = _Patient()


class _Maker:
    """Joins a row of the image table with split, labels and report."""

    def __init__(
        self,
        settings: MimicImport,
        suffix: str,
        reports: MimicReports,
        splits: Mapping[str, str],
        labels: LabelTable | None,
        patients: Mapping[str, _Patient],
    ) -> None:
        self._settings, self._suffix, self._reports = settings, suffix, reports
        self._splits, self._labels, self._patients = splits, labels, patients

    def make(self, cells: Mapping[str, str]) -> Entry:
        """Return the entry of one image."""
        dicom_id, subject, study = (cells[name].strip() for name in _KEYS)
        if not _NUMBER.fullmatch(subject) or not _NUMBER.fullmatch(study) or not dicom_id:
            raise DataError(Reason.BAD_RECORD, "an id is missing or no number", expected=", ".join(_KEYS))
        folder = f"p{subject[:2]}/p{subject}"
        image = f"{folder}/s{study}/{dicom_id}{self._suffix}"
        view, notes = first_view(*_stated_views(cells))
        labels: Mapping[str, Label] | None = None
        if self._labels is not None:
            labels = self._labels.get(study)
            notes |= {} if labels is None else {"label_source": self._labels.source}
        report = self._reports.get(folder, study, self._settings.fallback)
        patient = self._patients.get(subject, _NOBODY)
        return Entry(
            id=dicom_id,
            paths=(f"files/{image}", image),
            study=f"s{study}",
            patient=f"p{subject}",
            view=view,
            sex=patient.sex,
            age=patient.age_in(cells.get("StudyDate")),
            source="mimic-cxr-jpg" if self._suffix == ".jpg" else "mimic-cxr",
            split=self._splits.get(dicom_id),
            # An image that the published split leaves out is not drawn into it.
            draw=() if self._splits else ("train", "val", "test"),
            labels=labels or {},
            **report.fields(**notes),
        )


def _stated_views(cells: Mapping[str, str]) -> Iterator[tuple[str, View]]:
    """Yield what the metadata say of the view, best first: the image's own codes before the examination's name."""
    yield "ViewPosition", read_view(cells.get("ViewPosition"))
    for column in ("ViewCodeSequence_CodeMeaning", "PerformedProcedureStepDescription"):
        yield column, view_of_words([cells.get(column)])


def _read_splits(tables: Path) -> dict[str, str]:
    path = find_file(tables, _SPLIT)
    if path is None:
        return {}
    splits = {}
    for row in read_table(path, ("dicom_id", "split")):
        row.check()
        split = read_split(row.cells["split"])
        if split is not None:
            splits[row.cells["dicom_id"].strip()] = sys.intern(split)
    return splits


def _read_patients(tables: Path) -> dict[str, _Patient]:
    path = find_file(tables, _PATIENTS)
    if path is None:
        return {}
    patients = {}
    for row in read_table(path, ("subject_id", "gender", "anchor_age", "anchor_year")):
        row.check()
        year = row.cells["anchor_year"].strip()
        patients[row.cells["subject_id"].strip()] = _Patient(
            read_sex(row.cells["gender"]), read_age(row.cells["anchor_age"]), int(year) if year.isdigit() else None
        )
    return patients


def _read_labels(tables: Path, labeller: str) -> LabelTable | None:
    path = None if labeller == "none" else find_file(tables, match_name(_VERSION + labeller))
    if path is None:
        return None
    labels = LabelTable(CHEXPERT_FINDINGS, path.name)
    for row in read_table(path, ("study_id", *CHEXPERT_FINDINGS)):
        row.check()
        labels.put(row.cells["study_id"].strip(), row.cells)
    return labels
