"""The long check of a shard set: every byte, id and number."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np

from chexmix_cli.core.data.shards import files
from chexmix_cli.core.data.shards.id_keys import id_key
from chexmix_cli.core.data.shards.reader import Shard, ShardSet
from chexmix_cli.core.errors import DataError, Reason


def verify_set(shards: ShardSet) -> None:
    """Read everything.

    Raises:
        DataError: on a digest, id, order, code, token id or label that is not as the headers and each other say.
    """
    keys = array("Q")
    order = -1
    for shard in shards.shards:
        _verify_tensors(shard)
        digest = hashlib.sha256(files.index_path(shard.path).read_bytes()).hexdigest()
        _require(digest == shard.header.index_sha256, "the index is damaged", shard)
        entries = list(shard.index())
        found = files.chained_hash(shard.header.ids_before, entries)
        _require(found == shard.header.ids_hash, "the index has other ids", shard)
        _require(len(entries) == shard.header.num_records, f"the index has {len(entries)} lines", shard)
        rows = [entry.get("row") for entry in entries if entry.get("status") == "ok"]
        _require(rows == list(range(shard.header.num_rows)), "the index does not fit the rows", shard)
        for entry in entries:
            _require(entry["order"] > order, f"{entry['id']!r} is out of order", shard)
            order = entry["order"]
        keys.extend(id_key(entry["id"]) for entry in entries if entry["status"] == "ok")
    # Equal keys need not be equal ids, but that they are not would take billions of rows.
    if len(np.unique(np.frombuffer(keys, np.uint64))) < len(keys):
        raise DataError(Reason.DUPLICATE, "an id has two rows", where=str(shards.folder))


def _verify_tensors(shard: Shard) -> None:
    tensors, identity = shard.tensors(), shard.header.identity
    digest = files.data_sha256(files.in_file_order(tensors).values())
    _require(digest == shard.header.data_sha256, "the tensors are damaged", shard)
    codes, text, offsets, labels = (tensors[name] for name in ("codes", "text_ids", "text_offsets", "labels"))
    _require(codes.size == 0 or int(codes.max()) < identity.num_codes, "a code out of range", shard)
    _require(text.size == 0 or int(text.max()) < identity.num_text, "a text id out of range", shard)
    is_monotone = offsets[0] == 0 and offsets[-1] == len(text) and bool(np.all(np.diff(offsets) >= 0))
    _require(is_monotone, "text offsets that do not fit the text ids", shard)
    _require(bool(np.isin(labels, (1, 0, -1, files.NULL_LABEL)).all()), "a label that is none", shard)


def _require(condition: bool, what: str, shard: Shard) -> None:
    if not condition:
        raise DataError(Reason.CORRUPT, what, where=shard.path.name)
