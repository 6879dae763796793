"""The folder of a run: who may write to it, and RUN/cache.

The cache is what a run makes of its data before its first step and reads in every other. It holds what the manifest's
films show, so it does not outlive the training.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chexmix_cli.core.files import held
from chexmix_cli.core.train.distributed import barrier, is_main

CACHE = "cache"
#: Digits of a digest: chance does not make two sets of data alike.
_DIGITS = 16


class RunFolder:
    """A run's folder, held by rank 0 from the first thing that is written into it to the end of the block.

    What is refused before that leaves no folder behind.

    Args:
        path: of the folder; made when it is held.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def hold(self) -> None:
        """Keep other runs out of the folder from here on.

        Raises:
            MachineError: if another one holds it.
        """
        if is_main() and not self._is_held:
            self._stack.enter_context(held(self.path))
            self._is_held = True

    def open_cache(self, facts: Mapping[str, Any]) -> Path:
        """Return the folder for what is made of these data in this way; what was made of others is removed.

        Every rank calls it.

        Args:
            facts: all that decides the contents; as JSON.
        """
        self.hold()
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        folder = self.path / CACHE / digest
        if is_main() and folder.parent.exists():
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other)
        barrier()
        return folder

    def remove_cache(self) -> None:
        """Remove what a run kept while it was not done."""
        if is_main():
            shutil.rmtree(self.path / CACHE, ignore_errors=True)
