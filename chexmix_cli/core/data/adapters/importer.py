"""From a reader's entries to manifest rows: finds the images, draws splits, counts everything that did not work."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.adapters.entry import Entry, Rejection
from chexmix_cli.core.data.adapters.layout import Images
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ImportSettings, SplitSettings

_EXAMPLES = 5
_DICOM_SUFFIXES = (".dcm", ".dicom")
_MAX_HEADER_BYTES = 512 << 20


@dataclass(slots=True)
class ImportSummary:
    """What an import did, for a person to check against the data set's own figures.

    Attributes:
        rows: written.
        rejected: by reason code: how many images are named but not written, and the first ids of them.
        splits, views, and the sources of splits, views, labels and sections: how many rows have each.
        without_report: rows without findings and impression.
        without_patient: rows that no patient is known of; each is drawn a split of its own.
    """

    rows: int = 0
    rejected: dict[str, dict[str, Any]] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    split_sources: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    view_sources: Counter[str] = field(default_factory=Counter)
    label_sources: Counter[str] = field(default_factory=Counter)
    report_sources: Counter[str] = field(default_factory=Counter)
    without_report: int = 0
    without_patient: int = 0

    def reject(self, rejection: Rejection) -> None:
        """Count an image that gives no row."""
        entry = self.rejected.setdefault(rejection.code, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < _EXAMPLES:
            entry["examples"].append(rejection.id)

    def add(self, row: ManifestRow) -> None:
        """Count a row."""
        self.rows += 1
        self.splits[row.split or "none"] += 1
        self.split_sources[row.notes.get("split_source", "none")] += 1
        self.views[row.view or "unknown"] += 1
        self.view_sources[row.notes.get("view_source", "none")] += 1
        self.label_sources[row.notes.get("label_source", "none")] += 1
        self.without_patient += row.patient is None
        self.without_report += row.report is None
        for section in ("findings", "impression"):
            source = row.notes.get(f"{section}_source")
            if source is not None:
                self.report_sources[f"{section}: {source}"] += 1

    @property
    def num_rejected(self) -> int:
        """Return how many named images gave no row."""
        return sum(entry["count"] for entry in self.rejected.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, in a fixed order."""
        counters = ("splits", "split_sources", "views", "view_sources", "label_sources", "report_sources")
        return {
            "rows": self.rows,
            "rejected": {code: self.rejected[code] for code in sorted(self.rejected)},
            **{name: dict(sorted(getattr(self, name).items())) for name in counters},
            "without_report": self.without_report,
            "without_patient": self.without_patient,
        }


def import_rows(
    found: Iterable[Entry | Rejection],
    root: Path,
    settings: ImportSettings,
    summary: ImportSummary,
    on_reject: Callable[[Rejection], None] = lambda rejection: None,
) -> Iterator[ManifestRow]:
    """Yield a manifest row for each entry whose image is there, in the reader's order.

    Args:
        found: what a reader gives.
        root: the data set's folder; images are under it, or under ``settings.images``.
        settings: of the import.
        summary: is filled in on the way.
        on_reject: is told of each image that gives no row: one that is missing, one named twice, a row that cannot
            be read.

    Raises:
        DataError: at the end, if no image was found at all; the message says where the first was looked for.
    """
    images = Images(settings.images or root)
    seen: set[str] = set()
    first: Entry | None = None
    reason: str | None = None
    for item in found:
        if isinstance(item, Entry):
            first = first or item
            row = _row(item, images, settings, seen)
        else:
            row = item
        if isinstance(row, Rejection):
            reason = reason or row.message
            summary.reject(row)
            on_reject(row)
        else:
            summary.add(row)
            yield row
    if summary.rows == 0:
        _raise_nothing(first, images, summary, reason)


def _row(entry: Entry, images: Images, settings: ImportSettings, seen: set[str]) -> ManifestRow | Rejection:
    row_id = settings.prefix + entry.id
    try:
        if row_id in seen:
            raise DataError(Reason.DUPLICATE, "the id occurs a second time")
        file = images.find(entry.paths)
    except DataError as error:
        return Rejection(row_id, error.code, str(error))
    seen.add(row_id)
    notes = dict(entry.notes)
    split = _split(entry, settings.split, notes)
    view = entry.view
    if view is View.UNKNOWN and file.suffix.lower() in _DICOM_SUFFIXES:
        view = _view_of_header(file)
        if view is not View.UNKNOWN:
            notes["view_source"] = "DICOM header"
    return ManifestRow(
        id=row_id,
        study=None if entry.study is None else settings.prefix + entry.study,
        patient=None if entry.patient is None else settings.prefix + entry.patient,
        file=file,
        view=None if view is View.UNKNOWN else view.value,
        sex=entry.sex,
        age=entry.age,
        source=entry.source,
        split=split,
        labels=entry.labels,
        findings=entry.findings,
        impression=entry.impression,
        notes=notes,
    )


def _split(entry: Entry, settings: SplitSettings, notes: dict[str, str]) -> str | None:
    if entry.split is not None and settings.source == "dataset":
        notes["split_source"] = "dataset"
        return entry.split
    choices = entry.draw if settings.source == "dataset" else ("train", "val", "test")
    if not choices:
        return None
    # Images of an unknown patient stay together by their study at least.
    notes["split_source"] = "hash"
    return draw_split(entry.patient or entry.study or entry.id, settings, choices)


def draw_split(patient: str, settings: SplitSettings, choices: tuple[str, ...] = ("train", "val", "test")) -> str:
    """Return the split of a patient: the same for the same salt and patient, whatever else is imported.

    Args:
        patient: as the data set names the patient, without prefix.
        settings: shares and salt.
        choices: splits that may be drawn; the share of one that may not goes to ``train``.
    """
    digest = hashlib.sha256(f"{settings.salt}:{patient}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < settings.test:
        return "test" if "test" in choices else "train"
    if share < settings.test + settings.val:
        return "val" if "val" in choices else "train"
    return "train"


def _view_of_header(file: Path) -> View:
    """Return the view that a DICOM file's own header states; what cannot be read or is no radiograph states none."""
    # pydicom is slow to load, and only data sets in DICOM need it.
    from chexmix_cli.core.data.dicom.file import parse_header
    from chexmix_cli.core.data.dicom.triage import judge
    from chexmix_cli.core.data.sources import Source

    try:
        with Source(file).open(_MAX_HEADER_BYTES) as stream:
            return judge(parse_header(stream, _MAX_HEADER_BYTES)).view
    except DataError:
        return View.UNKNOWN


def _raise_nothing(first: Entry | None, images: Images, summary: ImportSummary, reason: str | None) -> None:
    codes = ", ".join(f"{code}: {entry['count']}" for code, entry in sorted(summary.rejected.items()))
    if first is None:
        what = f"no row can be used, the first: {reason} ({codes})" if reason else "the tables name no image"
        raise DataError(Reason.BAD_RECORD, what, expected="rows of images")
    raise DataError(
        Reason.NOT_FOUND,
        f"none of the {summary.num_rejected} images that the tables name is here, the first: {reason} ({codes})",
        where=str(images.root),
        expected=f"files such as {first.paths[0]}",
        hint="--set images=DIR names the folder of images if they are elsewhere",
    )
