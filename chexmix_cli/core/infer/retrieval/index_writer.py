"""Adds vectors to an index: existing ones stay, what is finished is final, and no id is added twice."""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from chexmix_cli.core.errors import DataError, MachineError, Reason
from chexmix_cli.core.files import LOCK_FILE, atomic_write, held, write_json
from chexmix_cli.core.infer.retrieval.vector_index import (
    INDEX_FILE,
    KINDS,
    SCHEMA,
    IndexIdentity,
    Item,
    Kind,
    VectorIndex,
    part_metadata,
    part_path,
    part_tensors,
)


def digest_of(content: bytes) -> int:
    """Return a digest of what is embedded, that fits an int64."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)


class IndexWriter:
    """Writes to one index; a context manager, whose end writes what is left.

    Args:
        folder: of the index; made if missing.
        identity: of the index; an existing one must have the same.
        rows: vectors of one file.

    Raises:
        DataError: if the folder holds something else, or an index of another identity.
        MachineError: if another process writes to it, or the folder cannot be made.
    """

    def __init__(self, folder: Path, identity: IndexIdentity, *, rows: int) -> None:
        self._folder, self._identity, self._rows = folder, identity, rows
        self._hold = ExitStack()
        try:
            self._hold.enter_context(held(folder))
        except OSError as error:
            raise MachineError(f"cannot be written ({error.strerror})", where=str(folder)) from None
        try:
            self._known, self._numbers = self._begin()
        except BaseException:
            self._hold.close()
            raise
        self._waiting: dict[Kind, list[Item]] = {kind: [] for kind in KINDS}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also when it ends early: what came out well need not be done again.
        try:
            for each in KINDS:
                self._write(each)
        finally:
            self._hold.close()

    def holds(self, kind: Kind, item_id: str, digest: int) -> bool:
        """Return whether an item is indexed already.

        Raises:
            DataError: ``DUPLICATE``, if another one of this id is.
        """
        known = self._known[kind].get(item_id)
        if known is not None and known != digest:
            raise DataError(
                Reason.DUPLICATE,
                f"the index has another {kind.removesuffix('s')} of this id",
                expected="an id for each image",
                hint="make a new index where images or reports have changed",
            )
        return known is not None

    def add(self, kind: Kind, item: Item) -> None:
        """Take an item that :meth:`holds` has not."""
        assert item.id not in self._known[kind], item.id
        self._known[kind][item.id] = item.digest
        self._waiting[kind].append(item)
        if len(self._waiting[kind]) == self._rows:
            self._write(kind)

    def _begin(self) -> tuple[dict[Kind, dict[str, int]], dict[Kind, int]]:
        path = self._folder / INDEX_FILE
        if not path.exists():
            names = [found.name for found in self._folder.iterdir()]
            if any(name != LOCK_FILE and not name.endswith(".partial") for name in names):
                raise DataError(Reason.UNKNOWN_FORMAT, "is not empty and holds no index", where=str(self._folder))
            values = {"schema": SCHEMA, "identity": dataclasses.asdict(self._identity)}
            write_json(path, values)
        index = VectorIndex.open(self._folder)
        index.identity.require(str(self._folder), **dataclasses.asdict(self._identity))
        known = {kind: dict(zip(index.ids(kind), index.digests(kind), strict=True)) for kind in KINDS}
        return known, {kind: index.num_parts(kind) for kind in KINDS}

    def _write(self, kind: Kind) -> None:
        from safetensors.numpy import save

        items = self._waiting[kind]
        if not items:
            return
        content = save(part_tensors(items, kind, self._identity), metadata=part_metadata(self._identity))
        path = part_path(self._folder, kind, self._numbers[kind])
        try:
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            raise MachineError(f"cannot be written ({error.strerror})", where=str(path)) from None
        self._numbers[kind] += 1
        items.clear()
