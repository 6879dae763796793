"""Settings of ``chexmix data``: a root for each kind of data set; a setting without effect there is an unknown key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chexmix_cli.core.settings.checks import require, require_range


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSettings:
    """Where an image's split comes from.

    Attributes:
        source: ``dataset`` takes the split the data set publishes, and draws one where it publishes none; ``hash``
            always draws. A draw is a hash of salt and patient: a patient's images stay together, and more data moves
            no patient.
        val, test: shares of the patients that are drawn.
        salt: another salt draws another split.
    """

    source: Literal["dataset", "hash"] = "dataset"
    val: float = 0.05
    test: float = 0.1
    salt: str = "chexmix"

    def __post_init__(self) -> None:
        require_range("split.val", self.val, 0.0, 1.0)
        require_range("split.test", self.test, 0.0, 1.0)
        require(self.val + self.test <= 1.0, "split.val", self.val, f"val + test up to 1 (test is {self.test:g})")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSettings:
    """Root of ``data import chexpert``, ``nih14``, ``rexgradient`` and ``r2gen``, and part of every other.

    Attributes:
        split: see SplitSettings.
        prefix: put before every id, study and patient, so that manifests of several data sets can be joined.
        images: folder of the images, if it is not the data set's.
    """

    split: SplitSettings = field(default_factory=SplitSettings)
    prefix: str = ""
    images: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MimicImport(ImportSettings):
    """Root of ``data import mimic-cxr`` and ``mimic-cxr-jpg``. The two are published apart and need each other.

    Attributes:
        tables: folder with the metadata, split and label tables, if they are not with the images.
        reports: folder with ``files/p10/...``, ``mimic-cxr-reports.zip`` or ``mimic_cxr_sectioned.csv``.
        labels: which labeller's table.
        fallback: what a report without findings and impression gives as its findings.
    """

    tables: Path | None = None
    reports: Path | None = None
    labels: Literal["chexpert", "negbio", "none"] = "chexpert"
    fallback: Literal["last_paragraph", "none"] = "last_paragraph"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChexpertPlusImport(ImportSettings):
    """Root of ``data import chexpert-plus``.

    Attributes:
        labels: which part of the report the CheXbert labels were read from.
    """

    labels: Literal["report", "findings", "impression", "none"] = "report"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImport(ImportSettings):
    """Root of ``data import padchest`` and ``openi``, whose tables list what is present.

    Attributes:
        absent_is_zero: findings labelled 0 where the list does not name them; all others are left out there.
    """

    absent_is_zero: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSettings:
    """Columns of a table of your own; None takes the first of the usual names that the table has (docs/datasets.md).

    Attributes:
        file: the image's path; the only required column.
        id, patient, study, view, sex, age, source, split: as in a manifest; an age in years or as ``058Y``.
        findings, impression: sections of the report.
        report: a whole report, which is split into sections.
        labels: columns of labels; empty: those with the name of a CheXpert or NIH finding.
    """

    file: str | None = None
    id: str | None = None
    patient: str | None = None
    study: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None
    source: str | None = None
    split: str | None = None
    findings: str | None = None
    impression: str | None = None
    report: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TableImport(ImportSettings):
    """Root of ``data import folder``: images and one CSV.

    Attributes:
        table: the CSV; None: the only one in the folder.
        columns: see ColumnSettings.
    """

    table: Path | None = None
    columns: ColumnSettings = field(default_factory=ColumnSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCheckSettings:
    """How ``data check`` looks at images.

    Attributes:
        read: ``pixels`` decodes every image; ``exists`` only checks that the file exists.
        near_bits: two images whose hashes of 255 bits differ in at most this many are near-duplicates.
        workers: processes that decode; 0 is one for each core.
        max_file_mb, max_pixels: bounds, as for the inputs of other commands.
    """

    read: Literal["pixels", "exists"] = "pixels"
    near_bits: int = 24
    workers: int = 0
    max_file_mb: int = 512
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        require_range("images.near_bits", self.near_bits, 0, 127)
        require(self.workers >= 0, "images.workers", self.workers, "0 or more")
        for name in ("max_file_mb", "max_pixels"):
            require(getattr(self, name) > 0, f"images.{name}", getattr(self, name), "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportCheckSettings:
    """How ``data check`` looks at reports.

    Attributes:
        near_share: two reports that share this part of their word groups (Jaccard) are near-duplicates.
        short_words: reports of fewer words are left out of the search for near-duplicates.
    """

    near_share: float = 0.8
    short_words: int = 8

    def __post_init__(self) -> None:
        require(0 < self.near_share <= 1, "reports.near_share", self.near_share, "above 0, up to 1")
        require(self.short_words >= 0, "reports.short_words", self.short_words, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckSettings:
    """Root of ``data check``.

    Attributes:
        examples: ids given with each count.
    """

    examples: int = 5
    images: ImageCheckSettings = field(default_factory=ImageCheckSettings)
    reports: ReportCheckSettings = field(default_factory=ReportCheckSettings)

    def __post_init__(self) -> None:
        require(self.examples >= 0, "examples", self.examples, "0 or more")
