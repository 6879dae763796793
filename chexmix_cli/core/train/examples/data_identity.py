"""What a run learns from, as digests: a checkpoint keeps them, and is resumed with the same data only.

A run that goes on with other rows, films, labels or words compares its validations with those of another set, and its
best model with a model of other data. Digests say that something changed and where; no content can be read from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.shards import ShardSet
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: Digits of a digest: chance does not make two sets of data alike.
_DIGITS = 16
_SPLITS = ("train", "val")


def manifest_identity(
    rows: Mapping[str, Sequence[ManifestRow]], *, has_labels: bool = False, text_tokenizer: str | None = None
) -> dict[str, Any]:
    """Return digests of a manifest's rows, by split; folders and the manifest's name do not count.

    Args:
        rows: by split.
        has_labels: labels are learnt.
        text_tokenizer: its hash, where reports are learnt.

    Raises:
        DataError: if a film cannot be read.
    """
    splits = {}
    for split, found in rows.items():
        values: dict[str, Any] = {
            "rows": len(found),
            "ids": _digest(row.id.encode() for row in found),
            "films": _digest(_file_digest(row.file, row.id) for row in found),
        }
        if has_labels:
            values["labels"] = _digest(json.dumps(dict(row.labels), sort_keys=True).encode() for row in found)
        if text_tokenizer is not None:
            values["reports"] = _digest((row.report or "").encode() for row in found)
        splits[split] = values
    return splits if text_tokenizer is None else {**splits, "text_tokenizer": text_tokenizer}


def shard_identity(shards: ShardSet) -> dict[str, Any]:
    """Return digests of a shard set's train and val rows; what made their tokens is held against the weights."""
    splits = {}
    for split in _SPLITS:
        rows = [int(row) for row in shards.rows_of(split)]
        entries = (entry for entry in shards.index() if entry["status"] == "ok")
        splits[split] = {
            "rows": len(rows),
            "ids": _digest(entry["id"].encode() for entry in entries if entry.get("split") == split),
            "films": _digest(shards.codes(row).tobytes() for row in rows),
            "reports": _digest(shards.text(row).tobytes() for row in rows),
        }
    return splits


def _digest(parts: Iterable[bytes]) -> str:
    """Return the digest of a sequence; two sequences that run together alike are told apart."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:_DIGITS]


def _file_digest(path: Path, where: str) -> bytes:
    source = Source.named(path)
    if source.member is not None:
        return hashlib.sha256(source.read(InputSettings().max_file_mb << 20)).digest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(Reason.NOT_FOUND, f"the film cannot be read ({error.strerror})", where=where) from None
