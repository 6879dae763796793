"""The list of files of the records that failed: the one output that names paths, for its owner only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from chexmix_cli.core.errors import MachineError, counted

if TYPE_CHECKING:
    from chexmix_cli.commands.shared.console import Console
    from chexmix_cli.core.data.sources import Source


class Quarantine:
    """JSON Lines ``id, code, message, files [{path, member}]``, written as they come; readable by its owner only."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path, self._console = path, console
        self.num_lines = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            # A file that was there keeps its mode otherwise.
            os.chmod(path, 0o600)
        except OSError as error:
            raise MachineError(f"cannot be written ({error.strerror})", where="--quarantine") from None
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def add(self, record_id: str, error: dict[str, str], sources: Iterable[Source]) -> None:
        """Take a record that was not done."""
        files: list[dict[str, Any]] = []
        for source in sources:
            member = {} if source.member is None else {"member": source.member}
            files.append({"path": str(source.path.absolute()), **member})
        line = {"id": record_id, "code": error["code"], "message": error["message"], "files": files}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.num_lines += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.num_lines:
            self._console.note(
                f"{self._path} names the files of {counted(self.num_lines, 'record')}: paths may name patients"
            )
