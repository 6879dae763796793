"""Drafts from what a corpus of reports says: for the last ids of a report, the id that most often came next.

A file (``drafts.safetensors``) has two tensors, an entry each context of 1 to ``order`` ids: ``keys`` (n) int64, hashes
of the contexts in ascending order, and ``next`` (n) int32, the id that came next with most patients. A context is left
out where the shorter one says the same. There is no text in it; but whoever has the text tokenizer can put sentences
together again from it, those that reports of at least ``min_patients`` patients have. A file is tied to that tokenizer
by its digest.

n contexts, N token ids of a corpus.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import DataError, Reason, WeightsError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.settings.inference import DraftSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.formats.safetensors_io import SafetensorsSource

_KEY, _SCHEMA = "chexmix-drafts", 1
_HINT = "chexmix weights drafts makes one"
_BITS = (1 << 64) - 1
_FACTOR = 0x9E3779B97F4A7C15

Keys = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftIndexInfo:
    """What an index was made of.

    Attributes:
        order: most ids of a context.
        min_patients: patients in whose reports a context and what follows it occur, at least.
        num_reports: of the corpus.
        tokenizer: ``fingerprint.tokenizer_hash`` of the text tokenizer.
    """

    order: int
    min_patients: int
    num_reports: int
    tokenizer: str


class ForeignDraftsError(WeightsError):
    """The drafts are of another text tokenizer: they say nothing about this one's ids."""


class DraftIndex:
    """A drafter (``drafts.Drafter``) over the contexts of a corpus.

    Args:
        info: what it was made of.
        keys_n: hashes of contexts, ascending.
        next_n: the id that follows each.
    """

    def __init__(self, info: DraftIndexInfo, keys_n: NDArray[np.int64], next_n: NDArray[np.int32]) -> None:
        self.info, self._keys_n, self._next_n = info, keys_n, next_n

    def __len__(self) -> int:
        return len(self._keys_n)

    def draft(self, token_ids: Sequence[int], count: int) -> Sequence[int]:
        """Return what most often followed the longest context known, id by id; nothing behind an unknown one."""
        ids = list(token_ids[-self.info.order :])
        start = len(ids)
        while len(ids) < start + count and (follows := self._next(ids[-self.info.order :])) is not None:
            ids.append(follows)
        return ids[start:]

    def _next(self, context: Sequence[int]) -> int | None:
        keys, key = [], 0
        for token_id in reversed(context):
            key = _behind(key, token_id)
            keys.append(key)
        longest_first = np.array(keys[::-1], np.uint64).view(np.int64)
        places = self._keys_n.searchsorted(longest_first).clip(max=len(self) - 1)
        known = np.flatnonzero(self._keys_n[places] == longest_first)
        return int(self._next_n[places[known[0]]]) if len(known) else None

    @classmethod
    def build(
        cls,
        reports: Iterable[tuple[Hashable, Sequence[int]]],
        vocabulary: Vocabulary,
        settings: DraftSettings,
        *,
        tokenizer: str,
    ) -> Self:
        """Return the index of a corpus.

        Args:
            reports: each report's patient, and its text ids.
            vocabulary: the ids that stand in front of a report and behind it.
            settings: longest context, fewest patients.
            tokenizer: digest of the text tokenizer.

        Raises:
            DataError: if nothing occurs in reports of ``settings.min_patients`` patients.
        """
        flat, lengths, owners = array("q"), array("q"), array("q")
        numbers: dict[Hashable, int] = {}
        for patient, report in reports:
            document = [vocabulary.begin_text, *report, vocabulary.begin_image]
            flat.extend(document)
            lengths.append(len(document))
            owners.append(numbers.setdefault(patient, len(numbers)))
        ids_N, lengths_R, owners_R = (np.array(part, np.int64) for part in (flat, lengths, owners))
        keys_n, next_n = _most_frequent(ids_N, lengths_R, owners_R, settings)
        if not len(keys_n):
            raise DataError(
                Reason.BAD_RECORD,
                f"nothing occurs in reports of {settings.min_patients} of {len(numbers)} patients",
                where="draft index",
                hint="more reports, or a lower drafts.min_patients",
            )
        info = DraftIndexInfo(
            order=settings.order, min_patients=settings.min_patients, num_reports=len(lengths), tokenizer=tokenizer
        )
        return cls(info, keys_n, next_n)

    def save(self, path: Path) -> None:
        """Write the index to a file, atomically."""
        from safetensors.numpy import save

        values = {"schema": _SCHEMA, **asdict(self.info)}
        tensors: dict[str, NDArray[Any]] = {
            "keys": np.ascontiguousarray(self._keys_n),
            "next": np.ascontiguousarray(self._next_n),
        }
        content = save(tensors, metadata={_KEY: json.dumps(values)})
        with atomic_write(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: Path, *, tokenizer: str | None, vocabulary: Vocabulary) -> Self:
        """Return the index of a file, whose tensors stay mapped.

        Args:
            path: the file.
            tokenizer: digest of the text tokenizer in use; None if there is none.
            vocabulary: that the ids are of.

        Raises:
            WeightsError: if there is no such file, or it is damaged or no index.
            ForeignDraftsError: if it is of another text tokenizer.
        """
        if not path.is_file():
            raise WeightsError("no draft index", where=str(path), hint=_HINT)
        header = read_header(path)
        try:
            values: dict[str, Any] = json.loads(header.metadata[_KEY])
            schema = values.pop("schema")
            info = DraftIndexInfo(**values)
            shapes, dtypes = header.shapes, {name: tensor.dtype for name, tensor in header.tensors.items()}
            is_fit = schema == _SCHEMA and dtypes == {"keys": "I64", "next": "I32"} and shapes["keys"] == shapes["next"]
            is_fit = is_fit and len(shapes["keys"]) == 1 and type(info.order) is int and info.order > 0
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            is_fit = False
        if not is_fit or not shapes["keys"][0]:
            raise WeightsError(
                "is no draft index", where=str(path), expected=f"header key {_KEY!r}, schema {_SCHEMA}", hint=_HINT
            )
        if info.tokenizer != tokenizer:
            raise ForeignDraftsError(
                f"was made with another text tokenizer ({info.tokenizer})",
                where=str(path),
                expected=f"the one in use ({tokenizer})",
                hint=_HINT,
            )
        source = SafetensorsSource(path, header)
        keys_n, next_n = source.get("keys").numpy(), source.get("next").numpy()
        least, most = int(next_n.min()), int(next_n.max())
        if least < 0 or most >= vocabulary.num_text:
            raise WeightsError(
                f"holds ids from {least} to {most}",
                where=str(path),
                expected=f"0 to {vocabulary.num_text - 1}",
                hint=_HINT,
            )
        return cls(info, keys_n, next_n)


