"""Where a data set's files are: its tables by name, its images by the paths that the tables state."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from chexmix_cli.core.errors import DataError, Reason

_DRIVE = re.compile(r"[A-Za-z]:/")


def find_file(folder: Path, pattern: re.Pattern[str]) -> Path | None:
    """Return the file whose name fits, in ``folder`` or else in a folder directly in it; None if there is none.

    Args:
        folder: of the data set.
        pattern: of the whole name.

    Raises:
        DataError: if ``folder`` cannot be listed, or several files fit: which is meant is not guessed. A table and its
            gzipped twin are one file.
    """
    for level in ([folder], _subfolders(folder)):
        found = [path for place in level for path in _matching(place, pattern)]
        distinct = {path.with_suffix("") if path.suffix == ".gz" else path for path in found}
        if len(distinct) > 1:
            names = ", ".join(sorted(str(path.relative_to(folder)) for path in found))
            raise DataError(Reason.DUPLICATE, f"several files fit: {names}", where=str(folder), expected="one of them")
        if found:
            return min(found, key=lambda path: (path.suffix == ".gz", path.name))
    return None


def require_file(folder: Path, pattern: re.Pattern[str], expected: str) -> Path:
    """Return what ``find_file`` finds.

    Raises:
        DataError: ``NOT_FOUND`` with the ``expected`` layout if there is none.
    """
    found = find_file(folder, pattern)
    if found is None:
        raise DataError(Reason.NOT_FOUND, "the data set's table is not here", where=str(folder), expected=expected)
    return found


def folders_named(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names of the folders directly in ``folder`` that fit, sorted."""
    return [place.name for place in _subfolders(folder) if pattern.fullmatch(place.name)]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _scan(folder) if entry.is_dir())


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return sorted(Path(entry.path) for entry in _scan(folder) if pattern.fullmatch(entry.name) and entry.is_file())


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        reason = Reason.NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.UNREADABLE
        raise DataError(reason, f"cannot be listed ({error.strerror})", where=str(folder)) from None


class Images:
    """The folder of images. Paths that tables state are followed inside it and nowhere else.

    Args:
        root: the folder; links in it are followed, they are its owner's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._exists: dict[str, bool] = {}

    def find(self, paths: Sequence[str]) -> Path:
        """Return the first of several paths, relative to the root, where a file is.

        Raises:
            DataError: ``NOT_FOUND``, or ``BAD_RECORD`` if one of them leads out of the root.
        """
        for path in paths:
            relative = self._inside(path)
            if self._may_exist(relative):
                file = self.root / relative
                # Not Path.is_file: a folder that may not be entered is an error there.
                if os.path.isfile(file):
                    return file
        raise DataError(Reason.NOT_FOUND, "no such image")

    def _inside(self, path: str) -> str:
        """Return a stated path as a normal relative one; ``..`` is resolved by its letters, as the table meant it."""
        posix = path.replace("\\", "/")
        if posix.startswith("/"):
            posix = os.path.relpath(posix, os.path.abspath(self.root))
        normal = posixpath.normpath(posix)
        if _DRIVE.match(posix) or normal == ".." or normal.startswith("../"):
            raise DataError(
                Reason.BAD_RECORD, "the image's path leads out of the folder of images", expected="a path inside it"
            )
        return normal

    def _may_exist(self, relative: str) -> bool:
        """Tell whether the first folder of a path exists; it is asked for once, not for each of 100,000 images."""
        first, separator, _ = relative.partition("/")
        if not separator:
            return True
        if first not in self._exists:
            self._exists[first] = (self.root / first).is_dir()
        return self._exists[first]
