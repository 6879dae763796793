"""The films of one split as training sees them, in files: each is read from its source once, and then when it is used.

``films-00000.bin`` and on hold the bytes of so many films in a row; the ``.json`` beside one says their shapes, and
that it is whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.files import atomic_write, write_json
from chexmix_cli.core.train.distributed import barrier, rank, world_size
from chexmix_cli.core.train.examples.films import Picture
from chexmix_cli.core.train.examples.prefetch import made_ahead

#: Films of a file; ranks share the files.
_PER_FILE = 256


class FilmCache(Sequence[Picture]):
    """Films in a folder of :func:`cache_films`; holds nothing but where they are.

    Raises:
        MachineError: if a file is missing or has another size than it should.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        shapes: list[list[list[int]]] = []
        starts: list[int] = []
        for number in range(-(-count // _PER_FILE)):
            end = 0
            for pair in _read_shapes(folder, number):
                shapes.append(pair)
                starts.append(end)
                end += sum(math.prod(shape) for shape in pair)
            path = _path(folder, number)
            if not path.is_file() or path.stat().st_size != end:
                raise MachineError("a file of films in the run's folder is missing or cut", where=path.name, hint=_HINT)
        self._start_N = np.array(starts, np.int64)
        # The channels, rows and columns of a picture; then rows, columns, and channels where there are some.
        self._shape_N6 = np.array([[*exact, *film, *[0] * (3 - len(film))] for exact, film in shapes], np.int32)
        if len(starts) != count:
            raise MachineError(f"{len(starts)} films in the run's folder", expected=f"{count}", hint=_HINT)

    def __len__(self) -> int:
        return len(self._start_N)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        exact_shape, film_shape = ([int(size) for size in part if size] for part in np.split(self._shape_N6[index], 2))
        with _path(self._folder, index // _PER_FILE).open("rb") as file:
            file.seek(int(self._start_N[index]))
            parts = [_read(file.read(math.prod(shape)), shape) for shape in (exact_shape, film_shape)]
        return Picture(*parts)


_HINT = "remove RUN/cache, and give the same command with --resume; every process has to see the same run folder"


def cache_films(
    films: Sequence[Picture], folder: Path, *, workers: int, progress: Callable[[int, int], None]
) -> FilmCache:
    """Return films from files in ``folder``, after writing those that are not there; every rank writes a part.

    Args:
        films: from their sources.
        folder: for these films in this form, and no others.
        workers: processes that read them.
        progress: called with (films done, in all).

    Raises:
        DataError: naming the film, if one cannot be read.
        MachineError: if the files of other ranks are not seen.
    """
    files = range(rank(), -(-len(films) // _PER_FILE), world_size())
    missing = [number for number in files if not _path(folder, number).with_suffix(".json").exists()]
    parts = [range(number * _PER_FILE, min(len(films), (number + 1) * _PER_FILE)) for number in missing]
    if missing:
        with made_ahead(films.__getitem__, list(chain(*parts)), workers) as ahead:
            for number, part in zip(missing, parts, strict=True):
                told = partial(lambda first, done: progress(first + done, len(films)), part.start)
                _write(islice(ahead, len(part)), _path(folder, number), told)
    barrier()
    return FilmCache(folder, len(films))


def _write(pictures: Iterable[Picture], path: Path, progress: Callable[[int], None]) -> None:
    shapes = []
    with atomic_write(path) as file:
        for done, picture in enumerate(pictures, start=1):
            shapes.append([list(part.shape) for part in picture])
            for part in picture:
                file.write(part.numpy().tobytes())
            progress(done)
    write_json(path.with_suffix(".json"), {"shapes": shapes})


def _path(folder: Path, number: int) -> Path:
    return folder / f"films-{number:05d}.bin"


def _read_shapes(folder: Path, number: int) -> list[list[list[int]]]:
    path = _path(folder, number).with_suffix(".json")
    try:
        found: list[list[list[int]]] = json.loads(path.read_bytes())["shapes"]
    except (OSError, ValueError, KeyError):
        raise MachineError("a file of films in the run's folder is missing", where=path.name, hint=_HINT) from None
    return found


def _read(data: bytes, shape: list[int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape)
