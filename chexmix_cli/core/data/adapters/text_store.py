"""Texts by key, on disk: joins a large table of reports without holding it in memory."""

from __future__ import annotations

import json
import tempfile
from types import TracebackType


class TextStore:
    """Lists of texts (or None) in a temporary file that goes when the store is closed; only keys are in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="chexmix-")  # noqa: SIM115  (closed by close)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def put(self, key: str, texts: list[str | None]) -> None:
        """Keep a list of texts; a key that is there already gets the new one."""
        data = json.dumps(texts).encode()
        self._file.seek(self._end)
        self._file.write(data)
        self._places[key] = (self._end, len(data))
        self._end += len(data)

    def get(self, key: str) -> list[str | None] | None:
        """Return the texts of a key, None if there is none."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place[0])
        texts: list[str | None] = json.loads(self._file.read(place[1]))
        return texts

    def close(self) -> None:
        """Drop everything."""
        self._file.close()

    def __enter__(self) -> TextStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
