"""The bytes of a shard: a safetensors file and its index. Written whole or not at all, read through a memory map."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.shards.identity import ShardIdentity
from chexmix_cli.core.errors import DataError, Reason, SettingsError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.settings.load import build

SET_FILE = "shards.json"
#: Where the chain of id hashes starts.
FIRST_HASH = hashlib.sha256(b"").hexdigest()
#: In ``labels``: not stated. Beside the manifest's 1, 0 and -1.
NULL_LABEL = -2

_METADATA_KEY = "chexmix_shard"
_MAX_HEADER_BYTES = 16 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

IndexEntry = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardHeader:
    """What a shard's file says of itself.

    Attributes:
        identity: of its set.
        number: of the shard, from 0.
        num_records, num_rows: inputs it covers, and those of them that have codes.
        ids_before, ids_hash: running hash over all inputs' places and ids, before and behind this shard.
        label_names: columns of ``labels``.
        index_sha256, index_bytes, data_sha256: of the index, and of the tensors' bytes.
    """

    identity: ShardIdentity
    number: int
    num_records: int
    num_rows: int
    ids_before: str
    ids_hash: str
    label_names: tuple[str, ...]
    index_sha256: str
    index_bytes: int
    data_sha256: str


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Return the size of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def shard_name(number: int) -> str:
    """Return the name of a shard's tensor file."""
    return f"shard-{number:05d}.safetensors"


def index_path(shard: Path) -> Path:
    """Return the index that belongs to a tensor file."""
    return shard.with_suffix(".jsonl")


def chained_hash(before: str, entries: Iterable[IndexEntry]) -> str:
    """Return the running hash over the inputs' places and ids behind these entries."""
    digest = hashlib.sha256(before.encode())
    for entry in entries:
        digest.update(f"{entry['order']} {json.dumps(entry['id'])}\n".encode())
    return digest.hexdigest()


def encode_index(entries: Iterable[IndexEntry]) -> bytes:
    """Return index entries as JSON Lines; ASCII, so that every id survives."""
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode("ascii")


def read_index(shard: Path) -> Iterator[IndexEntry]:
    """Yield the entries of a shard, one at a time.

    Raises:
        DataError: if the index is missing or damaged.
    """
    path = index_path(shard)
    try:
        with path.open("rb") as lines:
            for line in lines:
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                    raise ValueError
                yield entry
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error.strerror})", where=path.name) from None
    except (ValueError, RecursionError):
        raise DataError(Reason.CORRUPT, "a line is no index entry", where=path.name) from None


def data_sha256(tensors: Iterable[NDArray[Any]]) -> str:
    """Return the digest of tensors' bytes in file order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b"")
    return digest.hexdigest()


def in_file_order(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return tensors in the order they lie in a file: wide dtypes first, so that all are aligned."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], header: ShardHeader) -> None:
    """Write the tensor file of a shard in one piece; ``tensors`` are in file order."""
    values = {name: getattr(header, name) for name in ShardHeader.__dataclass_fields__}
    values["identity"] = header.identity.to_dict()
    table: dict[str, Any] = {"__metadata__": {"format": "np", _METADATA_KEY: json.dumps(values)}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        table[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def read_header(path: Path) -> tuple[ShardHeader, dict[str, TensorPlace]]:
    """Return what a shard's file says of itself, and where its tensors are.

    Raises:
        DataError: if the file is cut off or damaged, or no shard.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise DataError(Reason.CORRUPT, f"cut off, or no shard ({size} bytes)", where=path.name)
            table = json.loads(file.read(length))
        header = _parse_header(json.loads(table.pop("__metadata__")[_METADATA_KEY]), path.name)
        places = {name: _place(value, 8 + length) for name, value in table.items()}
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"cannot be read ({error.strerror})", where=path.name) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(Reason.CORRUPT, "the header is damaged, or no shard's", where=path.name) from None
    _check_bytes(places.values(), 8 + length, size, path.name)
    _check_shapes(header, places, path.name)
    return header, places


def map_tensors(path: Path, places: Mapping[str, TensorPlace]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file as read-only views of one memory map."""
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    tensors: dict[str, NDArray[Any]] = {}
    for name, place in places.items():
        view = mapped[place.offset : place.offset + place.num_bytes].view(np.ndarray)
        tensors[name] = view.view(place.dtype).reshape(place.shape)
    return tensors


def _parse_header(values: Any, where: str) -> ShardHeader:
    if set(values) != set(ShardHeader.__dataclass_fields__):
        raise ValueError
    identity = ShardIdentity.from_dict(values["identity"], where)
    try:
        return build(ShardHeader, {**values, "identity": identity.to_dict()})
    except SettingsError as error:
        raise DataError(Reason.CORRUPT, f"a damaged shard header ({error})", where=where) from None


def _place(value: Any, data_start: int) -> TensorPlace:
    start, end = value["data_offsets"]
    place = TensorPlace(_DTYPES[value["dtype"]], tuple(value["shape"]), data_start + start)
    # Equal numbers of another type, 74.0 for 74, are no places in a file.
    is_whole = all(type(number) is int for number in (start, end, *place.shape))
    if not is_whole or end - start != place.num_bytes or min((start, *place.shape)) < 0:
        raise ValueError
    return place


def _check_bytes(places: Iterable[TensorPlace], start: int, size: int, where: str) -> None:
    """Raise DataError unless the tensors lie behind each other, without gaps, from the header to the file's end."""
    end = start
    for place in sorted(places, key=lambda place: (place.offset, place.num_bytes)):
        if place.offset != end:
            raise DataError(Reason.CORRUPT, "tensors overlap or leave gaps", where=where)
        end += place.num_bytes
    if end != size:
        raise DataError(Reason.CORRUPT, f"the file has {size} bytes", where=where, expected=f"{end}")


def _check_shapes(header: ShardHeader, places: Mapping[str, TensorPlace], where: str) -> None:
    """Raise DataError unless the tensors are those the header promises."""
    num_rows = header.num_rows
    wanted = {
        "codes": (num_rows, header.identity.tokens_per_image),
        "text_offsets": (num_rows + 1,),
        "labels": (num_rows, len(header.label_names)),
    }
    shapes = {name: places[name].shape for name in wanted if name in places}
    if shapes != wanted or set(places) != {*wanted, "text_ids"} or not num_rows <= header.num_records:
        raise DataError(Reason.CORRUPT, f"tensors {shapes}", where=where, expected=f"{wanted} and text_ids")
