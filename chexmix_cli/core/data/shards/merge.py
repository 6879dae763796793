"""Joins shard sets: the parts of one list back into that list, in its order; or sets of different inputs in a row."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chexmix_cli.core.data.shards.files import IndexEntry
from chexmix_cli.core.data.shards.id_keys import SeenIds, id_key
from chexmix_cli.core.data.shards.journal import ShardTokens
from chexmix_cli.core.data.shards.reader import ShardSet
from chexmix_cli.core.data.shards.writer import ShardWriter
from chexmix_cli.core.errors import DataError, Reason


def find_sets(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of sets: each itself, or the parts inside it."""
    found: list[Path] = []
    for folder in folders:
        parts = sorted(folder.glob("part-*-of-*")) if folder.is_dir() else []
        found += parts or [folder]
    return found


def merge_sets(sets: Sequence[ShardSet], folder: Path, progress: Callable[[int, int], None]) -> ShardSet:
    """Write the rows and index of all sets into one new set, which gets the identity they share.

    Parts of one list come out as if it had never been split.

    Raises:
        DataError: if the sets differ in what made them, a part is missing or given twice, or an id occurs twice.
    """
    whole = sets[0].identity.whole()
    for other in sets[1:]:
        other.identity.whole().require(whole.to_dict(), str(other.folder))
    is_split = any(item.identity.num_parts > 1 for item in sets)
    if is_split:
        parts = [(item.identity.part, item.identity.num_parts) for item in sets]
        require_all_parts(parts, {item.totals["list_hash"] for item in sets}, "shards")
    entries = heapq.merge(*map(_rows, sets), key=lambda pair: pair[0]["order"]) if is_split else _chained(sets)
    writer = ShardWriter(folder, whole)
    digest, num_records = new_list_hash(), sum(item.num_records for item in sets)
    seen = SeenIds()
    for order, (entry, tokens) in enumerate(entries):
        if is_split and entry["order"] != order:
            raise DataError(Reason.CORRUPT, f"input {order} is missing or there twice", where=str(folder))
        if tokens is not None and not seen.add(entry["id"]):
            raise DataError(Reason.DUPLICATE, f"{entry['id']!r} is in two rows", where=str(folder))
        update_list_hash(digest, entry["id"])
        if writer.skip(order, entry["id"]) is None:
            fields = {name: value for name, value in entry.items() if name not in ("order", "row")}
            writer.add(order, fields, tokens)
        progress(order + 1, num_records)
    return writer.finish(num_listed=num_records, list_hash=digest.hexdigest())


def new_list_hash() -> hashlib._Hash:
    """Return the hash of an empty list."""
    return hashlib.sha256()


def update_list_hash(digest: hashlib._Hash, record_id: str) -> None:
    """Take the next id of a list into its hash."""
    digest.update(id_key(record_id).to_bytes(8, "little"))


def _rows(shards: ShardSet) -> Iterator[tuple[IndexEntry, ShardTokens | None]]:
    row = 0
    for entry in shards.index():
        if entry["status"] != "ok":
            yield entry, None
            continue
        yield entry, ShardTokens(shards.codes(row), shards.text(row).tolist(), shards.labels(row))
        row += 1


def _chained(sets: Sequence[ShardSet]) -> Iterator[tuple[IndexEntry, ShardTokens | None]]:
    for item in sets:
        yield from _rows(item)


def require_all_parts(parts: Sequence[tuple[int, int]], list_hashes: set[str], where: str) -> None:
    """Raise DataError unless parts, each its number and of how many, are all those of one list."""
    found, num_parts = sorted(parts), max(count for _, count in parts)
    if len(found) != num_parts or any(pair != (part, num_parts) for part, pair in enumerate(found)):
        given = ", ".join(f"{part}/{count}" for part, count in found)
        raise DataError(
            Reason.CORRUPT,
            f"parts {given}",
            where=where,
            expected=f"each of 0/{num_parts}..{num_parts - 1}/{num_parts}",
        )
    if len(list_hashes) > 1:
        raise DataError(
            Reason.WRONG_TOKENS,
            "parts of different lists",
            where=where,
            expected=f"one list, not {sorted(list_hashes)}",
        )
