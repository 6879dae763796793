"""A shard set as its readers see it: rows by number, across shards, without copies."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.shards import files
from chexmix_cli.core.data.shards.files import IndexEntry, ShardHeader, TensorPlace
from chexmix_cli.core.data.shards.identity import ShardIdentity
from chexmix_cli.core.errors import DataError, Reason

#: Maps kept open; each takes a file descriptor, of which a process has about a thousand.
_MOST_OPEN = 128


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a set, its tensors not yet mapped."""

    path: Path
    header: ShardHeader
    places: dict[str, TensorPlace]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return ``codes``, ``text_ids``, ``text_offsets`` and ``labels`` (docs/shards.md) as views of the file."""
        return files.map_tensors(self.path, self.places)

    def index(self) -> Iterator[IndexEntry]:
        """Yield the entry of every input the shard covers."""
        return files.read_index(self.path)


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One image of a set.

    Attributes:
        id: name of its record.
        codes: image codes (positions,) uint16, a view.
        text: token ids of its report, a view; empty if there is none.
        labels: finding to 1, 0, -1 or None.
        entry: the line of the index: order, split, patient, study, view, notes, as far as known.
    """

    id: str
    codes: NDArray[np.uint16]
    text: NDArray[np.unsignedinteger[Any]]
    labels: dict[str, int | None]
    entry: IndexEntry


