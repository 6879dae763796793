"""Inputs as a user names them, to files in a fixed order: files, folders, globs, zip archives, DICOMDIRs, DICOMweb.

An input that leads to no file is called by its place, never by its text: that may name a patient, or be a line of a
table that was taken for a list of files.
"""

from __future__ import annotations

import atexit
import dataclasses
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.dicom.web import PREFIX, DicomwebServer, split_input
from chexmix_cli.core.data.sources import Kind, Source, member_path, zip_members
from chexmix_cli.core.data.studies.file_sets import MOST_IN_STAND_IN, LinkedFolders, check_stand_in, listed_files
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.settings.inference import InputSettings

_DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".dc3", ".ima"}
_PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"}


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
    """An input, or a part of one, that leads to no file; ``name`` is that of the input."""

    name: str
    error: DataError


def walk_inputs(
    inputs: Sequence[str], settings: InputSettings, names: Sequence[str] | None = None
) -> Iterator[FoundFile | Missing]:
    """Yield the files that inputs lead to, in the order given and sorted within; a file reached twice comes once.

    Args:
        inputs: files, folders, globs, archives.
        settings: bounds.
        names: what to call each input that leads to nothing; by default ``input 1`` and so on.
    """
    seen: set[tuple[str, str | None]] = set()
    names = [f"input {number}" for number in range(1, len(inputs) + 1)] if names is None else names
    for text, name in zip(inputs, names, strict=True):
        has_file = False
        for found in _walk_one(text, name, settings):
            has_file = True
            if isinstance(found, FoundFile):
                # Of two links to one missing film each is named.
                place = os.path.realpath if found.error is None else os.path.abspath
                key = (place(found.source.path), found.source.member)
                if key in seen:
                    continue
                seen.add(key)
            yield found
        if not has_file:
            yield Missing(name, DataError(Reason.NOT_FOUND, "holds no DICOM file and no picture"))


