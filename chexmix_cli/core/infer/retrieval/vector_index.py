"""An index of images and reports on disk: vectors and ids, read through memory maps; appended to, never rewritten.

``index.json`` says what made the vectors. ``images-00000.safetensors``, ``reports-00000.safetensors``, ... hold them,
each written in one piece: ``vectors`` (n, E) float32 of length 1; ``ids`` uint8 and ``id_offsets`` int64, the ids as
UTF-8; ``digests`` (n) int64 of what was embedded; ``codes`` (n, P) uint16 of images, and ``text_ids`` int32 with
``text_offsets`` of reports, where the index keeps them. What an index of a run that was killed has is whole.

n vectors of a file, E vector size, P image positions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import DataError, Reason, SettingsError, require_same
from chexmix_cli.core.settings.load import build
from chexmix_cli.core.vocab import Vocabulary

Kind = Literal["images", "reports"]
KINDS: tuple[Kind, ...] = ("images", "reports")
INDEX_FILE = "index.json"
#: Raised by one whenever files of an earlier version can no longer be read as they are.
SCHEMA = "chexmix-index/1"

_PART_KEY = "chexmix-index"
#: How far from 1 a vector's length may be: rounding leaves a millionth.
_LENGTH_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexIdentity:
    """What made the vectors of an index, and what it keeps with them.

    Attributes:
        model, model_hash: name, and ``WeightsDir.fingerprint``.
        projection_hash: sha256 of the contrastive projections' file, or None if the states themselves are compared.
        preset, preset_hash: image preset.
        dtype: the decoder computed in.
        image_layer, text_layer, section: what was averaged, and of which text.
        size: of a vector.
        with_text: the reports' token ids are kept.
        with_codes: the images' codes are kept.
    """

    model: str
    model_hash: str
    projection_hash: str | None
    preset: str
    preset_hash: str
    dtype: str
    image_layer: int
    text_layer: int
    section: str
    size: int
    with_text: bool
    with_codes: bool

    def require(self, where: str, **wanted: Any) -> None:
        """Raise DataError that names both values, unless all ``wanted`` are the index's."""
        hint = "use the --weights and settings it was made with, or make another index"
        require_same(self, wanted, what="an index", where=where, hint=hint)


@dataclass(frozen=True, slots=True)
class Item:
    """One vector and what is kept with it.

    Attributes:
        id: of the image, or of the image the report belongs to.
        vector_E: float32, of length 1.
        digest: of what was embedded; tells an item that is indexed already from another one of the same name.
        tokens: codes of an image, token ids of a report; None if not kept.
    """

    id: str
    vector_E: Tensor
    digest: int
    tokens: Sequence[int] | None