class ShardSet:
    """A folder of shards. Rows are the images that have codes, numbered from 0 in the order of the inputs.

    Opening reads headers only; :meth:`verify` reads everything.
    """

    def __init__(self, folder: Path, identity: ShardIdentity, shards: Sequence[Shard], totals: dict[str, Any]) -> None:
        self.folder, self.identity, self.shards = folder, identity, tuple(shards)
        #: What ``shards.json`` says of a complete set; empty while it is being written.
        self.totals = totals
        self._starts = np.cumsum([0, *(shard.header.num_rows for shard in self.shards)]).tolist()
        self._tensors = lru_cache(maxsize=_MOST_OPEN)(lambda number: self.shards[number].tensors())

    @classmethod
    def open(cls, folder: Path, *, allow_partial: bool = False) -> Self:
        """Return the set in a folder.

        Args:
            folder: of the set.
            allow_partial: take a set that is still being written, as far as it is finished.

        Raises:
            DataError: if there is none, or shards are missing, cut off, damaged or of another set.
        """
        values = _read_set_file(folder)
        identity = ShardIdentity.from_dict(values.get("identity"), files.SET_FILE)
        shards = [Shard(path, *files.read_header(path)) for path in _shard_paths(folder)]
        before = files.FIRST_HASH
        for number, shard in enumerate(shards):
            _check_link(shard, number, identity, before, is_last=number == len(shards) - 1)
            before = shard.header.ids_hash
        totals = values.get("complete") or {}
        if totals:
            _check_totals(totals, shards, before)
        elif not allow_partial:
            raise DataError(
                Reason.CORRUPT,
                f"unfinished: {len(shards)} shards and no end",
                where=str(folder),
                hint="run the same `chexmix tokenize` again; it goes on where it stopped",
            )
        return cls(folder, identity, shards, totals)

    def __reduce__(self) -> tuple[Callable[[Path], Self], tuple[Path]]:
        """Pickle where the set is: another process opens it anew."""
        return type(self).open, (self.folder,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[ShardRow]:
        """Yield every row with its entry, in order."""
        row = 0
        for entry in self.index():
            if entry["status"] == "ok":
                yield ShardRow(entry["id"], self.codes(row), self.text(row), self.labels(row), entry)
                row += 1

    @property
    def num_records(self) -> int:
        """Return the number of inputs the finished shards cover."""
        return sum(shard.header.num_records for shard in self.shards)

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Return the findings that any shard has labels of, sorted."""
        return tuple(sorted({name for shard in self.shards for name in shard.header.label_names}))

    def require(self, **wanted: Any) -> None:
        """Raise DataError unless the identity has these values, such as ``codebook_hash=weights.codebook_hash``."""
        self.identity.require(wanted, str(self.folder))

    def index(self) -> Iterator[IndexEntry]:
        """Yield the entries of all inputs in order, those without codes too."""
        for shard in self.shards:
            yield from shard.index()

    def rows_of(self, split: str | None) -> NDArray[np.int64]:
        """Return the numbers of the rows of one split, (rows,), ascending; None: of those without a split."""
        entries = (entry for entry in self.index() if entry["status"] == "ok")
        rows = [row for row, entry in enumerate(entries) if entry.get("split") == split]
        return np.array(rows, dtype=np.int64)

    def codes(self, row: int) -> NDArray[np.uint16]:
        """Return the image codes of a row (positions,), a view of the file."""
        number, place = self._locate(row)
        codes: NDArray[np.uint16] = self._tensors(number)["codes"][place]
        return codes

    def gather(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return the image codes of some rows as one array (rows, positions), copied."""
        out = np.empty((len(rows), self.identity.tokens_per_image), np.uint16)
        for place, row in enumerate(rows):
            out[place] = self.codes(int(row))
        return out

    def text(self, row: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return the token ids of a row's report, (tokens,), a view of the file; empty if it has none."""
        number, place = self._locate(row)
        tensors = self._tensors(number)
        start, stop = tensors["text_offsets"][place : place + 2]
        text: NDArray[np.unsignedinteger[Any]] = tensors["text_ids"][start:stop]
        return text

    def labels(self, row: int) -> dict[str, int | None]:
        """Return the labels of a row: every finding of ``label_names``, None where it is not stated."""
        number, place = self._locate(row)
        values = self._tensors(number)["labels"][place].tolist()
        known = dict(zip(self.shards[number].header.label_names, values, strict=True))
        found = ((name, known.get(name, files.NULL_LABEL)) for name in self.label_names)
        return {name: None if value == files.NULL_LABEL else value for name, value in found}

    def label_matrix(self, names: Sequence[str]) -> NDArray[np.int8]:
        """Return labels of all rows, (rows, names); 1, 0, -1, or -2 where not stated."""
        out = np.full((len(self), len(names)), files.NULL_LABEL, np.int8)
        for number, shard in enumerate(self.shards):
            rows = slice(self._starts[number], self._starts[number + 1])
            for column, name in enumerate(names):
                if name in shard.header.label_names:
                    source = shard.header.label_names.index(name)
                    out[rows, column] = self._tensors(number)["labels"][:, source]
        return out

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]


def _read_set_file(folder: Path) -> dict[str, Any]:
    if not (folder / files.SET_FILE).is_file():
        hint = "it holds parts: `chexmix data merge` joins them" if any(folder.glob("part-*-of-*")) else None
        raise DataError(Reason.NOT_FOUND, f"no shard set (no {files.SET_FILE})", where=str(folder), hint=hint)
    try:
        values = json.loads((folder / files.SET_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("complete") or {}, dict):
        raise DataError(Reason.CORRUPT, f"{files.SET_FILE} is damaged", where=str(folder))
    return values


def _shard_paths(folder: Path) -> list[Path]:
    """Return the tensor files in order; DataError if the numbers have a gap."""
    paths = {path.name: path for path in folder.iterdir() if re.fullmatch(r"shard-\d{5,}\.safetensors", path.name)}
    wanted = [files.shard_name(number) for number in range(len(paths))]
    missing = [name for name in wanted if name not in paths]
    if missing:
        raise DataError(Reason.CORRUPT, f"{missing[0]} is missing, {max(paths)} is there", where=str(folder))
    return [paths[name] for name in wanted]


def _check_link(shard: Shard, number: int, identity: ShardIdentity, before: str, *, is_last: bool) -> None:
    header, where = shard.header, shard.path.name
    header.identity.require(identity.to_dict(), where)
    if header.number != number or header.ids_before != before:
        raise DataError(Reason.CORRUPT, "does not follow the shard before it", where=where)
    if header.num_records != identity.rows and not (is_last and 0 < header.num_records < identity.rows):
        raise DataError(Reason.CORRUPT, f"covers {header.num_records} inputs", where=where, expected=f"{identity.rows}")
    index = files.index_path(shard.path)
    size = index.stat().st_size if index.is_file() else None
    if size != header.index_bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise DataError(Reason.CORRUPT, f"the index {found}", where=index.name, expected=f"{header.index_bytes} bytes")


def _check_totals(totals: dict[str, Any], shards: Sequence[Shard], ids_hash: str) -> None:
    found = {
        "num_shards": len(shards),
        "num_records": sum(shard.header.num_records for shard in shards),
        "num_rows": sum(shard.header.num_rows for shard in shards),
        "ids_hash": ids_hash,
    }
    for name, value in found.items():
        if totals.get(name) != value:
            raise DataError(Reason.CORRUPT, f"{name} is {value}", where=files.SET_FILE, expected=f"{totals.get(name)}")
