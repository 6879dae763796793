"""Files that lie on purpose, one lie each, and what is said to them: the table of docs/robustness.md."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from parser import Parser

from chexmix_cli.core.errors import ChexmixError

#: No lie may take more: what the largest film that ``input.max_pixels`` allows takes.
MOST_MIB = 2048


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One row.

    Attributes:
        file, lie: of the table.
        said: part of the refusal.
        tell: makes the lie in a folder of its own, and returns what reads it.
        code: exit code of the refusal.
        most_mib: memory that reading it may take.
    """

    file: str
    lie: str
    said: str
    tell: Callable[[Path], Callable[[], object]]
    code: int = 1
    most_mib: int = 64


@dataclass(frozen=True)
class Answer:
    """What came of reading a lie: exit code, message (None: it was read), and memory beyond what was there before."""

    code: int
    message: str | None
    mib: float


def on(parser: Parser, name: str, change: Callable[[Path], object]) -> Callable[[Path], Callable[[], object]]:
    """Return what makes a lie of a parser's sound input: the first whose name begins so, changed in its place."""

    def tell(folder: Path) -> Callable[[], object]:
        sound = next(path for path in _sound(parser) if path.name.startswith(name))
        template = next(parent for parent in sound.parents if parent.name.startswith("seed"))
        shutil.copytree(template, folder / "seed", symlinks=True)
        target = folder / "seed" / sound.relative_to(template)
        change(target)
        return lambda: parser.read(target)

    return tell


@cache
def _sound(parser: Parser) -> list[Path]:
    return parser.seeds(Path(tempfile.mkdtemp(prefix="chexmix-lies-")) / "work")


def forget_sound_files() -> None:
    """Remove what the lies were made from."""
    _sound.cache_clear()
    for folder in Path(tempfile.gettempdir()).glob("chexmix-lies-*"):
        shutil.rmtree(folder)


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a change of a safetensors header, its length as it then has to be."""

    def rewrite(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        values = json.loads(data[8 : 8 + length])
        change(values)
        text = json.dumps(values).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return rewrite


def metadata(key: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a change of the JSON under one key of a safetensors header."""

    def inside(values: dict[str, Any]) -> None:
        found = json.loads(values["__metadata__"][key])
        change(found)
        values["__metadata__"][key] = json.dumps(found)

    return header(inside)


def tensor(name: str, number: float, *, place: int = 0) -> Callable[[Path], None]:
    """Return a change of one number of a tensor, the file otherwise as it was."""
    import numpy as np

    codes = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "U16": np.uint16}

    def rewrite(path: Path) -> None:
        data = bytearray(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        info = json.loads(data[8 : 8 + length])[name]
        value = codes[info["dtype"]](number).tobytes()
        start = 8 + length + info["data_offsets"][0] + place * len(value)
        data[start : start + len(value)] = value
        path.write_bytes(data)

    return rewrite


def answer(lie: Lie, folder: Path) -> Answer:
    """Return what reading a lie gives, in a process of its own that may not take much more than it should."""
    read = lie.tell(folder)
    # What was freed and not given back would be taken again, unseen.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_read, args=(read, sender))
    process.start()
    sender.close()
    try:
        found: Answer = receiver.recv()
    except EOFError:
        process.join()
        found = Answer(-1, f"ended its process ({process.exitcode})", 0.0)
    process.join()
    return found


def _read(read: Callable[[], object], sender: Any) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (4 << 30),) * 2)
    before, code, message = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, None
    try:
        read()
    except ChexmixError as error:
        code, message = int(error.exit_code), str(error)
    except BaseException as error:  # what must not be
        code, message = -1, f"{type(error).__name__}: {error}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sender.send(Answer(code, message, peak / 1024))
    sender.close()
    os._exit(0)


HEAD = "| file | lie | exit code, and what is said | MiB |\n|---|---|---|---|"


def row(lie: Lie) -> str:
    """Return the beginning of a row: all but the memory that it took."""
    return f"| {lie.file} | {lie.lie} | {lie.code}: {lie.said} |"


def table(lies: Sequence[Lie]) -> Iterator[str]:
    """Yield the lines of the table, each with the memory it took here and now."""
    yield HEAD
    for lie in lies:
        folder = Path(tempfile.mkdtemp(prefix="chexmix-lie-"))
        try:
            yield f"{row(lie)} {answer(lie, folder).mib:.0f} |"
        finally:
            shutil.rmtree(folder)
