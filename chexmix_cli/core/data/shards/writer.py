"""Writes a shard set, and goes on with one that was not finished, behind the last inputs that were settled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.shards import files
from chexmix_cli.core.data.shards.files import IndexEntry, ShardHeader
from chexmix_cli.core.data.shards.identity import ShardIdentity
from chexmix_cli.core.data.shards.journal import Journal, JournalEntry, ShardTokens
from chexmix_cli.core.data.shards.reader import ShardSet
from chexmix_cli.core.errors import DataError, Reason, VocabularyError
from chexmix_cli.core.files import LOCK_FILE, atomic_write, held, write_json


class ShardWriter:
    """Writes one shard set. Inputs come in order: :meth:`skip` for each until it says None, then :meth:`add`.

    The same inputs give the same bytes, however often the writing was interrupted. What is added goes to a journal with
    :meth:`settle`, where the shard it belongs to is not yet whole; a run that begins again goes on behind it.

    Args:
        folder: of the set; made if missing.
        identity: of the set; one that was begun must have the same.

    Attributes:
        num_finished: inputs that are in whole shards or in the journal.
        num_begun: those of them that are in no whole shard.

    Raises:
        DataError: if the folder holds something else, a set of another identity, or a damaged one.
        MachineError: if another process writes to it.
    """

    def __init__(self, folder: Path, identity: ShardIdentity) -> None:
        self.folder, self.identity = folder, identity
        _refuse_foreign(folder)  # before a lock is put into it
        self._hold = ExitStack()
        self._hold.enter_context(held(folder))
        try:
            finished = _begin(folder, identity)
        except BaseException:
            self.close()
            raise
        self._totals = finished.totals
        self._passed, self._num_in_shards = 0, finished.num_records
        self._number, self._num_rows = len(finished.shards), len(finished)
        self._ids_hash = finished.shards[-1].header.ids_hash if finished.shards else files.FIRST_HASH
        #: The last shard covers less than a whole one: nothing may follow it.
        self._has_end = self._num_in_shards < self._number * identity.rows or bool(finished.totals)
        self._clear()
        self._journal = Journal(folder)
        for entry, tokens in self._journal.read(self._number, most=identity.rows - 1):
            self._take(entry, tokens)
        self._num_settled = self.num_begun = len(self._entries)
        self.num_finished = self._num_in_shards + self.num_begun
        self._finished_entries: Iterator[IndexEntry] = chain(finished.index(), tuple(self._entries))

    def close(self) -> None:
        """Let other processes write to the set; a finished one has done so."""
        self._hold.close()

    def _clear(self) -> None:
        self._entries: list[IndexEntry] = []
        self._rows: list[ShardTokens] = []
        self._num_settled = 0

    def skip(self, order: int, record_id: str) -> IndexEntry | None:
        """Return the entry of the next input if a finished shard or the journal has it, else None.

        Raises:
            DataError: if another input was there when the shard was written.
        """
        entry = next(self._finished_entries, None)
        if entry is None:
            return None
        if (entry["order"], entry["id"]) != (order, record_id):
            raise self._other_inputs(
                f"input {order} is {record_id!r}", f"input {entry['order']}, {entry['id']!r}, as when they were begun"
            )
        self._passed += 1
        return entry

    def add(self, order: int, fields: IndexEntry, tokens: ShardTokens | None) -> tuple[str, int | None]:
        """Take the next input and return its place: the shard's name, and its row if it has tokens.

        Args:
            order: the input's place in the whole list.
            fields: ``id``, ``status`` and what else the index says of it.
            tokens: None for an input that gave none.

        Raises:
            VocabularyError: on codes that are not the identity's.
            DataError: if the set ends before this input.
        """
        if self._has_end or self._passed < self.num_finished:
            raise self._other_inputs(
                f"there is an input {order}", f"{self.num_finished} inputs, as when they were begun"
            )
        row = None if tokens is None else len(self._rows)
        head = {"id": fields["id"], "order": order, "status": fields["status"], "row": row}
        self._take({**head, **fields}, None if tokens is None else self._packed(tokens))
        name = files.shard_name(self._number)
        if len(self._entries) == self.identity.rows:
            self._write_shard()
        return name, row

    def settle(self) -> None:
        """Put what was added into the journal: a run that begins again may go on from here, with the same result."""
        if self._num_settled < len(self._entries):
            tokens = (None if entry["row"] is None else self._rows[entry["row"]] for entry in self._entries)
            added: list[JournalEntry] = list(zip(self._entries, tokens, strict=True))
            self._journal.append(self._number, added[self._num_settled :])
            self._num_settled = len(self._entries)

    def _take(self, entry: IndexEntry, tokens: ShardTokens | None) -> None:
        self._entries.append(entry)
        if tokens is not None:
            self._rows.append(tokens)

    def finish(self, *, num_listed: int, list_hash: str) -> ShardSet:
        """Write what is left and the end of the set.

        Args:
            num_listed: inputs of the whole list, those of other parts too.
            list_hash: of the whole list; parts of one list have the same.

        Raises:
            DataError: if finished shards cover inputs that did not come.
        """
        if self._passed < self.num_finished:
            raise self._other_inputs(f"{self._passed} inputs", f"at least {self.num_finished}, as when they were begun")
        if self._entries:
            self._write_shard()
        totals = {
            "num_shards": self._number,
            "num_records": self._num_in_shards,
            "num_rows": self._num_rows,
            "ids_hash": self._ids_hash,
            "num_listed": num_listed,
            "list_hash": list_hash,
        }
        if self._totals and self._totals != totals:
            raise self._other_inputs(f"a list of {num_listed}", f"the {self._totals['num_listed']} they were made of")
        if not self._totals:
            _write_set_file(self.folder, self.identity, totals)
        self.close()
        return ShardSet.open(self.folder)

    def _packed(self, tokens: ShardTokens) -> ShardTokens:
        codes = np.asarray(tokens.codes)
        wanted = self.identity.tokens_per_image
        if codes.shape != (wanted,) or codes.dtype.kind not in "iu":
            raise VocabularyError(f"an image of codes {codes.shape}", where="shards", expected=f"{wanted} codes")
        if int(codes.min()) < 0 or int(codes.max()) >= self.identity.num_codes:
            raise VocabularyError("an image code is out of range", where="shards")
        text = np.asarray(tokens.text, np.int64)
        if len(text) and (int(text.min()) < 0 or int(text.max()) >= self.identity.num_text):
            raise VocabularyError("a text id is out of range", where="shards")
        labels = {name: value for name, value in (tokens.labels or {}).items() if value is not None}
        return ShardTokens(codes.astype(np.uint16), text.tolist(), labels)

    def _write_shard(self) -> None:
        tensors, label_names = self._stack()
        index = files.encode_index(self._entries)
        before, self._ids_hash = self._ids_hash, files.chained_hash(self._ids_hash, self._entries)
        header = ShardHeader(
            identity=self.identity,
            number=self._number,
            num_records=len(self._entries),
            num_rows=len(self._rows),
            ids_before=before,
            ids_hash=self._ids_hash,
            label_names=label_names,
            index_sha256=hashlib.sha256(index).hexdigest(),
            index_bytes=len(index),
            data_sha256=files.data_sha256(tensors.values()),
        )
        path = self.folder / files.shard_name(self._number)
        # The index goes first: a shard is finished when its tensors are there.
        with atomic_write(files.index_path(path)) as file:
            file.write(index)
        files.write_tensors(path, tensors, header)
        self._journal.clear()
        self._number += 1
        self._num_rows += len(self._rows)
        self._num_in_shards += len(self._entries)
        self._clear()

    def _stack(self) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
        """Return the tensors of what is waiting, in file order, and the findings its labels are of."""
        num_rows = len(self._rows)
        codes = np.empty((num_rows, self.identity.tokens_per_image), "<u2")
        offsets = np.zeros(num_rows + 1, "<i8")
        # A finding that no row states has no column: null and absent mean the same.
        names = tuple(sorted({name for tokens in self._rows for name in tokens.labels or ()}))
        labels = np.full((num_rows, len(names)), files.NULL_LABEL, np.int8)
        for row, tokens in enumerate(self._rows):
            codes[row] = tokens.codes
            offsets[row + 1] = offsets[row] + len(tokens.text)
            known = tokens.labels or {}
            labels[row] = np.array([known.get(name, files.NULL_LABEL) for name in names], np.int8)
        text = np.empty(int(offsets[-1]), "<u2" if self.identity.num_text <= 1 << 16 else "<u4")
        for row, tokens in enumerate(self._rows):
            text[offsets[row] : offsets[row + 1]] = tokens.text
        tensors = {"codes": codes, "text_ids": text, "text_offsets": offsets, "labels": labels}
        return files.in_file_order(tensors), names

    def _other_inputs(self, what: str, expected: str) -> DataError:
        return DataError(
            Reason.WRONG_TOKENS,
            f"the inputs are not those of the shards: {what}",
            where=str(self.folder),
            expected=expected,
            hint="give the same inputs in the same order, or another folder",
        )


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or (folder / files.SET_FILE).exists():
        return
    if any(path.name != LOCK_FILE and not path.name.endswith(".partial") for path in folder.iterdir()):
        raise DataError(Reason.UNKNOWN_FORMAT, "is not empty and holds no shard set", where=str(folder))


def _begin(folder: Path, identity: ShardIdentity) -> ShardSet:
    """Return what a folder has of the set, after making it ready for the rest."""
    if not (folder / files.SET_FILE).exists():
        _write_set_file(folder, identity, None)
    found = ShardSet.open(folder, allow_partial=True)
    found.require(**identity.to_dict())
    return found


def _write_set_file(folder: Path, identity: ShardIdentity, totals: dict[str, Any] | None) -> None:
    write_json(folder / files.SET_FILE, {"identity": identity.to_dict(), "complete": totals})
