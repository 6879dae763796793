"""Files written whole or not at all: one way for every part, flushed to disk before the name is taken."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from chexmix_cli.core.errors import MachineError

#: In a folder that one process at a time may write to; it stays there, empty.
LOCK_FILE = ".lock"
#: Folders that this process holds. One that has gone is not made anew: what was written is elsewhere now.
_HELD: set[Path] = set()


def _machine() -> str:
    """Return a name for where process numbers mean something: machines, and containers, share disks but not those."""
    name = re.sub(r"\W", "", platform.node())[:20] or "here"
    try:
        return f"{name}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return name


_MACHINE = _machine()
_PARTIAL = re.compile(rf"\..+\.{_MACHINE}-(\d+)\.partial")
# Earlier versions gave the number alone.
_ANYBODYS_PARTIAL = re.compile(r"\..+\.(\w+-)*\d+\.partial")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its name, flushed to disk, when the block ends well.

    The folder is made if missing, unless it lies in one that is held. On an exception the temporary file goes and
    ``path`` stays as it was. What stays of a process that is killed goes when the next one of this machine writes in
    the folder.

    Raises:
        OSError: if the system refuses the folder or the file; it names the file.
    """
    partial = path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.partial")
    try:
        with naming(path):
            if not any(folder in _HELD and not folder.exists() for folder in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
            _clear(path.parent)
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _clear(folder: Path) -> None:
    """Remove what writers left in a folder that were killed on this machine; once a process, for a listing may be long.

    Only POSIX tells by its number whether a process is there.
    """
    for name in os.listdir(folder) if os.name == "posix" else ():
        writer = _PARTIAL.fullmatch(name)
        if writer is not None and not _is_running(int(writer[1])):
            (folder / name).unlink(missing_ok=True)


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        pass
    return True


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of the file into an OSError of the block that has none, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes of ours from writing to a folder, which is made if missing, while the block runs.

    So files that are half written belong to nobody when it begins, and go.

    Raises:
        MachineError: if another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise MachineError("another process is writing it", where=str(folder), hint="wait for it to end") from None
    _HELD.add(folder)
    try:
        for leftover in folder.glob(".*.partial"):
            # By the whole form of our names: a folder may hold others'. A training's is a folder and has its own way.
            if _ANYBODYS_PARTIAL.fullmatch(leftover.name) and not leftover.is_dir():
                leftover.unlink(missing_ok=True)
        yield
    finally:
        _HELD.discard(folder)
        lock.release()


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder last through a crash of the machine, where the system can: on POSIX."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small JSON file atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")
