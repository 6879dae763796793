"""Where the pictures of records go: a name for each, no two the same; files written in one piece."""

from __future__ import annotations

import os
from mimetypes import guess_type
from pathlib import Path

from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.core.files import atomic_write

#: Letters of an id that a file's name keeps; file systems take 255 bytes.
_LONGEST_NAME = 50


class OutputPaths:
    """Names of one run's pictures.

    Args:
        target: a file's name, if it ends in one of the suffixes, or a folder.
        suffixes: that make it a file, lower case; the first is the one of files in a folder.

    Raises:
        SettingsError: if the name is that of another kind of file.
    """

    def __init__(self, target: Path, suffixes: tuple[str, ...]) -> None:
        ending = target.suffix.lower()
        if ending not in suffixes and guess_type(f"x{ending}")[0] is not None and not target.is_dir():
            # The name of a file that nobody writes here, not of a folder.
            expected = f"a name that ends in {' or '.join(suffixes)}, or a folder"
            raise SettingsError(f"{target.name!r} ends in {ending}", where="output", expected=expected)
        self._target, self._suffix = target, suffixes[0]
        self.is_file = target.suffix.lower() in suffixes
        self._taken: set[str] = set()

    def path(self, record_id: str) -> Path:
        """Return where a record's picture goes: no two records share one, whatever their ids are."""
        first = self._target
        if not self.is_file:
            safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in record_id)
            first = self._target / f"{safe[:_LONGEST_NAME]}{self._suffix}"
        return self._untaken(first)

    def beside(self, path: Path, what: str) -> Path:
        """Return where a further picture of a record goes: a PNG next to its first one."""
        return self._untaken(path.with_name(f"{path.stem}-{what}.png"))

    def _untaken(self, first: Path) -> Path:
        path, number = first, 1
        # Some file systems do not tell upper from lower case.
        while path.name.casefold() in self._taken:
            number += 1
            path = first.with_stem(f"{first.stem}-{number}")
        self._taken.add(path.name.casefold())
        return path


def write_file(path: Path, content: bytes, *, for_owner: bool = False) -> None:
    """Write a file in one piece.

    Args:
        path: its name; the folder is made.
        content: its bytes.
        for_owner: nobody else may read it (mode 0600).

    Raises:
        MachineError: if it cannot be written.
    """
    try:
        with atomic_write(path) as file:
            if for_owner:
                os.chmod(file.name, 0o600)
            file.write(content)
    except OSError as error:
        raise MachineError(f"cannot be written ({error.strerror})", where=str(path)) from None
