"""ReXGradient-160K: ``metadata/{train,valid,test}_metadata_view_position.json``, a study each, and CSVs of the reports.

The JSON is an object by study id with lists of image paths and views. Paths begin with ``../`` (they are relative to
``metadata/``) and are followed inside the data set's folder only. Reports are in the JSON, else in the CSV by ``id``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from chexmix_cli.core.data.adapters.entry import Entry, Rejection
from chexmix_cli.core.data.adapters.json_stream import JsonStream
from chexmix_cli.core.data.adapters.layout import find_file
from chexmix_cli.core.data.adapters.reading import (
    Report,
    first_view,
    named_sections,
    read_age,
    read_sex,
    read_split,
    read_view,
)
from chexmix_cli.core.data.adapters.text_store import TextStore
from chexmix_cli.core.data.tables import blank_to_none, match_name, read_table
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ImportSettings

_SPLITS = ("train", "valid", "test")
_REPORT_FIELDS = ("Findings", "Impression")


def read(root: Path, settings: ImportSettings) -> Iterator[Entry | Rejection]:
    """Yield the images of all splits that are there, in the order of their files."""
    files = {split: _metadata(root, split) for split in _SPLITS}
    if not any(files.values()):
        raise DataError(
            Reason.NOT_FOUND,
            "no metadata is here",
            where=str(root),
            expected="metadata/train_metadata_view_position.json, and valid and test",
        )
    for split, path in files.items():
        if path is not None:
            yield from _read_split(path, split)


def _metadata(root: Path, split: str) -> Path | None:
    """Return a split's JSON, the one with views before the one without."""
    with_views = find_file(root, re.compile(rf"{split}_metadata_view_position\.json"))
    return with_views or find_file(root, re.compile(rf"{split}_metadata\.json"))


def _read_split(path: Path, split: str) -> Iterator[Entry | Rejection]:
    with _Reports(path.parent, split) as reports, JsonStream(path) as stream:
        for study in stream.members():
            yield from _study(study, stream.value(), split, reports)


def _study(study: str, values: Any, split: str, reports: _Reports) -> Iterator[Entry | Rejection]:
    try:
        if not isinstance(values, dict):
            raise DataError(Reason.BAD_RECORD, "the study is no object")
        paths = _texts(values, "ImagePath")
        views = _texts(values, "ImageViewPosition")
        report = reports.get(study, values)
    except DataError as error:
        yield Rejection(study, error.code, str(error))
        return
    for index, path in enumerate(paths):
        # Views that are not one for each image cannot be told apart.
        stated = read_view(views[index]) if len(views) == len(paths) else View.UNKNOWN
        view, notes = first_view(("ImageViewPosition", stated))
        yield Entry(
            id=f"{study}/{PurePosixPath(path).stem}",
            paths=tuple(_candidates(path)),
            study=study,
            patient=blank_to_none(str(values.get("PatientID", ""))),
            view=view,
            sex=read_sex(_stated(values, "PatientSex")),
            age=read_age(_stated(values, "PatientAge")),
            source="rexgradient",
            split=read_split(split),
            **report.fields(**notes),
        )


def _texts(values: Mapping[str, Any], name: str) -> list[str]:
    found = values.get(name) or []
    if not isinstance(found, list):
        raise DataError(Reason.BAD_RECORD, f"{name} is no list")
    return [str(item) for item in found]


def _stated(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def _candidates(path: str) -> Iterator[str]:
    """Yield where an image may be, for a folder of images that is the data set's, or holds its folder of images."""
    # Relative to metadata/, also where somebody put the tables elsewhere: so much ".." and no more is meant.
    stated = posixpath.normpath(f"metadata/{path}")
    yield stated
    yield stated.partition("/")[2]


class _Reports:
    """Reports of one split: the JSON's own, or those of the CSV, which is read when the first is missed."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._store: TextStore | None = None

    def __enter__(self) -> _Reports:
        return self

    def __exit__(self, *error: object) -> None:
        if self._store is not None:
            self._store.close()

    def get(self, study: str, values: Mapping[str, Any]) -> Report:
        """Return a study's report."""
        if any(name in values for name in _REPORT_FIELDS):
            return named_sections(*(values.get(name) for name in _REPORT_FIELDS), source="json/{}")
        if self._store is None:
            self._store = self._load()
        return named_sections(*(self._store.get(study) or (None, None)), source="csv/{}")

    def _load(self) -> TextStore:
        store = TextStore()
        path = find_file(self._folder, match_name(f"{self._split}_metadata"))
        if path is not None:
            for row in read_table(path, ("id", *_REPORT_FIELDS)):
                row.check()
                store.put(row.cells["id"].strip(), [row.cells[name] for name in _REPORT_FIELDS])
        return store