class _Part:
    """One file of vectors, mapped when first read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _file(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise DataError(Reason.CORRUPT, f"cannot be read ({error})", where=self.path.name) from None
        return file

    def get(self, name: str) -> Tensor:
        """Return a tensor, a view of the file."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def vectors(self, rows: slice) -> Tensor:
        vectors_ME: Tensor = self._file.get_slice("vectors")[rows]
        # Not-a-number is far from 1, too.
        if not bool(((vectors_ME.norm(dim=1) - 1).abs() < _LENGTH_TOLERANCE).all()):
            raise DataError(Reason.CORRUPT, "holds vectors that are not of length 1", where=self.path.name)
        return vectors_ME

    @cached_property
    def count(self) -> int:
        return int(self._file.get_slice("vectors").get_shape()[0])

    def ids(self) -> list[str]:
        data, offsets = self.get("ids").numpy().tobytes(), self.get("id_offsets").tolist()
        try:
            return [data[start:stop].decode() for start, stop in zip(offsets, offsets[1:], strict=False)]
        except UnicodeDecodeError:
            raise DataError(Reason.CORRUPT, "holds ids that are not UTF-8", where=self.path.name) from None

    def tokens(self, kind: Kind, place: int, vocabulary: Vocabulary) -> list[int]:
        if kind == "images":
            what, below, found = "codes", vocabulary.num_codes, self.get("codes")[place].flatten()
            is_fit = len(found) == vocabulary.tokens_per_image
        else:
            start, stop = self.get("text_offsets")[place : place + 2].tolist()
            what, below, found = "text ids", vocabulary.num_text, self.get("text_ids")[start:stop].flatten()
            is_fit = True
        token_ids: list[int] = found.tolist()
        if not is_fit or not all(0 <= token_id < below for token_id in token_ids):
            raise DataError(
                Reason.CORRUPT,
                f"holds {what} that are not the model's",
                where=self.path.name,
                expected=f"below {below}",
            )
        return token_ids

    def check(self, identity: IndexIdentity) -> None:
        """Raise DataError unless the file is whole and of this index."""
        metadata = self._file.metadata() or {}
        if metadata.get(_PART_KEY) != _stamp(identity):
            raise DataError(Reason.CORRUPT, "is of another index", where=self.path.name)
        names: list[str] = self._file.keys()
        kept = {"codes"} if self.path.name.startswith("images") and identity.with_codes else set()
        kept |= {"text_ids", "text_offsets"} if self.path.name.startswith("reports") and identity.with_text else set()
        missing = {"vectors", "digests", "ids", "id_offsets", *kept} - {*names}
        if missing:
            raise DataError(Reason.CORRUPT, f"holds no {', '.join(sorted(missing))}", where=self.path.name)
        slices = [self._file.get_slice(name) for name in names]
        found = {name: (stored.get_dtype(), stored.get_shape()) for name, stored in zip(names, slices, strict=True)}
        wanted = {
            "vectors": ("F32", [self.count, identity.size]),
            "digests": ("I64", [self.count]),
            "id_offsets": ("I64", [self.count + 1]),
            "text_offsets": ("I64", [self.count + 1]),
        }
        kinds = {"ids": "U8", "text_ids": "I32", "codes": "U16"}
        is_fit = all(found[name] == kind for name, kind in wanted.items() if name in found)
        if not is_fit or any(found[name][0] != kind for name, kind in kinds.items() if name in found):
            expected = f"{wanted | kinds}"
            raise DataError(Reason.CORRUPT, f"holds tensors {found}", where=self.path.name, expected=expected)
        for values, offsets in (("ids", "id_offsets"), ("text_ids", "text_offsets")):
            if offsets in found:
                self._check_offsets(values, self.get(offsets))

    def _check_offsets(self, values: str, offsets: Tensor) -> None:
        """Raise DataError unless offsets cut a tensor into pieces from its first value to its last."""
        lengths, total = offsets.diff(), self.get(values).numel()
        if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((lengths < 0).any()):
            raise DataError(Reason.CORRUPT, f"has offsets that do not fit {values}", where=self.path.name)