def _walk_one(text: str, name: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    if text.startswith(PREFIX):
        yield from _walk_server(text, name, settings)
        return
    path = Path(text)
    # Unlike its like in pathlib this takes every text: names too long, names with a NUL.
    if os.path.isdir(text):
        yield from _walk_folder(path, name, settings)
    elif os.path.lexists(path):
        yield from _walk_file(path, name, settings)
    elif glob.has_magic(text):
        for match in sorted(glob.glob(text, recursive=True)):
            yield from _walk_one(glob.escape(match) if not os.path.lexists(match) else match, name, settings)
    else:
        yield Missing(name, DataError(Reason.NOT_FOUND, "no such file or folder"))


def _walk_server(text: str, name: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    """Yield the radiographs of studies on a DICOMweb server, fetched into a folder that goes with the process."""
    try:
        service, study, query = split_input(text, name)
        server = DicomwebServer(service, where=name, max_bytes=settings.max_file_mb << 20)
        studies = server.find(query) if study is None else [study]
    except SettingsError as error:
        yield Missing(name, DataError(Reason.NOT_FOUND, error.what, expected=error.expected))
        return
    except DataError as error:
        yield Missing(name, error)
        return
    for study in studies:
        folder = Path(tempfile.mkdtemp(dir=_fetched()))
        try:
            files = server.fetch(study, folder)
        except DataError as error:
            yield Missing(name, error)
            continue
        if not files:
            yield Missing(name, DataError(Reason.NOT_RADIOGRAPH, "a study on the server holds no radiograph"))
        for path in files:
            yield _look(Source(path), path.name, str(folder))


@lru_cache(maxsize=1)
def _fetched() -> str:
    """Return the folder of what this process has fetched, readable by its owner only."""
    folder = tempfile.mkdtemp(prefix="chexmix-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _walk_folder(root: Path, name: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    failures: list[OSError] = []
    listings: list[FoundFile] = []
    links = LinkedFolders(root)
    for folder, subfolders, files in os.walk(root, onerror=failures.append, followlinks=True):
        subfolders[:] = links.to_enter(folder, sorted(one for one in subfolders if not one.startswith(".")))
        for file in sorted(files):
            if file.startswith("."):
                continue
            path = Path(folder, file)
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() == ".zip":
                yield from _walk_zip(path, f"{relative}/", settings)
                continue
            found = _look(Source(path), relative, folder)
            if found.kind == "directory":
                listings.append(found)
            elif _is_of_interest(found):
                yield found
    for listing in listings:
        yield from _lost(listing, settings, lambda path: _find(Path(path)) is not None)
    for _ in failures:
        yield Missing(name, DataError(Reason.UNREADABLE, "a folder inside cannot be read"))
    for _ in range(links.num_refused):
        yield Missing(name, DataError(Reason.UNREADABLE, "a symbolic link to a folder above it is not followed"))


def _walk_file(path: Path, name: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    found = _look(Source(path), path.name, None)
    if found.kind == "zip":
        yield from _walk_zip(path, "", settings)
    elif found.kind == "directory":
        yield from _walk_listing(found, name, settings)
    else:
        yield found


def _walk_zip(path: Path, prefix: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    """Yield an archive's files as if it were a folder; those of an archive inside it are not looked for."""
    try:
        members = zip_members(path)
    except DataError as error:
        yield FoundFile(Source(path), path.name, "zip", None, error)
        return
    listings: list[FoundFile] = []
    for member in members:
        inside = member_path(member)
        found = _look(Source(path, member), f"{prefix}{inside}", f"{path}/{inside.parent}")
        if found.kind == "directory":
            listings.append(found)
        elif _is_of_interest(found) or found.kind == "zip":
            yield found
    there = {str(member_path(member)).casefold() for member in members}
    for listing in listings:
        yield from _lost(listing, settings, lambda path: path.casefold() in there)


def _walk_listing(found: FoundFile, name: str, settings: InputSettings) -> Iterator[FoundFile | Missing]:
    """Yield the files that a DICOMDIR lists, below its own folder, as a walk of that folder would."""
    try:
        listed = listed_files(found.source, settings)
    except DataError as error:
        yield dataclasses.replace(found, error=error)
        return
    for relative in listed:
        if relative is None:
            yield Missing(name, DataError(Reason.UNREADABLE, "the DICOMDIR lists a file outside its folder"))
            continue
        stated = found.source.path.parent / relative
        path = _find(stated) or stated
        yield _look(Source(path), relative.as_posix(), str(path.parent))


def _lost(listing: FoundFile, settings: InputSettings, exists: Callable[[str], bool]) -> Iterator[FoundFile]:
    """Yield a DICOMDIR met on a walk if files that it lists are not there; those that are, the walk finds itself."""
    source = listing.source
    folder = source.path.parent if source.member is None else member_path(source.member).parent
    try:
        listed = listed_files(source, settings)
        lost = sum(path is None or not exists(str(folder / path)) for path in listed)
        if lost:
            raise DataError(Reason.NOT_FOUND, f"the DICOMDIR lists {lost} files that are not here")
    except DataError as error:
        yield dataclasses.replace(listing, error=error)


def _find(path: Path) -> Path | None:
    """Return the file that a DICOMDIR means: media name it in capitals, and are mounted and copied in small letters."""
    if os.path.exists(path):
        return path
    folder = path.parent if os.path.isdir(path.parent) else _find(path.parent) if path.parent != path else None
    if folder is None:
        return None
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    # ISO 9660 adds a version to names, and a stop where there is no ending.
    plain = {name.casefold().partition(";")[0].rstrip("."): name for name in sorted(names, reverse=True)}
    name = plain.get(path.name.casefold())
    return None if name is None else folder / name


def _look(source: Source, name: str, folder: str | None) -> FoundFile:
    try:
        kind = source.kind()
        if kind is None and source.member is None and source.path.stat().st_size <= MOST_IN_STAND_IN:
            check_stand_in(source)
        return FoundFile(source, name, kind, folder)
    except DataError as error:
        return FoundFile(source, name, None, folder, error)


def _is_of_interest(found: FoundFile) -> bool:
    """Tell whether a file met on a walk is ours: by content or name, or because nobody can tell."""
    suffix = PurePosixPath(found.source.name).suffix.lower()
    if found.kind in ("dicom", "picture") or suffix in _DICOM_SUFFIXES | _PICTURE_SUFFIXES:
        return True
    # Also a link whose target is missing: films from archives have no ending that would tell.
    return found.error is not None
