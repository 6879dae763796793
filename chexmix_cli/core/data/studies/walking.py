"""Inputs as a user names them, to files in a fixed order: files, folders, globs, zip archives, DICOMDIRs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.data.sources import Kind, Source, is_hidden, zip_members
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

_DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".dc3", ".ima"}
_PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"}
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to look into.

    Attributes:
        source: where it is.
        name: what a plain picture is called: the file's name, or its path below the folder that was walked.
        kind: what its first bytes say; None if nothing known.
        folder: identity of its folder, for files found by walking; None for files given one by one.
        error: why its first bytes could not be read.
    """

    source: Source
    name: str
    kind: Kind | None
    folder: str | None
    error: DataError | None = None

    @property
    def may_be_dicom(self) -> bool:
        """Return whether its name must stay out of records: anything but a picture could be, or have been, DICOM."""
        suffix = PurePosixPath(self.source.name).suffix.lower()
        return self.kind != "picture" and suffix not in _PICTURE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Missing:
    """An input that leads to no file."""

    name: str
    error: DataError


def walk_inputs(inputs: Sequence[str], settings: InputSettings) -> Iterator[FoundFile | Missing]:
    """Yield the files that inputs lead to, in the order given and sorted within; a file reached twice comes once."""
    seen: set[tuple[str, str | None]] = set()
    for text in inputs:
        has_file = False
        for found in _walk_one(text, settings):
            has_file = True
            if isinstance(found, FoundFile):
                key = (os.path.realpath(found.source.path), found.source.member)
                if key in seen:
                    continue
                seen.add(key)
            yield found
        if not has_file:
            yield Missing(text, DataError(Reason.NOT_FOUND, "holds no DICOM file and no picture"))


def is_directory_file(media_class: str | None) -> bool:
    """Tell whether a file's Media Storage SOP Class is that of a DICOMDIR."""
    return media_class == _DIRECTORY_CLASS


def _walk_one(text: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    path = Path(text)
    # Unlike its like in pathlib this takes every text: names too long, names with a NUL.
    if os.path.isdir(text):
        yield from _walk_folder(path)
    elif os.path.lexists(path):
        yield from _walk_file(path, settings)
    elif glob.has_magic(text):
        for match in sorted(glob.glob(text, recursive=True)):
            yield from _walk_one(glob.escape(match) if not os.path.lexists(match) else match, settings)
    else:
        yield Missing(text, DataError(Reason.NOT_FOUND, "no such file or folder"))


def _walk_folder(root: Path) -> Iterator[FoundFile | Missing]:
    failures: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=failures.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() == ".zip":
                yield from _walk_zip(path, f"{relative}/")
                continue
            found = _look(Source(path), relative, folder)
            if _is_of_interest(found):
                yield found
    for _ in failures:
        yield Missing(str(root), DataError(Reason.UNREADABLE, "a folder inside cannot be read"))


def _walk_file(path: Path, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    found = _look(Source(path), path.name, None)
    if found.kind == "zip":
        yield from _walk_zip(path, "")
    elif found.kind == "dicom" and path.name.upper() == "DICOMDIR":
        yield from _walk_directory_file(found, settings)
    else:
        yield found


def _walk_zip(path: Path, prefix: str) -> Iterator[FoundFile | Missing]:
    """Yield an archive's files as if it were a folder; those of an archive inside it are not looked for."""
    try:
        members = zip_members(path)
    except DataError as error:
        yield FoundFile(Source(path), path.name, "zip", None, error)
        return
    for member in members:
        folder = f"{path}/{PurePosixPath(member).parent}"
        found = _look(Source(path, member), f"{prefix}{member}", folder)
        if _is_of_interest(found) or found.kind == "zip":
            yield found


def _walk_directory_file(found: FoundFile, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    """Yield the files that a DICOMDIR lists, below its own folder, as a walk of that folder would."""
    root = found.source.path.parent
    try:
        with found.source.open(settings.max_file_mb << 20) as stream:
            directory = parse_header(stream, settings.max_file_mb << 20)
    except DataError as error:
        yield FoundFile(found.source, found.name, found.kind, None, error)
        return
    for item in directory.items("DirectoryRecordSequence"):
        parts = item.texts("ReferencedFileID")
        if not parts:
            continue
        relative = PurePosixPath(*parts)
        if relative.is_absolute() or ".." in relative.parts or is_hidden(relative):
            yield Missing(found.name, DataError(Reason.UNREADABLE, "the DICOMDIR lists a file outside its folder"))
            continue
        path = root / relative
        yield _look(Source(path), relative.as_posix(), str(path.parent))


def _look(source: Source, name: str, folder: str | None) -> FoundFile:
    try:
        return FoundFile(source, name, source.kind(), folder)
    except DataError as error:
        return FoundFile(source, name, None, folder, error)


def _is_of_interest(found: FoundFile) -> bool:
    """Tell whether a file met on a walk is ours: by content, or by a name that promises what it does not hold."""
    suffix = PurePosixPath(found.source.name).suffix.lower()
    if found.kind in ("dicom", "picture") or suffix in _DICOM_SUFFIXES | _PICTURE_SUFFIXES:
        return True
    return found.error is not None and found.error.reason is not Reason.NOT_FOUND