class VectorIndex:
    """An index opened for reading. Places count from 0, images and reports apart, in the order they were added."""

    def __init__(self, folder: Path, identity: IndexIdentity) -> None:
        self.folder, self.identity = folder, identity
        self._parts: dict[Kind, list[_Part]] = {kind: _parts(folder, kind) for kind in KINDS}
        for parts in self._parts.values():
            for part in parts:
                part.check(identity)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the index in a folder.

        Raises:
            DataError: if there is none, or it is damaged or of another schema.
        """
        path = folder / INDEX_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            schema, identity = values["schema"], values["identity"]
            if not isinstance(identity, dict):
                raise TypeError("no identity")
        except OSError as error:
            raise DataError(
                Reason.NOT_FOUND,
                f"no index ({error.strerror})",
                where=str(folder),
                expected="a folder that `chexmix retrieve index` has made",
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(Reason.CORRUPT, f"cannot be read ({error!r})", where=str(path)) from None
        if schema != SCHEMA:
            raise DataError(Reason.UNKNOWN_FORMAT, f"schema {schema!r}", where=str(path), expected=SCHEMA)
        try:
            return cls(folder, build(IndexIdentity, identity))
        except SettingsError as error:
            raise DataError(Reason.CORRUPT, f"a damaged identity ({error})", where=str(path)) from None

    def count(self, kind: Kind) -> int:
        """Return how many vectors of a kind there are."""
        return sum(part.count for part in self._parts[kind])

    def num_parts(self, kind: Kind) -> int:
        """Return how many files of a kind there are."""
        return len(self._parts[kind])

    def ids(self, kind: Kind) -> list[str]:
        """Return the ids of a kind, by index."""
        return [item_id for part in self._parts[kind] for item_id in part.ids()]

    def digests(self, kind: Kind) -> list[int]:
        """Return the digests of a kind, by index."""
        return [digest for part in self._parts[kind] for digest in part.get("digests").tolist()]

    def blocks(self, kind: Kind, rows: int) -> Iterator[Tensor]:
        """Yield the vectors of a kind in order, at most ``rows`` at a time, (M, E) float32."""
        for part in self._parts[kind]:
            for start in range(0, part.count, rows):
                yield part.vectors(slice(start, min(start + rows, part.count)))

    def vectors(self, kind: Kind) -> Tensor:
        """Return all vectors of a kind, (n, E) float32: in memory, and nothing else of the index is."""
        found = [part.vectors(slice(0, part.count)) for part in self._parts[kind]]
        return torch.cat(found) if found else torch.empty(0, self.identity.size)

    def tokens(self, kind: Kind, place: int, vocabulary: Vocabulary) -> list[int]:
        """Return the codes of an image, or the token ids of a report.

        Args:
            kind: of the item.
            place: its index.
            vocabulary: of the model in use.

        Raises:
            DataError: if the index does not keep them, or they are not the model's.
        """
        if not (self.identity.with_codes if kind == "images" else self.identity.with_text):
            what, hint = ("codes", "--set store.codes=true") if kind == "images" else ("texts", "--with-text")
            raise DataError(
                Reason.NOT_FOUND,
                f"the index keeps no {what} of {kind}",
                where=str(self.folder),
                hint=f"`chexmix retrieve index` with {hint}",
            )
        for part in self._parts[kind]:
            if place < part.count:
                return part.tokens(kind, place, vocabulary)
            place -= part.count
        raise AssertionError(f"no index {place}")


def part_path(folder: Path, kind: Kind, number: int) -> Path:
    """Return the file of a part."""
    return folder / f"{kind}-{number:05d}.safetensors"


def part_tensors(items: Sequence[Item], kind: Kind, identity: IndexIdentity) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file."""
    ids, id_offsets = _ragged([list(item.id.encode()) for item in items], np.dtype(np.uint8))
    tensors: dict[str, NDArray[Any]] = {
        "vectors": torch.stack([item.vector_E for item in items]).numpy(),
        "digests": np.array([item.digest for item in items], np.int64),
        "ids": ids,
        "id_offsets": id_offsets,
    }
    tokens = [list(item.tokens or ()) for item in items]
    if kind == "images" and identity.with_codes:
        tensors["codes"] = np.array(tokens, np.uint16)
    elif kind == "reports" and identity.with_text:
        tensors["text_ids"], tensors["text_offsets"] = _ragged(tokens, np.dtype(np.int32))
    return tensors


def part_metadata(identity: IndexIdentity) -> dict[str, str]:
    """Return what a file says of itself."""
    return {_PART_KEY: _stamp(identity)}


def _ragged(lists: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    offsets = np.cumsum([0, *(len(values) for values in lists)]).astype(np.int64)
    return np.array([value for values in lists for value in values], dtype), offsets


def _stamp(identity: IndexIdentity) -> str:
    return json.dumps({"schema": SCHEMA, "identity": dataclasses.asdict(identity)}, sort_keys=True)


def _parts(folder: Path, kind: Kind) -> list[_Part]:
    paths = sorted(folder.glob(f"{kind}-?????.safetensors"))
    for number, path in enumerate(paths):
        if path != part_path(folder, kind, number):
            raise DataError(Reason.CORRUPT, f"{part_path(folder, kind, number).name} is missing", where=str(folder))
    return [_Part(path) for path in paths]