def _behind(key: Any, token_id: Any) -> Any:
    """Return the hash of a context that one more id, an earlier one, is put in front of; numbers or arrays."""
    key = ((key ^ (token_id + 1)) * _FACTOR) & _BITS
    return key ^ (key >> 29)


def _most_frequent(
    ids_N: NDArray[np.int64], lengths: NDArray[np.int64], owners: NDArray[np.int64], settings: DraftSettings
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the hashes of contexts, ascending, and what follows each in the reports of most patients.

    Args:
        ids_N: of all reports, behind each other.
        lengths: of each report.
        owners: number of each report's patient.
        settings: longest context, fewest patients.
    """
    owner_N, report_N = np.repeat(owners, lengths), np.repeat(np.arange(len(lengths)), lengths)
    start_N = np.repeat(np.cumsum(lengths) - lengths, lengths)
    place_N = np.arange(len(ids_N))
    has_next_N = np.append(report_N[1:] == report_N[:-1], False) if len(ids_N) else np.zeros(0, bool)
    unsigned_N = ids_N.astype(np.uint64)
    key_N: Keys = np.zeros(len(ids_N), np.uint64)
    kept: list[tuple[Keys, NDArray[np.int64]]] = []
    shorter: tuple[Keys, NDArray[np.int64]] | None = None
    for order in range(1, settings.order + 1):
        shorter_key_N = key_N
        key_N = _behind(key_N, unsigned_N[np.maximum(place_N - order + 1, 0)])
        at = place_N[has_next_N & (place_N - order + 1 >= start_N)]
        at = _frequent(at, key_N[at], ids_N[at + 1], owner_N[at], settings.min_patients)
        keys, follows = key_N[at], ids_N[at + 1]
        if shorter is None:
            kept.append((keys, follows))
        else:
            # The shorter context of a frequent one is frequent, too: it is there, and tells the same or not.
            said = shorter[1][shorter[0].searchsorted(shorter_key_N[at])]
            kept.append((keys[said != follows], follows[said != follows]))
        shorter = keys, follows
    all_keys = np.concatenate([keys for keys, _ in kept]).view(np.int64)
    all_next = np.concatenate([follows for _, follows in kept]).astype(np.int32)
    order_n = all_keys.argsort(kind="stable")
    return all_keys[order_n], all_next[order_n]


def _frequent(
    at: NDArray[np.int64], keys: Keys, follows: NDArray[np.int64], owner: NDArray[np.int64], least: int
) -> NDArray[np.int64]:
    """Return a place of each context with the follower of most owners (of equal ones the lowest id), by hash."""
    order = np.lexsort((owner, follows, keys))
    at, keys, follows, owner = at[order], keys[order], follows[order], owner[order]
    is_new_pair = np.append(True, (keys[1:] != keys[:-1]) | (follows[1:] != follows[:-1]))[: len(at)]
    is_new_owner = is_new_pair | np.append(True, owner[1:] != owner[:-1])[: len(at)]
    pair = is_new_pair.cumsum() - 1
    num_owners = np.bincount(pair[is_new_owner], minlength=int(is_new_pair.sum()))
    at, keys, follows = at[is_new_pair], keys[is_new_pair], follows[is_new_pair]
    is_enough = num_owners >= least
    at, keys, follows, num_owners = at[is_enough], keys[is_enough], follows[is_enough], num_owners[is_enough]
    order = np.lexsort((follows, -num_owners, keys))
    is_first = np.append(True, keys[order][1:] != keys[order][:-1])[: len(order)]
    found: NDArray[np.int64] = at[order][is_first]
    return found
