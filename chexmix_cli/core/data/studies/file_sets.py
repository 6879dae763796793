"""What binds files together beside their folders: symbolic links, what stands for them, and a file-set's DICOMDIR."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.data.sources import Source, is_hidden
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

MOST_IN_STAND_IN = 4096
_STAND_IN = re.compile(rb"(?:\.\.?/|/?(?:\.git/)?annex/objects/)[^\0-\x20]+")


class LinkedFolders:
    """Which folders a walk enters, when cohorts are put together of links: each once, by its real place.

    A link into the tree that is walked leads to what is found by its own name. One to a folder above it would lead to
    everything else that lies there, and back: it is refused.

    Args:
        root: the folder that is walked.

    Attributes:
        num_refused: links not followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._entered = {self._root}
        self.num_refused = 0

    def to_enter(self, folder: str, names: Iterable[str]) -> list[str]:
        """Return those folders in ``folder`` that the walk should enter."""
        return [name for name in names if self._enters(os.path.realpath(folder), os.path.join(folder, name))]

    def _enters(self, parent: str, path: str) -> bool:
        place = os.path.realpath(path)
        if os.path.islink(path):
            if place in self._entered or self._is_walked(place):
                return False
            if _is_within(parent, place) or _is_within(self._root, place):
                self.num_refused += 1
                return False
        elif place in self._entered:
            return False
        self._entered.add(place)
        return True

    def _is_walked(self, place: str) -> bool:
        """Tell whether a folder is in the tree, and none of those above it is hidden."""
        relative = PurePosixPath(os.path.relpath(place, self._root))
        return _is_within(place, self._root) and not is_hidden(relative)


def _is_within(place: str, folder: str) -> bool:
    return os.path.commonpath((place, folder)) == folder


def check_stand_in(source: Source) -> None:
    """Raise ``NOT_FOUND`` if a small file holds, in place of a film, where git keeps it.

    Git writes the path of a link as text where it may not make links; git-annex and Git LFS write one for what was not
    fetched.
    """
    with source.open(MOST_IN_STAND_IN) as stream:
        data = stream.read().rstrip(b"\r\n")
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DataError(Reason.NOT_FOUND, "a pointer of Git LFS, not the file", hint="git lfs pull")
    if _STAND_IN.fullmatch(data):
        raise DataError(
            Reason.NOT_FOUND,
            "the path of a symbolic link as text, not the file",
            hint="git annex get, or check out again with git config core.symlinks true",
        )


def listed_files(source: Source, settings: InputSettings) -> list[PurePosixPath | None]:
    """Return the files that a DICOMDIR lists, relative to its folder; None for one that would be outside it.

    Source: PS3.10, 8, and PS3.3, F.3.2.2 (Referenced File ID).

    Raises:
        DataError: if it cannot be read.
    """
    max_bytes = settings.max_file_mb << 20
    with source.open(max_bytes) as stream:
        directory = parse_header(stream, max_bytes)
    listed: list[PurePosixPath | None] = []
    for item in directory.items("DirectoryRecordSequence"):
        parts = item.texts("ReferencedFileID")
        if parts:
            relative = PurePosixPath(*parts)
            is_outside = relative.is_absolute() or ".." in relative.parts or is_hidden(relative)
            listed.append(None if is_outside else relative)
    return listed
