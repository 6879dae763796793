"""What a row of the table of parsers is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from damage import Change
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A parser of ours, sound inputs for it, and how they are damaged.

    Attributes:
        name: of the row.
        seeds: writes sound inputs below a folder, each into a folder of its own; returns the files that are damaged.
        read: reads one of them and all that hangs on it.
        changes: what is done to them.
        refusals: what may be raised beside the project's own errors.
        writes: reading changes files, which are put back each time.
    """

    name: str
    seeds: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    changes: tuple[Change, ...]
    refusals: tuple[type[BaseException], ...] = ()
    writes: bool = False


@dataclass(frozen=True)
class Picture:
    """A film that was read: pixels (C, Y, X) float32 in [-1, 1], and what is noted of it."""

    pixels: NDArray[np.float32]
    notes: tuple[str, ...]


def written(folder: Path, contents: Mapping[str, bytes | str]) -> list[Path]:
    """Write each content into a folder of its own under its name; ``NUMBER/NAME`` where names repeat."""
    found = []
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"seed{number}" / name.rpartition("/")[2]
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        found.append(path)
    return found


def each_file(folder: Path, made: Path, names: tuple[str, ...] = ("*",)) -> list[Path]:
    """Return the files of a made folder that match, each in a copy of the whole folder."""
    files = sorted({file for name in names for file in made.rglob(name) if file.is_file() and file.name != ".lock"})
    found = []
    for number, file in enumerate(files):
        copy = folder / f"seed{number}"
        shutil.copytree(made, copy)
        found.append(copy / file.relative_to(made))
    return found
