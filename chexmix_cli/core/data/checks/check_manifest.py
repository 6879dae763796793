"""What is wrong with a manifest, and what is in it, before hours of training on it.

``check_manifest`` goes through the rows once and gives one JSON-able result. *Problems* make a measurement wrong or a
training run fail: they are listed under ``problems`` and are what the exit code of ``chexmix data check`` tells.
Everything else is a figure to read: a set without labels, or with reports that repeat each other, is not a faulty one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.checks.check_images import ImageFacts, ImageTally, examine_images
from chexmix_cli.core.data.checks.check_reports import ReportTally
from chexmix_cli.core.data.manifest import SPLITS, ManifestRow, read_manifest
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.inputs import Refusal, discover
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import CheckSettings
from chexmix_cli.core.settings.inference import InputSettings

#: Problem code to what it means; the order is that of the result.
PROBLEMS: Mapping[str, str] = {
    "SPLIT_LEAK": "patients (or, where none is named, studies) with images in more than one split",
    "STUDY_OF_TWO_PATIENTS": "studies whose images name different patients",
    "STUDY_OF_TWO_REPORTS": "studies whose images have different reports",
    "NO_IMAGE": "images that are missing, cannot be read, or are no film of a chest",
    "DUPLICATE_IMAGES": "images with the very pixels of an earlier one",
    "NEAR_DUPLICATE_IMAGES": "pairs of nearly the same picture under the names of two patients, in one split",
    "IMAGE_LEAK": "pairs of the same, or nearly the same, picture in two splits",
    "NO_TEXT": "sections that say None, nan or null: a table's word for nothing, which a model would learn",
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found, how often, and the first few: ids of rows, pairs of ids, patients or studies."""

    code: str
    count: int
    examples: list[Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the problem with its meaning, as plain values."""
        return {"code": self.code, "count": self.count, "meaning": PROBLEMS[self.code], "examples": self.examples}


@dataclass(slots=True)
class _Groups:
    """Who is in which split, who has whose study; counted row by row."""

    splits_of: dict[str, set[str]] = field(default_factory=dict)
    patient_of: dict[str, str] = field(default_factory=dict)
    mixed_studies: dict[str, None] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)

    def add(self, row: ManifestRow) -> None:
        if row.split is not None:
            self.splits_of.setdefault(owner(row), set()).add(row.split)
        if row.patient is None:
            return
        self.patients.add(row.patient)
        if row.study is not None and self.patient_of.setdefault(row.study, row.patient) != row.patient:
            self.mixed_studies[row.study] = None

    def leaks(self) -> list[str]:
        return [name for name, splits in self.splits_of.items() if len(splits) > 1]


@dataclass(slots=True)
class _Counts:
    """Figures of the rows, by split, view and label."""

    rows: int = 0
    without_patient: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: ManifestRow) -> None:
        self.rows += 1
        self.without_patient += row.patient is None
        self.splits[row.split or "none"] += 1
        self.views[row.view or "unknown"] += 1
        for name, value in row.notes.items():
            self.sources.setdefault(name, Counter())[value] += 1
        for finding, label in row.labels.items():
            self.labels.setdefault(finding, Counter())["null" if label is None else str(label)] += 1

    def to_dict(self) -> dict[str, Any]:
        values = ("1", "0", "-1", "null")
        return {
            "rows": self.rows,
            "splits": {name: self.splits[name] for name in (*SPLITS, "none") if self.splits[name]},
            "without_patient": self.without_patient,
            "views": dict(sorted(self.views.items())),
            "notes": {name: dict(sorted(counts.items())) for name, counts in sorted(self.sources.items())},
            # A finding that a row does not name is not stated there, which is what null says.
            "labels": {
                finding: {value: counts[value] for value in values[:3]} | {"null": self._not_stated(counts)}
                for finding, counts in self.labels.items()
            },
        }

    def _not_stated(self, counts: Counter[str]) -> int:
        return self.rows - counts["1"] - counts["0"] - counts["-1"]


def owner(row: ManifestRow) -> str:
    """Return the key of those whose images must share a split: the patient, else the study, else the image alone."""
    return row.patient or row.study or row.id


def check_manifest(
    path: Path, settings: CheckSettings, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Return all figures of a manifest and the problems found in it; the same manifest gives the same result.

    Args:
        path: of the manifest, or a folder of films, walked as other commands do: each film is a row.
        settings: what is looked at, and how closely.
        progress: is told how many images of how many are done.

    Raises:
        DataError: if the manifest cannot be read, has a line that is no row, or no row at all.
        MachineError: if a process that decodes images dies.
    """
    groups, counts, reports = _Groups(), _Counts(), ReportTally(settings.reports, settings.examples)
    images = ImageTally(settings.images, settings.examples)
    items = (
        _rows_of_folder(path, settings)
        if path.is_dir()
        else ((row, Source.named(row.file)) for row in read_manifest(path))
    )
    rows = list(_pass(items, groups, counts, reports, images))
    if not rows:
        what = "no film can be used" if path.is_dir() else "the manifest has no row"
        raise DataError(Reason.BAD_RECORD, what + images.reasons, where=path.name)
    sources = [source for _, _, _, source in rows]
    for (row_id, split, own, _), facts in zip(rows, examine_images(sources, settings.images, progress), strict=True):
        images.add(row_id, split, own, facts)
    few = settings.examples
    leaks, mixed = groups.leaks(), list(groups.mixed_studies)
    found = [
        Problem("SPLIT_LEAK", len(leaks), leaks[:few]),
        Problem("STUDY_OF_TWO_PATIENTS", len(mixed), mixed[:few]),
        Problem("STUDY_OF_TWO_REPORTS", *reports.conflicts),
        Problem("NO_IMAGE", *images.failures),
        Problem("DUPLICATE_IMAGES", *images.duplicates),
        Problem("NEAR_DUPLICATE_IMAGES", *images.pairs("owners")),
        Problem("IMAGE_LEAK", *images.pairs("splits")),
        Problem("NO_TEXT", *reports.not_texts),
    ]
    return {
        "problems": [problem.to_dict() for problem in found if problem.count],
        **counts.to_dict(),
        "patients": len(groups.patients),
        "reports": reports.to_dict(),
        "images": images.to_dict(),
    }


def _rows_of_folder(root: Path, settings: CheckSettings) -> Iterator[tuple[ManifestRow, Source] | Refusal]:
    """Yield the films of a folder as rows that say what their headers do, and what is none."""
    bounds = InputSettings(views="all", max_file_mb=settings.images.max_file_mb, max_pixels=settings.images.max_pixels)
    for item in discover([str(root)], bounds):
        if isinstance(item, Refusal):
            yield item
            continue
        image = item.chosen
        study = item.id.partition("/")[0] if image.is_dicom else None
        view = None if image.view is View.UNKNOWN else image.view.value
        yield ManifestRow(id=item.id, file=image.source.path, study=study, view=view), image.source


def _pass(
    rows: Iterable[tuple[ManifestRow, Source] | Refusal],
    groups: _Groups,
    counts: _Counts,
    reports: ReportTally,
    images: ImageTally,
) -> Iterator[tuple[str, str | None, str, Source]]:
    """Count each row; yield what its image has to be judged by: id, split, owner and file."""
    for item in rows:
        if isinstance(item, Refusal):
            images.add(item.id, None, item.id, ImageFacts(failure=item.error.code))
            continue
        row, source = item
        groups.add(row)
        counts.add(row)
        reports.add(row)
        yield row.id, row.split, owner(row), source
