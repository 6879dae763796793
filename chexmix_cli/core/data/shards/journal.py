"""What a shard that is not yet whole holds, on disk: a line for each batch, so that a killed run loses no batch.

A line that was cut off, or is no longer readable, ends what is read: its inputs are done again. Lines are not forced
through to the device: they outlive the process, and a machine that loses power goes on behind its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.shards.files import IndexEntry

JOURNAL_FILE = "unfinished.jsonl"


@dataclass(frozen=True, slots=True)
class ShardTokens:
    """What an image became.

    Attributes:
        codes: image codes.
        text: token ids of its report; empty if it has none.
        labels: finding to 1, 0, -1 or None.
    """

    codes: Sequence[int] | NDArray[Any]
    text: Sequence[int] = ()
    labels: Mapping[str, int | None] | None = None


JournalEntry = tuple[IndexEntry, ShardTokens | None]


class Journal:
    """The journal of a shard set.

    Args:
        folder: of the set.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        #: Where the next line begins: what stands behind was never whole.
        self._end = 0

    def read(self, number: int, *, most: int) -> list[JournalEntry]:
        """Return the inputs of shard ``number`` that are in the journal, at most so many; drop another shard's."""
        found: list[JournalEntry] = []
        if not self._path.exists():
            return found
        with self._path.open("rb") as lines:
            for line in lines:
                batch = _batch(line, number)
                if batch is None or len(found) + len(batch) > most:
                    break
                found += batch
                self._end += len(line)
        if not found:
            self.clear()
        return found

    def append(self, number: int, batch: Sequence[JournalEntry]) -> None:
        """Write a batch of inputs of shard ``number``."""
        lines = [
            [entry, None if tokens is None else [np.asarray(tokens.codes).tolist(), list(tokens.text), tokens.labels]]
            for entry, tokens in batch
        ]
        values = {"shard": number, "sha256": _digest(lines), "inputs": lines}
        line = json.dumps(values, allow_nan=False).encode("ascii") + b"\n"
        with self._path.open("r+b" if self._end else "wb") as file:
            file.seek(self._end)
            file.truncate()
            file.write(line)
        self._end += len(line)

    def clear(self) -> None:
        """Remove the journal: its shard is whole."""
        self._path.unlink(missing_ok=True)
        self._end = 0


def _batch(line: bytes, number: int) -> list[JournalEntry] | None:
    """Return the inputs of a line; None if it is cut off, damaged, or of another shard."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else {}
        if values.get("shard") != number or values["sha256"] != _digest(values["inputs"]):
            return None
        return [
            (entry, None if tokens is None else ShardTokens(np.asarray(tokens[0], np.uint16), tokens[1], tokens[2]))
            for entry, tokens in values["inputs"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(inputs: Any) -> str:
    """Return the digest of inputs as JSON has them: a damaged number would be a wrong code that nobody sees."""
    return hashlib.sha256(json.dumps(inputs, allow_nan=False).encode("ascii")).hexdigest()
